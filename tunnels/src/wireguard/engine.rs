//! A WireGuard device without sockets: packets and datagrams in, datagrams and packets out.
//!
//! The one thing it does not leave to its caller is the clock inside of boringtun's session
//! timers, which has a resolution of a second for us.

use super::allowed_ips::AllowedIps;
use super::key::PrivateKey;
use super::peer::{Peer, PeerConfig, PeerStatus};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the sessions' timers are looked at. All of WireGuard's are five seconds or more.
const TICK: Duration = Duration::from_secs(1);
/// A look may come later by so much, if nothing else wakes the caller before.
const TICK_PATIENCE: Duration = Duration::from_millis(250);
/// The most that encryption adds to a packet, and the least that a buffer must hold.
const OVERHEAD: usize = 148;
/// Peers are numbered with 24 bits in the indices on the wire.
const MOST_PEERS: usize = 1 << 24;

/// Where the engine puts what it makes.
pub trait Output {
    /// A datagram to a peer's endpoint.
    fn to_network(&mut self, to: SocketAddr, datagram: &[u8]);
    /// A packet from a peer.
    fn to_link(&mut self, packet: &[u8]);
}

/// The device.
pub struct Engine {
    private_key: PrivateKey,
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Counts handshakes of all peers; beyond its limit strangers must show a cookie.
    limiter: Arc<RateLimiter>,
    /// For the peers' own check of what has passed the device's: no limit.
    unlimited: Arc<RateLimiter>,
    handshakes_per_second: u64,
    peers: Vec<Option<Box<Peer>>>,
    keys: BTreeMap<PublicKey, u32>,
    allowed: AllowedIps<u32>,
    buffer: Box<[u8]>,
    next_tick: Instant,
    /// The next handshake that is wanted, at the latest: never after the real one. Kept, as an
    /// edge must not look at thousands of peers for each packet.
    next_hello: Option<Instant>,
}

impl Engine {
    /// A device without peers. Beyond `handshakes_per_second` (1 and up) it answers with
    /// cookies, which costs an honest peer one more round trip.
    pub fn new(private_key: PrivateKey, handshakes_per_second: u64, now: Instant) -> Self {
        let secret = private_key.secret();
        let public = x25519::PublicKey::from(&secret);
        Engine {
            private_key,
            secret,
            public,
            limiter: Arc::new(RateLimiter::new(&public, handshakes_per_second)),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            handshakes_per_second,
            peers: Vec::new(),
            keys: BTreeMap::new(),
            allowed: AllowedIps::default(),
            buffer: vec![0; usize::from(u16::MAX) + OVERHEAD].into_boxed_slice(),
            next_tick: now + TICK,
            next_hello: None,
        }
    }

    /// The private key.
    pub fn private_key(&self) -> &PrivateKey {
        &self.private_key
    }

    /// Takes another private key; all sessions end and begin anew.
    pub fn set_private_key(&mut self, private_key: PrivateKey, now: Instant) {
        if private_key.expose() == self.private_key.expose() {
            return;
        }
        let configs: Vec<_> =
            self.statuses().map(|status| (status.public_key, status.config)).collect();
        *self = Engine::new(private_key, self.handshakes_per_second, now);
        for (key, config) in configs {
            self.set_peer(key, config, now);
        }
    }

    /// Adds a peer or changes one. The session of a known peer goes on, unless its preshared
    /// key or keepalive changed. An endpoint of `None` leaves a known peer where it is.
    /// Prefixes that another peer had become this one's.
    pub fn set_peer(&mut self, key: PublicKey, mut config: PeerConfig, now: Instant) {
        self.hello_soon(now);
        let known = self.keys.get(&key).copied();
        if let Some(peer) = known.and_then(|index| self.peer(index)) {
            config.endpoint = config.endpoint.or(peer.config.endpoint);
        }
        let Some(index) = known.or_else(|| self.free_index()) else {
            tracing::error!("more peers than WireGuard can number");
            return;
        };
        let old_ips = match self.peer_mut(index) {
            Some(peer) => std::mem::take(&mut peer.config.allowed_ips),
            None => Default::default(),
        };
        for net in old_ips.difference(&config.allowed_ips) {
            self.allowed.remove(*net);
        }
        for net in &config.allowed_ips {
            if let Some(before) = self.allowed.insert(*net, index)
                && before != index
                && let Some(other) = self.peer_mut(before)
            {
                other.config.allowed_ips.remove(net);
            }
        }
        match self.peers.get_mut(index as usize).and_then(Option::as_mut) {
            Some(peer) if same_session(&peer.config, &config) => {
                if config.eager && !peer.config.eager {
                    peer.renew(now);
                }
                peer.config = config;
            }
            _ => {
                let peer = Peer::new(&self.private_key, key, config, index, &self.unlimited, now);
                self.keys.insert(key, index);
                self.place(index, Box::new(peer));
            }
        }
    }

