//! Engines joined by memory, with somebody on the wire between them.

use super::*;
use crate::wireguard::PresharedKey;
use crate::wireguard::inner::ecn::Ecn;
use crate::wireguard::outbox::{Fragments, Run};
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

mod flood;
mod foreign;
mod marks;
mod rotation;
mod story;
mod stream;
mod ways;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

/// What an engine sent, one datagram each, and what it delivered.
#[derive(Debug, Default)]
struct Collect {
    network: Vec<(SocketAddr, Vec<u8>)>,
    link: Vec<Vec<u8>>,
}

impl Network for Collect {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        for single in runs.iter().flat_map(Run::singles) {
            self.network.push((single.way.to, memory[single.range].to_vec()));
        }
    }
}

struct End {
    engine: Engine,
    address: SocketAddr,
    key: PublicKey,
    received: Vec<Vec<u8>>,
    now: Instant,
}

fn start(now: Instant) -> Start {
    Start { now, wall: Duration::from_secs(1_700_000_000), seed: 1 }
}

impl End {
    fn new(port: u16) -> Self {
        Self::at(port, PrivateKey::generate().unwrap(), 1000, Instant::now())
    }

    fn at(port: u16, private: PrivateKey, limit: u64, now: Instant) -> Self {
        let key = private.public();
        let engine = Engine::new(private, limit, Offers { tcp: true, udp: true }, start(now));
        End { engine, address: ([192, 0, 2, 1], port).into(), key, received: Vec::new(), now }
    }

    fn knows(&mut self, other: &End, ip: [u8; 4], eager: bool) {
        let allowed_ips = [IpNet::from(IpAddr::from(ip))].into();
        let config = PeerConfig {
            endpoint: Some(other.address),
            allowed_ips,
            eager,
            ..PeerConfig::default()
        };
        self.engine.set_peer(other.key, config, self.now);
    }

    fn status(&self, other: &End) -> PeerStatus {
        self.engine.status(&other.key, self.now).unwrap()
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> Collect {
        self.take_marked(from, Ecn::NotEct, datagram)
    }

    fn take_marked(&mut self, from: SocketAddr, ecn: Ecn, datagram: &[u8]) -> Collect {
        let mut outbox = Outbox::alone(Collect::default());
        let mut memory = datagram.to_vec();
        let segment = memory.len().max(1);
        let datagrams = Datagrams { at: None, from, ecn, range: 0..memory.len(), segment };
        self.engine.take_datagrams(&mut memory, &datagrams, &mut outbox, &mut |_| false, self.now);
        self.engine.answer_some(&mut outbox, self.now);
        let link = &mut outbox.network.link;
        self.engine.deliver(&mut memory[..], |slices| {
            link.push(slices[1..].iter().flat_map(|slice| slice.to_vec()).collect());
        });
        outbox.flush();
        outbox.network
    }

    fn give(&mut self, packet: &[u8]) -> Collect {
        let mut outbox = Outbox::alone(Collect::default());
        self.engine.send(packet, Fragments::Allowed, &mut outbox, self.now);
        outbox.flush();
        outbox.network
    }

    fn timers(&mut self) -> Collect {
        let mut outbox = Outbox::alone(Collect::default());
        self.engine.timers(&mut outbox, self.now);
        outbox.flush();
        outbox.network
    }
}

fn packet(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend(payload);
    packet
}

/// Carries datagrams between the ends until none is left; gives what passed the wire.
fn settle(ends: &mut [&mut End], first: Collect, from: SocketAddr) -> Vec<Vec<u8>> {
    let mut wire: Vec<(SocketAddr, SocketAddr, Vec<u8>)> =
        first.network.into_iter().map(|(to, datagram)| (from, to, datagram)).collect();
    let mut seen = Vec::new();
    while !wire.is_empty() {
        let (from, to, datagram) = wire.remove(0);
        seen.push(datagram.clone());
        for end in ends.iter_mut().filter(|end| end.address == to) {
            let mut out = end.take(from, &datagram);
            end.received.append(&mut out.link);
            wire.extend(
                out.network.into_iter().map(|(next, datagram)| (end.address, next, datagram)),
            );
        }
        assert!(seen.len() < 1000, "the wire never falls silent");
    }
    seen
}

fn send(from: &mut End, to: &mut End, packet: &[u8]) -> Vec<Vec<u8>> {
    let out = from.give(packet);
    let address = from.address;
    settle(&mut [from, to], out, address)
}

fn pair() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.knows(&b, B, false);
    b.knows(&a, A, false);
    (a, b)
}

