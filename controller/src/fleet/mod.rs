//! The controllers: what makes nodes out of registrations and keeps derived objects true.
//!
//! Level-triggered: each function looks at what is, works out what should be (pure functions in
//! [`admission`], [`pools`], [`render`], [`health`]) and writes the difference, so that running it
//! again changes nothing. [`Fleet::settle`] runs inside the transaction of a write for everything
//! that the write touched at its own site; [`task::run`] does afterwards, in small transactions,
//! what concerns many sites or comes from status.

pub mod admission;
pub mod datastore;
pub mod health;
mod kubernetes;
mod lan;
mod left;
pub mod pools;
pub mod render;
pub mod task;

mod object;
mod presence;
mod registration;
mod retire;
mod settle;
mod site;

#[cfg(test)]
mod tests;

pub use object::save;
pub(crate) use object::seconds;
use object::to_value;
pub use presence::Presence;

use crate::trust::Authority;
use ipnet::{IpNet, Ipv4Net};
use jiff::SignedDuration;
use pools::{AddressPool, PrefixPool};
use std::net::Ipv4Addr;
use tokio::sync::watch;

/// Annotation of a registration: SHA-256 of the request that its certificate answers.
pub const SIGNED_ANNOTATION: &str = "holdfast.dev/signed-request";
/// Annotation of a registration: the site that its token names.
pub const TOKEN_SITE_ANNOTATION: &str = "holdfast.dev/token-site";
/// Annotation of a registration: the labels that its token gives, as JSON.
pub const TOKEN_LABELS_ANNOTATION: &str = "holdfast.dev/token-labels";
/// Annotation of a registration: the node whose place its token gives.
pub const TOKEN_REPLACES_ANNOTATION: &str = "holdfast.dev/token-replaces";
/// Annotation of a site: names of nodes that it had, oldest first, as JSON.
pub const LEFT_ANNOTATION: &str = "holdfast.dev/left-nodes";
/// Annotation of a site: which nodes may hold the datastore of its Kubernetes, as JSON.
pub const DATASTORE_ANNOTATION: &str = "holdfast.dev/datastore";
/// Annotation of an edge: `namespace/name` of the registration that it comes from.
pub const REGISTRATION_ANNOTATION: &str = "holdfast.dev/registration";
/// Annotation of an edge: what its registration offered when it was last taken over, as JSON.
pub const OFFERED_ANNOTATION: &str = "holdfast.dev/offered";
/// Annotation of a node status: when the controller received it.
pub const HEARD_ANNOTATION: &str = "holdfast.dev/heard-at";
/// Label of what is rendered for a site.
pub const SITE_LABEL: &str = "holdfast.dev/site";

/// Numbers of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSettings {
    /// Overlay addresses of nodes come from here.
    pub node_overlay: IpNet,
    /// Overlay addresses of edges come from here.
    pub edge_overlay: IpNet,
    /// Prefixes of sites come from here.
    pub site_pool: IpNet,
    /// Length of a site's prefix, in bits.
    pub site_prefix_bits: u8,
    /// Life of the certificates of nodes and edges.
    pub certificate_life: SignedDuration,
    /// A site counts as offline when nothing was heard of it for so long.
    pub offline_after: SignedDuration,
}

impl Default for FleetSettings {
    fn default() -> Self {
        let net = |a, b, bits| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), bits));
        FleetSettings {
            node_overlay: net(100, 64, 11),
            edge_overlay: net(100, 127, 16),
            site_pool: net(10, 128, 9),
            site_prefix_bits: 24,
            certificate_life: SignedDuration::from_hours(24),
            // Nodes watch while they are connected, and the watch counts as hearing of them.
            offline_after: SignedDuration::from_secs(180),
        }
    }
}

/// What the controllers work with.
pub struct Fleet {
    /// The CA.
    pub authority: Authority,
    /// The numbers.
    pub settings: FleetSettings,
    /// When nodes were last heard.
    pub presence: Presence,
    /// Changes whenever a node or an edge lost its admission.
    pub revoked: watch::Sender<u64>,
    nodes: AddressPool,
    edges: AddressPool,
    prefixes: PrefixPool,
}

impl Fleet {
    /// A fleet with this CA and these numbers.
    pub fn new(authority: Authority, settings: FleetSettings) -> Self {
        Fleet {
            nodes: AddressPool::new(settings.node_overlay),
            edges: AddressPool::new(settings.edge_overlay),
            prefixes: PrefixPool::new(settings.site_pool, settings.site_prefix_bits),
            presence: Presence::default(),
            revoked: watch::Sender::new(0),
            authority,
            settings,
        }
    }
}
