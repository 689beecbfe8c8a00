//! What an edge says of itself: `GET /v1/state` and `GET /v1/metrics` on its Unix socket.

use crate::nodes::Refusal;
use holdfast_api::Reason;
use holdfast_api::tunnel::{BfdState, Pages, TunnelKind};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// The edge as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeState {
    /// Its name.
    pub name: String,
    /// Firmware version.
    pub version: String,
    /// Whether it is registered, and whether the controller answers.
    pub controller: ControllerState,
    /// The data plane.
    #[serde(flatten)]
    pub data: DataState,
}

/// The talk with the controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerState {
    /// Its address.
    pub url: String,
    /// Whether this edge has a certificate.
    pub admitted: bool,
    /// Whether it answered last time.
    pub reachable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataState {
    /// Address inside the tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<IpAddr>,
    /// Name of the interface.
    pub link: String,
    /// How tunnels are made; none while there is no device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<TunnelKind>,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// The pages that packets are in; none where the kernel has the tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_pages: Option<Pages>,
    /// The nodes that may be served.
    pub nodes: Vec<NodeState>,
    /// The other edges.
    pub edges: Vec<NeighbourState>,
    /// What was not granted to peers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// What could not be changed in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Changes of routes since the start.
    pub switches: u64,
    /// Microseconds that the last change of routes after a change of liveness took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_switch_us: Option<u64>,
    /// Handshake messages; none where the kernel answers them, which does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<Handshakes>,
}

/// What became of WireGuard's handshake messages, since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Handshakes {
    /// Worked on.
    pub taken: u64,
    /// Answered with a cookie under load.
    pub cookies: u64,
    /// Dropped: forged, or too many.
    pub dropped: u64,
}

impl DataState {
    /// Nodes whose tunnel passes data.
    pub fn nodes_up(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == BfdState::Up).count()
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// `tenant/node`.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its address inside the tunnel.
    pub overlay: IpAddr,
    /// What is behind it.
    pub prefixes: Vec<IpNet>,
    /// Whether data passes both ways.
    pub state: BfdState,
    /// Milliseconds since `state` last changed.
    pub since_ms: u64,
    /// Which way packets to it go.
    pub way: Way,
    /// Where its datagrams come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Seconds since the last WireGuard handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_age_secs: Option<u64>,
}

/// Which way packets to a node go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "over")]
pub enum Way {
    /// Into its tunnel.
    Tunnel,
    /// Over the backbone.
    Backbone {
        /// To this edge.
        edge: String,
    },
    /// Nowhere.
    Nowhere,
}

/// Another edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighbourState {
    /// Its name.
    pub edge: String,
    /// Where it is on the backbone.
    pub backbone: IpAddr,
    /// Whether it is heard.
    pub heard: bool,
    /// Nodes that it says it has up.
    pub nodes_up: usize,
}

impl EdgeState {
    /// In Prometheus' text format (version 0.0.4).
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, samples: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind_of(name));
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let one = |value: u64| [(String::new(), value)];
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let data = &self.data;
        let reason = data.reason.or(self.controller.reason);
        gauge(
            "holdfast_edge_controller_reachable",
            "The controller answers.",
            &one(self.controller.reachable.into()),
        );
        gauge("holdfast_edge_nodes", "Nodes that may be served.", &one(count(data.nodes.len())));
        gauge(
            "holdfast_edge_nodes_up",
            "Nodes whose tunnel passes data.",
            &one(count(data.nodes_up())),
        );
        gauge(
            "holdfast_edge_refusals",
            "Wishes of peers that were refused.",
            &one(count(data.refusals.len())),
        );
        gauge("holdfast_edge_route_switches_total", "Changes of routes.", &one(data.switches));
        let why: Vec<_> = reason.iter().map(|r| (labels(&[("reason", r.code())]), 1)).collect();
        gauge("holdfast_edge_problem", "What is wrong, by reason code.", &why);
        let handshakes = |h: &Handshakes| {
            let results = [("taken", h.taken), ("cookie", h.cookies), ("dropped", h.dropped)];
            results.map(|(result, count)| (labels(&[("result", result)]), count))
        };
        gauge(
            "holdfast_edge_handshakes_total",
            "Handshake messages of WireGuard, by what became of them.",
            &data.handshakes.iter().flat_map(handshakes).collect::<Vec<_>>(),
        );
        let heard: Vec<_> =
            data.edges.iter().map(|e| (labels(&[("edge", &e.edge)]), e.heard.into())).collect();
        gauge("holdfast_edge_neighbour_heard", "Another edge is heard.", &heard);
        let traffic = |bytes: fn(&NodeState) -> u64| -> Vec<_> {
            // By site, so that the number of series grows with sites and not with nodes.
            let mut sites: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for node in &data.nodes {
                let tenant = node.node.split('/').next().unwrap_or_default();
                *sites.entry((tenant, &node.site)).or_default() += bytes(node);
            }
            sites
                .iter()
                .map(|((t, s), sum)| (labels(&[("tenant", t), ("site", s)]), *sum))
                .collect()
        };
        gauge(
            "holdfast_edge_rx_bytes_total",
            "Bytes from the nodes of a site.",
            &traffic(|n| n.rx_bytes),
        );
        gauge(
            "holdfast_edge_tx_bytes_total",
            "Bytes to the nodes of a site.",
            &traffic(|n| n.tx_bytes),
        );
        text
    }
}

fn kind_of(name: &str) -> &'static str {
    if name.ends_with("_total") { "counter" } else { "gauge" }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_sum_up_sites_and_escape_labels() {
        let node = |node: &str, rx_bytes| NodeState {
            node: node.into(),
            site: "sh\"op".into(),
            overlay: [100, 64, 1, 1].into(),
            prefixes: Vec::new(),
            state: BfdState::Up,
            since_ms: 0,
            way: Way::Tunnel,
            endpoint: None,
            rx_bytes,
            tx_bytes: 0,
            handshake_age_secs: None,
        };
        let data = DataState {
            nodes: vec![node("acme/a", 3), node("acme/b", 4)],
            reason: Some(Reason::NetApplyFailed),
            handshakes: Some(Handshakes { taken: 5, cookies: 2, dropped: 1 }),
            ..DataState::default()
        };
        let text = EdgeState { data, ..EdgeState::default() }.metrics();
        for line in [
            "holdfast_edge_nodes_up 2",
            "holdfast_edge_rx_bytes_total{tenant=\"acme\",site=\"sh\\\"op\"} 7",
            "# TYPE holdfast_edge_rx_bytes_total counter",
            "holdfast_edge_handshakes_total{result=\"taken\"} 5",
            "holdfast_edge_handshakes_total{result=\"cookie\"} 2",
            "holdfast_edge_handshakes_total{result=\"dropped\"} 1",
            "holdfast_edge_problem{reason=\"net.apply-failed\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