#[test]
fn packets_arrive_whole_and_nobody_on_the_wire_can_read_them() {
    let (mut a, mut b) = pair();
    let secret = packet(A, B, b"attack at dawn");
    let seen = send(&mut a, &mut b, &secret);
    assert_eq!(
        b.received,
        std::slice::from_ref(&secret),
        "the packet that began the handshake is not lost"
    );
    send(&mut b, &mut a, &packet(B, A, b"understood"));
    assert_eq!(a.received, [packet(B, A, b"understood")]);
    assert!(seen.iter().all(|d| !d.windows(6).any(|w| w == b"attack")));
    let status = a.status(&b);
    assert!(status.handshake_age.is_some() && status.rx_bytes > 0 && status.tx_bytes > 0);
}

#[test]
fn a_recorded_datagram_is_not_accepted_twice() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let seen = send(&mut a, &mut b, &packet(A, B, b"two"));
    assert_eq!(b.received.len(), 2);
    let out = b.take(a.address, &seen[0]);
    assert!(out.link.is_empty() && out.network.is_empty());
}

#[test]
fn a_peer_may_only_use_its_own_addresses() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet([10, 0, 0, 9], B, b"forged"));
    assert!(b.received.is_empty());
    send(&mut a, &mut b, &packet(A, [10, 0, 0, 9], b"to nobody"));
    assert!(b.received.is_empty());
    send(&mut a, &mut b, &packet(A, B, b"honest"));
    assert_eq!(b.received.len(), 1);
}

#[test]
fn a_peer_is_followed_when_it_moves() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"from home"));
    a.address = ([198, 51, 100, 7], 9).into();
    send(&mut a, &mut b, &packet(A, B, b"from abroad"));
    assert_eq!(b.received.len(), 2);
    assert_eq!(b.status(&a).config.endpoint, Some(a.address));
    send(&mut b, &mut a, &packet(B, A, b"hello"));
    assert_eq!(a.received.len(), 1);
}

/// Points of low order, whose secrets everybody knows: as with the kernel they may be peers, and nothing is
/// said to them (tools/testing/selftests/wireguard/netns.sh).
#[test]
fn peers_that_nobody_can_be_are_told_nothing() {
    let mut a = End::new(1);
    let (zero, mut one) = ([0; 32], [0; 32]);
    one[0] = 1;
    for (key, port) in [(zero, 1111), (one, 1112)] {
        let endpoint = Some(([127, 0, 0, 1], port).into());
        let config = PeerConfig { endpoint, keepalive_secs: 1, ..PeerConfig::default() };
        a.engine.set_peer(PublicKey(key), config, a.now);
    }
    assert_eq!(a.engine.keys().len(), 2);
    let (end, mut turns) = (a.now + Duration::from_secs(100), 0);
    while let Some(due) = a.engine.due_at().filter(|due| *due < end) {
        a.now = a.now.max(due);
        assert!(a.timers().network.is_empty());
        turns += 1;
    }
    assert!(turns < 300, "{turns} turns in 100 s");
}

#[test]
fn strangers_get_no_answer() {
    let (mut a, b) = pair();
    let mut stranger = End::new(3);
    stranger.knows(&a, A, true);
    let out = stranger.timers();
    for datagram in [&out.network[0].1[..], b"", &[4, 0, 0, 0]] {
        let answer = a.take(stranger.address, datagram);
        assert!(answer.network.is_empty() && answer.link.is_empty());
    }
    assert_eq!(a.engine.keys(), [b.key]);
}

