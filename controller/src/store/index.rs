//! Secondary indexes: which objects are found by which word, so that nothing walks all tenants.

use super::entry::Entry;
use holdfast_api::resources::Kind;
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

/// What an object can be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    /// Tokens by their public id.
    TokenId,
    /// Registrations of all tenants by name, which derives from the device's key.
    Device,
    /// Registrations and edges by WireGuard key.
    WireguardKey,
    /// Registrations and edges by overlay address.
    Overlay,
    /// Sites by prefix, in the form of [`prefix_term`].
    Prefix,
    /// Registrations by `namespace/site`.
    SiteRegistrations,
    /// Node statuses by `namespace/site`.
    SiteStatuses,
    /// Tunnel peers by each edge that may serve them.
    EdgePeers,
}

/// Annotation of a registration: the overlay address of its node.
pub const OVERLAY_ANNOTATION: &str = "holdfast.dev/overlay-address";

/// A prefix so written that the order of texts is the order of addresses:
/// `4` or `6`, the network address in hex, `/`, the length in two or three digits.
pub fn prefix_term(prefix: &IpNet) -> String {
    match prefix.network() {
        IpAddr::V4(a) => format!("4{:08x}/{:03}", u32::from(a), prefix.prefix_len()),
        IpAddr::V6(a) => format!("6{:032x}/{:03}", u128::from(a), prefix.prefix_len()),
    }
}

/// Every word that leads to `entry`.
pub(super) fn terms(entry: &Entry) -> Vec<(Index, String)> {
    let mut terms = Vec::new();
    let mut add = |index, term: &str| {
        if !term.is_empty() {
            terms.push((index, term.to_owned()));
        }
    };
    let in_namespace = |name: &str| match name {
        "" => String::new(),
        name => format!("{}/{name}", entry.key.namespace),
    };
    match entry.key.kind {
        Kind::Token => add(Index::TokenId, entry.text("/status/id")),
        Kind::Registration => {
            add(Index::Device, &entry.key.name);
            // A retired or rejected device keeps nothing that others could want.
            if !matches!(entry.text("/status/phase"), "Retired" | "Rejected") {
                add(Index::WireguardKey, entry.text("/spec/wireguardPublicKey"));
            }
            add(Index::Overlay, entry.annotation(OVERLAY_ANNOTATION));
            add(Index::SiteRegistrations, &in_namespace(entry.text("/status/site")));
        }
        Kind::Site => {
            if let Ok(prefix) = entry.text("/spec/prefix").parse::<IpNet>() {
                add(Index::Prefix, &prefix_term(&prefix));
            }
        }
        Kind::NodeStatus => add(Index::SiteStatuses, &in_namespace(entry.text("/status/site"))),
        Kind::RegionalEdge => {
            add(Index::WireguardKey, entry.text("/spec/publicKey"));
            add(Index::Overlay, entry.text("/spec/overlayAddress"));
        }
        Kind::TunnelPeer => {
            let edges = entry.value.pointer("/spec/edges").and_then(Value::as_array);
            for edge in edges.into_iter().flatten().filter_map(Value::as_str) {
                add(Index::EdgePeers, edge);
            }
        }
        Kind::NodeConfig | Kind::Release => {}
    }
    terms
}
