//! `RegionalEdge`: a point of presence.

use super::Place;
use crate::meta::Condition;
use crate::tunnel::PublicKey;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What an edge offers. The edge writes it when it registers; the operator may change it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionalEdgeSpec {
    /// Where it is.
    pub place: Place,
    /// Edges of one domain go down together.
    pub failure_domain: String,
    /// Where WireGuard datagrams go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Where UDP probes go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<SocketAddr>,
    /// WireGuard key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// Address inside the tunnels; given by the controller when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_address: Option<IpAddr>,
    /// Where the other edges reach this one over the backbone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<SocketAddr>,
    /// What sites reach through this edge.
    pub routes: Vec<IpNet>,
    /// Sites it should serve at the most; 0 for no limit.
    pub capacity: u32,
    /// Not offered to sites while true.
    pub drained: bool,
}

/// What is known of an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionalEdgeStatus {
    /// Nodes that it may serve.
    pub peers: u32,
    /// Nodes whose tunnel passes data.
    pub peers_up: u32,
    /// When it last reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<jiff::Timestamp>,
    /// Details.
    pub conditions: Vec<Condition>,
}