#[test]
fn under_load_strangers_must_show_a_cookie_first() {
    let now = Instant::now();
    let mut a = End::new(1);
    let mut b = End::at(2, PrivateKey::generate().unwrap(), 1, now);
    a.knows(&b, B, true);
    b.knows(&a, A, false);
    // Use the limit of one handshake a second up.
    let spent = a.timers();
    b.take(a.address, &spent.network[0].1);
    a.now += Duration::from_millis(250);
    b.now = a.now;
    let second = a.timers();
    let cookie = b.take(a.address, &second.network[0].1);
    assert_eq!(cookie.network[0].1.len(), 64, "a cookie and no session");
    a.take(b.address, &cookie.network[0].1);
    a.now = a.engine.due_at().unwrap();
    b.now = a.now;
    let third = a.timers();
    let address = a.address;
    settle(&mut [&mut a, &mut b], third, address);
    assert!(a.status(&b).handshake_age.is_some());
}

#[test]
fn an_eager_peer_shakes_hands_at_once_and_again_soon() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.knows(&b, B, true);
    let start = a.now;
    let mut hellos = Vec::new();
    while hellos.len() < 5 {
        a.now = a.engine.due_at().unwrap().max(a.now);
        let out = a.timers();
        hellos.extend(out.network.iter().map(|_| (a.now - start).as_millis()));
    }
    for (pair, pause) in hellos.windows(2).zip([200, 400, 800, 1600]) {
        let waited = pair[1] - pair[0];
        assert!((pause..=pause * 5 / 4).contains(&waited), "the pause doubles: {hellos:?}");
    }
    // The edge learns of the node only now.
    b.knows(&a, A, false);
    a.now = a.engine.due_at().unwrap();
    b.now = a.now;
    let out = a.timers();
    let address = a.address;
    settle(&mut [&mut a, &mut b], out, address);
    assert!(a.status(&b).handshake_age.is_some());
    a.now += Duration::from_secs(9);
    assert!(a.timers().network.is_empty(), "no handshake while a session stands");
}

#[test]
fn a_peer_that_lost_its_session_is_reached_again_by_renewal() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let received = std::mem::take(&mut b.received);
    b = End { received, ..End::at(2, b.engine.private_key().unwrap().clone(), 1000, b.now) };
    b.knows(&a, A, false);
    send(&mut a, &mut b, &packet(A, B, b"into the void"));
    assert_eq!(b.received.len(), 1);
    a.engine.renew(&b.key, a.now);
    let out = a.timers();
    let address = a.address;
    settle(&mut [&mut a, &mut b], out, address);
    send(&mut a, &mut b, &packet(A, B, b"two"));
    assert_eq!(b.received.len(), 2);
}

/// A box without a clock starts in 1970, and learns later what time it is.
#[test]
fn the_clock_may_jump_both_ways() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let shake = |a: &mut End, b: &mut End| {
        a.now += Duration::from_secs(10);
        b.now = a.now;
        a.engine.renew(&b.key, a.now);
        let out = a.timers();
        let address = a.address;
        settle(&mut [a, b], out, address);
        a.status(b).handshake_age == Some(Duration::ZERO)
    };
    assert!(shake(&mut a, &mut b));
    a.engine.set_wall(a.now, Duration::ZERO);
    assert!(shake(&mut a, &mut b), "stamps never go back");
    let received = Vec::new();
    let key = a.engine.private_key().unwrap().clone();
    a = End { received, ..End::at(1, key, 1000, a.now) };
    a.engine.set_wall(a.now, Duration::ZERO);
    a.knows(&b, B, false);
    assert!(!shake(&mut a, &mut b), "a new start in 1970 looks like a recording");
    a.engine.set_wall(a.now, Duration::from_secs(1_800_000_000));
    assert!(shake(&mut a, &mut b), "and no more once the time is known");
}

#[test]
fn without_a_key_nothing_is_said_and_with_one_it_goes_on() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let key = a.engine.private_key().unwrap().clone();
    a.engine.set_private_key(None, a.now);
    assert!(a.engine.private_key().is_none());
    assert!(a.give(&packet(A, B, b"two")).network.is_empty());
    let out = b.give(&packet(B, A, b"three"));
    assert!(a.take(b.address, &out.network[0].1).link.is_empty());
    a.engine.set_private_key(Some(key), a.now);
    (a.now, b.now) = (a.now + Duration::from_secs(6), b.now + Duration::from_secs(6));
    send(&mut a, &mut b, &packet(A, B, b"four"));
    assert_eq!(b.received.last(), Some(&packet(A, B, b"four")));
}

