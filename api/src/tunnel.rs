//! What the manager, `tunneld` and everybody who looks at tunnels say to each other.
//!
//! [`TunnelsConfig`] is the file that the manager writes and `tunneld` follows;
//! [`TunnelsState`] is what `tunneld` publishes on its socket (`GET /v1/state`).

use crate::Reason;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// How a tunnel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelKind {
    /// WireGuard in the kernel.
    WireguardKernel,
    /// WireGuard in `tunneld`, over a TUN device.
    WireguardUserspace,
}

/// A WireGuard public key: 32 bytes, base64 in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use base64::Engine;
        f.write_str(&base64::engine::general_purpose::STANDARD.encode(self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(PublicKey)
            .ok_or("a WireGuard key is 32 bytes in base64")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A regional edge that a node may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeCandidate {
    /// Name of the `RegionalEdge`.
    pub name: String,
    /// Edges of one failure domain go down together: the two tunnels use different ones.
    pub failure_domain: String,
    /// Where WireGuard datagrams go.
    pub endpoint: SocketAddr,
    /// Where UDP probes of the round-trip time go.
    pub probe: SocketAddr,
    /// The edge's WireGuard key.
    pub public_key: PublicKey,
    /// The edge's address inside the tunnel, the other end of BFD.
    pub overlay_address: IpAddr,
}

/// Timers of BFD (RFC 5880 §6.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdTimers {
    /// Desired minimum transmit and required minimum receive interval, milliseconds, 10 to 10,000.
    pub interval_ms: u32,
    /// Detection multiplier, 1 to 255.
    pub multiplier: u8,
}

impl Default for BfdTimers {
    /// 3 × 100 ms.
    fn default() -> Self {
        BfdTimers { interval_ms: 100, multiplier: 3 }
    }
}

/// What a node should hold towards its regional edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelIntent {
    /// The node's address inside all of its tunnels.
    pub overlay_address: IpAddr,
    /// What is behind this node and reached through its tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub site_prefixes: Vec<IpNet>,
    /// What the node reaches through its tunnels.
    pub routes: Vec<IpNet>,
    /// The edges to choose from.
    pub candidates: Vec<EdgeCandidate>,
    /// Liveness timers.
    #[serde(default)]
    pub bfd: BfdTimers,
    /// How many tunnels to hold, 1 to 3.
    #[serde(default = "two")]
    pub want: u8,
}

fn two() -> u8 {
    2
}

/// The file that `tunneld` follows: `/run/holdfast/tunnels.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelsConfig {
    /// Generation of the ledger that this was made from.
    pub generation: u64,
    /// Where the node's WireGuard private key lies (base64 in a 0600 file).
    pub private_key: PathBuf,
    /// UDP port to listen on; 0 lets the kernel choose.
    #[serde(default)]
    pub listen_port: u16,
    /// Kinds by preference; the first that the machine can do is used.
    pub kinds: Vec<TunnelKind>,
    /// The pages that packets of tunnels in userspace are in, as far as the pool has them.
    #[serde(default)]
    pub packet_pages: Pages,
    /// What to hold.
    pub intent: TunnelIntent,
}

/// The pages of memory that packets of tunnels in userspace are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// The machine's usual ones.
    #[default]
    #[serde(rename = "usual")]
    Usual,
    /// 2 MiB, of the system's pool.
    #[serde(rename = "2M")]
    Huge2M,
    /// 1 GiB, of the system's pool.
    #[serde(rename = "1G")]
    Huge1G,
}

impl Pages {
    /// What they are called.
    pub fn name(self) -> &'static str {
        match self {
            Pages::Usual => "usual",
            Pages::Huge2M => "2M",
            Pages::Huge1G => "1G",
        }
    }
}

impl std::fmt::Display for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a size of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pages are usual, 2M or 1G")]
pub struct UnknownPages;

impl std::str::FromStr for Pages {
    type Err = UnknownPages;

