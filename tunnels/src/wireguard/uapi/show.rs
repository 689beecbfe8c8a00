//! What a device says about itself.

use super::GONE;
use crate::wireguard::PeerStatus;
use crate::wireguard::device::WeakDevice;
use crate::wireguard::engine::Engine;
use holdfast_api::tunnel::PublicKey;
use nix::errno::Errno;
use std::fmt::{Display, Write as _};
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

/// The most that a device, a peer and a prefix take of the text: text that is moved to grow leaves
/// keys behind.
const DEVICE_BYTES: usize = 128;
const PEER_BYTES: usize = 512;
const PREFIX_BYTES: usize = 64;

/// Everything in the words of the protocol, some of it at a time.
pub(super) struct Listing {
    device: WeakDevice,
    /// The last peer that was told, none before the first.
    last: Option<PublicKey>,
    has_begun: bool,
    /// The time since 1970 and the same moment: a handshake is told with the same second however long
    /// it takes to tell it.
    now: (Duration, Instant),
}

impl Listing {
    /// Of nothing yet.
    pub(super) fn new(device: WeakDevice) -> Self {
        let (wall, now) = (SystemTime::now(), Instant::now());
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Listing { device, last: None, has_begun: false, now: (wall, now) }
    }

    /// The next lines; none when all was told.
    ///
    /// # Errors
    /// It has ended, or does not answer: what was told so far is not all.
    pub(super) async fn some(&mut self) -> Result<Option<Zeroizing<String>>, Errno> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return self.device_itself().await.map(Some);
        }
        let peers = self.device.peers_behind(self.last).await.ok_or(GONE)?;
        let Some(last) = peers.last() else { return Ok(None) };
        self.last = Some(last.public_key);
        let mut text = Zeroizing::new(String::with_capacity(peers.iter().map(room).sum()));
        for peer in &peers {
            render_peer(&mut text, peer, self.now);
        }
        Ok(Some(text))
    }

    async fn device_itself(&self) -> Result<Zeroizing<String>, Errno> {
        let (port, mark) = self.device.listen().ok_or(GONE)?;
        // In one place: what is handed on is moved.
        let key = |engine: &mut Engine, _| engine.private_key().cloned().map(Box::new);
        let key = self.device.ask(key).await.ok_or(GONE)?;
        let mut text = Zeroizing::new(String::with_capacity(DEVICE_BYTES));
        if let Some(key) = &key {
            line(&mut text, "private_key", &*hex(key.expose()));
        }
        line(&mut text, "listen_port", &port);
        if mark != 0 {
            line(&mut text, "fwmark", &mark);
        }
        Ok(text)
    }
}

fn room(peer: &PeerStatus) -> usize {
    PEER_BYTES + PREFIX_BYTES * peer.config.allowed_ips.len()
}

/// Adds the lines of one peer.
pub(super) fn render_peer(text: &mut String, peer: &PeerStatus, (wall, now): (Duration, Instant)) {
    let config = &peer.config;
    line(text, "public_key", &*hex(&peer.public_key.0));
    if let Some(key) = &config.preshared_key {
        line(text, "preshared_key", &*hex(key.expose()));
    }
    if let Some(endpoint) = config.endpoint {
        // A zone is its link's number, which getaddrinfo(3) takes in every namespace.
        line(text, "endpoint", &endpoint);
    }
    let age = peer.handshake_at.map(|at| now.saturating_duration_since(at));
    let at = age.and_then(|age| wall.checked_sub(age)).unwrap_or_default();
    line(text, "last_handshake_time_sec", &at.as_secs());
    line(text, "last_handshake_time_nsec", &at.subsec_nanos());
    line(text, "tx_bytes", &peer.tx_bytes);
    line(text, "rx_bytes", &peer.rx_bytes);
    line(text, "persistent_keepalive_interval", &config.keepalive_secs);
    for net in &config.allowed_ips {
        line(text, "allowed_ip", net);
    }
    line(text, "protocol_version", &1);
}

fn line(text: &mut String, name: &str, value: &dyn Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name}={value}");
}

fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::{PeerConfig, PresharedKey};
    use std::net::{Ipv6Addr, SocketAddrV6};

    /// Nothing is moved to grow, however much there is to say.
    #[test]
    fn there_is_room_for_the_longest_peer() {
        let longest = Ipv6Addr::from(u128::MAX);
        let nets = (0..30).map(|n| format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff{n:02x}/128"));
        let now = Instant::now();
        let peer = PeerStatus {
            public_key: PublicKey([0xff; 32]),
            config: PeerConfig {
                endpoint: Some(SocketAddrV6::new(longest, u16::MAX, 0, u32::MAX).into()),
                preshared_key: PresharedKey::from_bytes([0xff; 32]),
                keepalive_secs: u16::MAX,
                allowed_ips: nets.map(|net| net.parse().unwrap()).collect(),
                eager: true,
            },
            handshake_age: Some(Duration::ZERO),
            handshake_at: Some(now),
            rx_bytes: u64::MAX,
            tx_bytes: u64::MAX,
        };
        let mut text = String::new();
        render_peer(&mut text, &peer, (Duration::MAX, now));
        assert!(text.len() <= room(&peer), "{} of {}", text.len(), room(&peer));
        assert!(text.contains(":ffff%4294967295]:65535\n"));
        let device = ["private_key=\nlisten_port=65535\nfwmark=4294967295\n", &"f".repeat(64)];
        assert!(device.concat().len() <= DEVICE_BYTES);
    }
}