#[test]
fn a_datagram_of_the_tunnel_does_not_enter_the_tunnel() {
    let (mut a, b) = pair();
    let everything: IpNet = "0.0.0.0/0".parse().unwrap();
    let config = PeerConfig {
        endpoint: Some(b.address),
        allowed_ips: [everything].into(),
        ..Default::default()
    };
    a.engine.set_peer(b.key, config, Instant::now());
    let IpAddr::V4(to) = b.address.ip() else { panic!() };
    let own = packet(A, to.octets(), &[0, 1, 0, 2, 0, 8, 0, 0]);
    assert!(a.give(&own).network.is_empty());
    let other_port = packet(A, to.octets(), &[0, 1, 0, 3, 0, 8, 0, 0]);
    assert!(!a.give(&other_port).network.is_empty());
}

#[test]
fn changing_a_peer_keeps_its_session_and_prefixes_move_between_peers() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let wide: IpNet = "10.0.0.0/24".parse().unwrap();
    let mut config = a.status(&b).config;
    config.allowed_ips.insert(wide);
    config.endpoint = None;
    a.engine.set_peer(b.key, config.clone(), Instant::now());
    let status = a.status(&b);
    assert!(status.handshake_age.is_some() && status.config.endpoint == Some(b.address));
    let c = End::new(3);
    a.engine.set_peer(
        c.key,
        PeerConfig { allowed_ips: [wide].into(), ..Default::default() },
        Instant::now(),
    );
    assert_eq!(a.engine.owner(wide), Some(c.key));
    assert!(!a.status(&b).config.allowed_ips.contains(&wide));
    assert!(a.engine.remove_peer(&c.key) && !a.engine.remove_peer(&c.key));
    assert_eq!(a.engine.owner(wide), None);
    config.keepalive_secs = 7;
    a.engine.set_peer(b.key, config.clone(), a.now);
    let sent = a.timers().network;
    let [(_, keepalive)] = &sent[..] else { panic!("{} datagrams", sent.len()) };
    assert_eq!(keepalive.len(), 32, "keepalives are no reason for another session");
    config.eager = true;
    a.engine.set_peer(b.key, config.clone(), a.now);
    assert!(a.timers().network.is_empty(), "nor is a hurry that has what it wants");
    config.preshared_key = PresharedKey::from_bytes([7; 32]);
    a.engine.set_peer(b.key, config, Instant::now());
    assert!(!a.engine.has_session(&b.key, a.now), "another preshared key is one");
}

#[test]
fn an_edge_tells_its_many_nodes_apart() {
    let mut edge = End::new(1);
    let mut nodes: Vec<End> = (0..100u8).map(|n| End::new(100 + u16::from(n))).collect();
    for (node, n) in nodes.iter_mut().zip(0u8..) {
        node.knows(&edge, B, false);
        edge.knows(node, [10, 1, 0, n], false);
    }
    for n in 0..100u8 {
        send(&mut nodes[usize::from(n)], &mut edge, &packet([10, 1, 0, n], B, &[n]));
    }
    assert_eq!(edge.received.len(), 100);
    for n in 0..100u8 {
        send(&mut edge, &mut nodes[usize::from(n)], &packet(B, [10, 1, 0, n], &[n]));
    }
    assert!(
        nodes.iter().zip(0u8..).all(|(node, n)| node.received == [packet(B, [10, 1, 0, n], &[n])])
    );
    let gone = nodes[50].key;
    edge.engine.remove_peer(&gone);
    send(&mut nodes[50], &mut edge, &packet([10, 1, 0, 50], B, &[1]));
    assert_eq!(edge.received.len(), 100);
    edge.knows(&nodes[50], [10, 1, 0, 50], false);
    assert_eq!(edge.engine.keys().len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever arrives from either side, nothing panics and nothing comes out.
    #[test]
    fn arbitrary_bytes_are_dropped(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
        let (mut a, _b) = pair();
        if bytes.len() >= 12 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..12].fill(0);
        }
        let out = a.take(([192, 0, 2, 9], 1).into(), &bytes);
        prop_assert!(out.network.is_empty() && out.link.is_empty());
        prop_assert!(a.give(&bytes).link.is_empty());
    }
}