    fn from_str(text: &str) -> Result<Self, UnknownPages> {
        let all = [Pages::Usual, Pages::Huge2M, Pages::Huge1G];
        all.into_iter().find(|pages| pages.name() == text).ok_or(UnknownPages)
    }
}

/// BFD's session state (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BfdState {
    /// Held down by an operator.
    AdminDown,
    /// Nothing is heard.
    Down,
    /// The other side is heard and does not hear us yet.
    Init,
    /// Data passes both ways.
    Up,
}

/// One tunnel as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelState {
    /// Name of the regional edge.
    pub edge: String,
    /// Name of the interface.
    pub link: String,
    /// How it is made.
    pub kind: TunnelKind,
    /// Whether data passes both ways.
    pub state: BfdState,
    /// Whether traffic uses it now.
    pub active: bool,
    /// Smoothed round-trip time of probes, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Bytes received in the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent into the tunnel.
    pub tx_bytes: u64,
    /// Seconds since the last WireGuard handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_age_secs: Option<u64>,
    /// The largest packet that passes there and back whole, bytes, where that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Milliseconds since `state` last changed.
    pub since_ms: u64,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// One candidate as measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateState {
    /// Name of the regional edge.
    pub edge: String,
    /// Smoothed round-trip time, microseconds; none while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Whether a tunnel to it is held.
    pub chosen: bool,
}

/// The last switch of traffic from one tunnel to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastFailover {
    /// Edge that traffic left, if there was one.
    #[serde(default)]
    pub from: Option<String>,
    /// Edge that traffic went to, if there was one.
    #[serde(default)]
    pub to: Option<String>,
    /// Microseconds from the decision until the kernel confirmed the new nexthop group.
    pub switch_us: u64,
    /// Seconds ago.
    pub age_secs: u64,
}

/// Says that there is something new to ask `tunneld` for: `GET /v1/changes?after=<version>` is
/// answered when the version is another one, or after a while with the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelsVersion {
    /// Goes up with each change of what is held, passes data, is used or is wrong; not with
    /// counters and round-trip times. Of no meaning but whether it is the same.
    pub version: u64,
}

/// All tunnels as they are. What is not there is written as `null` or empty, for this is also a
/// part of a merge patch ([`crate::resources::NodeStatusStatus`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelsState {
    /// Generation of the configuration in force; 0 when there is none.
    pub generation: u64,
    /// The tunnels held, the active one first.
    pub tunnels: Vec<TunnelState>,
    /// The candidates, nearest first.
    pub candidates: Vec<CandidateState>,
    /// Switches since `tunneld` started.
    pub failovers: u64,
    /// The last switch.
    #[serde(default)]
    pub last_failover: Option<LastFailover>,
    /// What `tunneld` would change in the kernel right now; empty when all is as it should be.
    #[serde(default)]
    pub pending: Vec<String>,
    /// The worst thing to say, if there is one.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl TunnelsState {
    /// Tunnels that pass data both ways.
    pub fn up(&self) -> usize {
        self.tunnels.iter().filter(|tunnel| tunnel.state == BfdState::Up).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_pages_has_one_name_everywhere() {
        for pages in [Pages::Usual, Pages::Huge2M, Pages::Huge1G] {
            assert_eq!(pages.to_string().parse(), Ok(pages));
            assert_eq!(serde_json::to_value(pages).unwrap(), pages.name());
        }
        assert_eq!("4k".parse::<Pages>(), Err(UnknownPages));
    }

    /// As an older manager writes it.
    #[test]
    fn a_configuration_that_says_nothing_of_pages_wants_the_usual_ones() {
        let intent =
            serde_json::json!({ "overlayAddress": "100.64.1.1", "routes": [], "candidates": [] });
        let config = serde_json::json!({
            "generation": 1, "privateKey": "/key", "kinds": ["wireguard-userspace"], "intent": intent
        });
        let config: TunnelsConfig = serde_json::from_value(config).unwrap();
        assert_eq!(config.packet_pages, Pages::Usual);
    }
}
