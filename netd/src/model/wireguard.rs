//! WireGuard devices of the kernel.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

/// A key of 32 bytes. `Debug` shows nothing of it: private and public keys share the type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WgKey(pub [u8; 32]);

impl fmt::Debug for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WgKey(…)")
    }
}

impl WgKey {
    /// As the kernel keeps a private key (RFC 7748 §5): other bits, the same public key.
    pub(crate) fn clamped(mut self) -> Self {
        self.0[0] &= 0xf8;
        self.0[31] = self.0[31] & 0x7f | 0x40;
        self
    }
}

/// How a WireGuard device is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardDevice {
    /// Its private key; none means that it cannot speak yet.
    pub private_key: Option<WgKey>,
    /// The UDP port that it listens on; `None` leaves the choice to the kernel and is not compared.
    pub listen_port: Option<u16>,
    /// Mark of its own packets, 0 for none.
    pub fwmark: u32,
    /// Its peers by public key.
    pub peers: BTreeMap<WgKey, WireguardPeer>,
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where it is; it may roam, so this is set when it is made and not compared later.
    pub endpoint: Option<SocketAddr>,
    /// Extra symmetric key.
    pub preshared_key: Option<WgKey>,
    /// Seconds between keepalives, 0 for none.
    pub keepalive_secs: u16,
    /// What is sent to it and accepted from it.
    pub allowed_ips: BTreeSet<IpNet>,
}

impl WireguardDevice {
    /// Whether the device `seen` is set up as `self` asks.
    pub fn is_met_by(&self, seen: &WireguardDevice) -> bool {
        let same_peer = |want: &WireguardPeer, have: &WireguardPeer| {
            want.preshared_key == have.preshared_key
                && want.keepalive_secs == have.keepalive_secs
                && want.allowed_ips == have.allowed_ips
        };
        self.private_key.map(WgKey::clamped) == seen.private_key.map(WgKey::clamped)
            && self.fwmark == seen.fwmark
            && self.listen_port.is_none_or(|port| seen.listen_port == Some(port))
            && self.peers.len() == seen.peers.len()
            && self
                .peers
                .iter()
                .all(|(key, want)| seen.peers.get(key).is_some_and(|have| same_peer(want, have)))
    }
}

/// What a peer has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// The last completed handshake.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}