    /// Removes a peer; false when there was none.
    pub fn remove_peer(&mut self, key: &PublicKey) -> bool {
        let Some(index) = self.keys.remove(key) else { return false };
        let peer = self.peers.get_mut(index as usize).and_then(Option::take);
        for net in peer.into_iter().flat_map(|peer| peer.config.allowed_ips) {
            self.allowed.remove(net);
        }
        true
    }

    /// The keys of all peers.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.keys.keys().copied().collect()
    }

    /// What can be said about one peer.
    pub fn status(&self, key: &PublicKey) -> Option<PeerStatus> {
        self.keys.get(key).and_then(|index| self.peer(*index)).map(Peer::status)
    }

    /// What can be said about all peers, in the order of their keys.
    pub fn statuses(&self) -> impl Iterator<Item = PeerStatus> {
        self.keys.values().filter_map(|index| self.peer(*index)).map(Peer::status)
    }

    /// Shakes hands with a peer anew, now and with short pauses: data does not pass, and it may
    /// have lost its session. Goes out with the next [`Engine::timers`].
    pub fn renew(&mut self, key: &PublicKey, now: Instant) {
        if let Some(index) = self.keys.get(key).copied()
            && let Some(peer) = self.peer_mut(index)
        {
            peer.renew(now);
            self.hello_soon(now);
        }
    }

    /// Encrypts a packet from the link. Without a session it waits for one, with up to 256
    /// others per peer. A packet is dropped that belongs to no peer, or to one that was never
    /// heard and has no endpoint, or that is a datagram of this very tunnel on its way back into it.
    pub fn from_link(&mut self, packet: &[u8], out: &mut impl Output) {
        let Some(destination) = Tunn::dst_address(packet) else { return };
        let Some(index) = self.allowed.lookup(destination).copied() else { return };
        let Some(peer) = self.peers.get_mut(index as usize).and_then(Option::as_mut) else {
            return;
        };
        // Nobody knows where the peer is, so there is nothing to wait for either.
        let Some(endpoint) = peer.config.endpoint else { return };
        if is_udp_to(packet, endpoint) {
            tracing::debug!(%destination, "a datagram of the tunnel was routed into the tunnel");
            return;
        }
        let result = peer.tunn.encapsulate(packet, &mut self.buffer);
        hand_out(result, Some(endpoint), &mut peer.tx_bytes, out);
    }

    /// Takes a datagram from the network.
    pub fn from_network(&mut self, from: SocketAddr, datagram: &[u8], out: &mut impl Output) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let mut cookie = [0; 64];
        let packet = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => return out.to_network(from, cookie),
            // Not WireGuard, or not for our key: no answer to strangers.
            Err(_) => return,
        };
        let is_handshake =
            matches!(packet, Packet::HandshakeInit(_) | Packet::HandshakeResponse(_));
        let index = match &packet {
            Packet::HandshakeInit(init) => parse_handshake_anon(&self.secret, &self.public, init)
                .ok()
                .and_then(|half| self.keys.get(&PublicKey(half.peer_static_public)).copied()),
            Packet::HandshakeResponse(response) => Some(response.receiver_idx >> 8),
            Packet::PacketCookieReply(reply) => Some(reply.receiver_idx >> 8),
            Packet::PacketData(data) => Some(data.receiver_idx >> 8),
        };
        let Some(peer) =
            index.and_then(|index| self.peers.get_mut(index as usize)).and_then(Option::as_mut)
        else {
            return;
        };
        let is_cookie = matches!(packet, Packet::PacketCookieReply(_));
        let result = peer.tunn.decapsulate(Some(from.ip()), datagram, &mut self.buffer);
        if let TunnResult::Err(error) = &result {
            tracing::trace!(?error, %from, "datagram dropped");
            return;
        }
        peer.rx_bytes += datagram.len() as u64;
        if !is_cookie {
            // Authenticated, so this is where the peer is now.
            peer.config.endpoint = Some(from);
        }
        if is_handshake {
            peer.hello = None;
        }
        let answered = matches!(result, TunnResult::WriteToNetwork(_));
        match result {
            TunnResult::WriteToTunnelV4(packet, source) => {
                deliver(&self.allowed, index, source.into(), packet, out);
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                deliver(&self.allowed, index, source.into(), packet, out);
            }
            result => hand_out(result, peer.config.endpoint, &mut peer.tx_bytes, out),
        }
        if answered {
            // A session stands: what waited for it goes out.
            loop {
                let result = peer.tunn.decapsulate(None, &[], &mut self.buffer);
                if !matches!(result, TunnResult::WriteToNetwork(_)) {
                    break;
                }
                hand_out(result, peer.config.endpoint, &mut peer.tx_bytes, out);
            }
        }
    }

    /// Does what is due: handshakes, keepalives, the end of sessions.
    pub fn timers(&mut self, now: Instant, out: &mut impl Output) {
        let tick = now >= self.next_tick;
        if tick {
            self.next_tick = now + TICK;
            self.limiter.reset_count();
        }
        let mut next_hello: Option<Instant> = None;
        for peer in self.peers.iter_mut().flatten() {
            if tick {
                let result = peer.tunn.update_timers(&mut self.buffer);
                // An expired session of a peer that is away is nothing to write about.
                if !matches!(result, TunnResult::Err(WireGuardError::ConnectionExpired)) {
                    hand_out(result, peer.config.endpoint, &mut peer.tx_bytes, out);
                }
            }
            if peer.hello_due(now) {
                let result = peer.tunn.format_handshake_initiation(&mut self.buffer, true);
                hand_out(result, peer.config.endpoint, &mut peer.tx_bytes, out);
            }
            next_hello = [next_hello, peer.hello_at()].into_iter().flatten().min();
        }
        self.next_hello = next_hello;
    }

    /// From when on [`Engine::timers`] has something to do.
    pub fn due_at(&self) -> Instant {
        self.next_hello.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// When to wake up for [`Engine::timers`]: whoever is awake before, but not before
    /// [`Engine::due_at`], spares itself that by calling it then.
    pub fn wake_at(&self) -> Instant {
        let patient = self.next_tick + TICK_PATIENCE;
        self.next_hello.map_or(patient, |at| at.min(patient))
    }

    fn hello_soon(&mut self, now: Instant) {
        self.next_hello = Some(self.next_hello.map_or(now, |at| at.min(now)));
    }

    /// Whose prefix `net` is.
    pub fn owner(&self, net: IpNet) -> Option<PublicKey> {
        self.allowed.get(net).and_then(|index| self.peer(*index)).map(|peer| peer.public_key)
    }

    fn peer(&self, index: u32) -> Option<&Peer> {
        self.peers.get(index as usize)?.as_deref()
    }

    fn peer_mut(&mut self, index: u32) -> Option<&mut Peer> {
        self.peers.get_mut(index as usize)?.as_deref_mut()
    }

    fn free_index(&self) -> Option<u32> {
        let index = match self.keys.len() == self.peers.len() {
            true => self.peers.len(),
            false => self.peers.iter().position(Option::is_none)?,
        };
        u32::try_from(index).ok().filter(|_| index < MOST_PEERS)
    }

    fn place(&mut self, index: u32, peer: Box<Peer>) {
        let index = index as usize;
        if index >= self.peers.len() {
            self.peers.resize_with(index + 1, || None);
        }
        self.peers[index] = Some(peer);
    }
}

