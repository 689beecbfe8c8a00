//! `TunnelPeer`: what an edge must know of a node to end its tunnel, and no more.
//!
//! The controller renders one for each admitted node. An edge may list and watch those, across
//! tenants, whose `edges` name it.

use crate::tunnel::{BfdTimers, PublicKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// One node as an edge sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelPeerSpec {
    /// The node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// Its address inside the tunnels.
    pub overlay_address: IpAddr,
    /// What is behind it.
    pub site_prefixes: Vec<IpNet>,
    /// Edges that may serve it, by name.
    pub edges: Vec<String>,
    /// Liveness timers.
    pub bfd: BfdTimers,
}

impl Default for TunnelPeerSpec {
    fn default() -> Self {
        TunnelPeerSpec {
            node: String::new(),
            site: String::new(),
            public_key: PublicKey([0; 32]),
            overlay_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            site_prefixes: Vec::new(),
            edges: Vec::new(),
            bfd: BfdTimers::default(),
        }
    }
}

/// Nothing is reported here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeerStatus {}