fn same_session(old: &PeerConfig, new: &PeerConfig) -> bool {
    old.preshared_key == new.preshared_key && old.keepalive_secs == new.keepalive_secs
}

fn hand_out(result: TunnResult<'_>, to: Option<SocketAddr>, sent: &mut u64, out: &mut impl Output) {
    match (result, to) {
        (TunnResult::WriteToNetwork(datagram), Some(to)) => {
            *sent += datagram.len() as u64;
            out.to_network(to, datagram);
        }
        (TunnResult::Err(error), _) => tracing::debug!(?error, "WireGuard"),
        _ => {}
    }
}

/// Hands a decrypted packet on when its sender may use that source address.
fn deliver(
    allowed: &AllowedIps<u32>,
    peer: Option<u32>,
    source: IpAddr,
    packet: &[u8],
    out: &mut impl Output,
) {
    if allowed.lookup(source).copied() == peer {
        out.to_link(packet);
    } else {
        tracing::debug!(%source, "a peer used a source address that is not its own");
    }
}

/// Whether `packet` is a UDP datagram to `endpoint`.
fn is_udp_to(packet: &[u8], endpoint: SocketAddr) -> bool {
    const UDP: u8 = 17;
    let (protocol, header) = match packet.first().map(|b| b >> 4) {
        Some(4) => (packet.get(9).copied(), usize::from(packet[0] & 0x0f) * 4),
        Some(6) => (packet.get(6).copied(), 40),
        _ => return false,
    };
    let port = packet.get(header + 2..header + 4).map(|b| u16::from_be_bytes([b[0], b[1]]));
    protocol == Some(UDP)
        && port == Some(endpoint.port())
        && Tunn::dst_address(packet) == Some(endpoint.ip().to_canonical())
}

#[cfg(test)]
mod tests;
