//! Engines joined by memory, with somebody on the wire between them.

use super::*;
use proptest::prelude::*;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

#[derive(Default)]
struct Collect {
    network: Vec<(SocketAddr, Vec<u8>)>,
    link: Vec<Vec<u8>>,
}

impl Output for Collect {
    fn to_network(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.network.push((to, datagram.to_vec()));
    }
    fn to_link(&mut self, packet: &[u8]) {
        self.link.push(packet.to_vec());
    }
}

struct End {
    engine: Engine,
    address: SocketAddr,
    key: PublicKey,
    received: Vec<Vec<u8>>,
}

impl End {
    fn new(port: u16) -> Self {
        let private = PrivateKey::generate().unwrap();
        let key = private.public();
        let engine = Engine::new(private, 1000, Instant::now());
        End { engine, address: ([192, 0, 2, 1], port).into(), key, received: Vec::new() }
    }

    fn knows(&mut self, other: &End, ip: [u8; 4], eager: bool) {
        let allowed_ips = [IpNet::from(IpAddr::from(ip))].into();
        let config = PeerConfig {
            endpoint: Some(other.address),
            allowed_ips,
            eager,
            ..PeerConfig::default()
        };
        self.engine.set_peer(other.key, config, Instant::now());
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
            let mut out = Collect::default();
            end.engine.from_network(from, &datagram, &mut out);
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
    let mut out = Collect::default();
    from.engine.from_link(packet, &mut out);
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
    let status = a.engine.status(&b.key).unwrap();
    assert!(status.handshake_age.is_some() && status.rx_bytes > 0 && status.tx_bytes > 0);
}

#[test]
fn a_recorded_datagram_is_not_accepted_twice() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let seen = send(&mut a, &mut b, &packet(A, B, b"two"));
    assert_eq!(b.received.len(), 2);
    let mut out = Collect::default();
    b.engine.from_network(a.address, &seen[0], &mut out);
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
    assert_eq!(b.engine.status(&a.key).unwrap().config.endpoint, Some(a.address));
    send(&mut b, &mut a, &packet(B, A, b"hello"));
    assert_eq!(a.received.len(), 1);
}

#[test]
fn strangers_get_no_answer() {
    let (mut a, b) = pair();
    let mut stranger = End::new(3);
    stranger.knows(&a, A, true);
    let mut out = Collect::default();
    stranger.engine.timers(Instant::now(), &mut out);
    let hello = &out.network[0].1;
    let mut answer = Collect::default();
    a.engine.from_network(stranger.address, hello, &mut answer);
    a.engine.from_network(stranger.address, b"", &mut answer);
    a.engine.from_network(stranger.address, &[4, 0, 0, 0], &mut answer);
    assert!(answer.network.is_empty() && answer.link.is_empty());
    assert_eq!(a.engine.keys(), [b.key]);
}

#[test]
fn under_load_strangers_must_show_a_cookie_first() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    b.engine = Engine::new(b.engine.private_key.clone(), 1, Instant::now());
    a.knows(&b, B, true);
    b.knows(&a, A, false);
    // Use the limit of one handshake a second up.
    let mut now = Instant::now();
    let mut spent = Collect::default();
    a.engine.timers(now, &mut spent);
    b.engine.from_network(a.address, &spent.network[0].1, &mut Collect::default());
    now += Duration::from_millis(250);
    let mut second = Collect::default();
    a.engine.timers(now, &mut second);
    let mut cookie = Collect::default();
    b.engine.from_network(a.address, &second.network[0].1, &mut cookie);
    assert_eq!(cookie.network[0].1.len(), 64, "a cookie and no session");
    a.engine.from_network(b.address, &cookie.network[0].1, &mut Collect::default());
    now += Duration::from_millis(450);
    let mut third = Collect::default();
    a.engine.timers(now, &mut third);
    let address = a.address;
    settle(&mut [&mut a, &mut b], third, address);
    assert!(a.engine.status(&b.key).unwrap().handshake_age.is_some());
}

#[test]
fn an_eager_peer_shakes_hands_at_once_and_again_soon() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.knows(&b, B, true);
    let start = Instant::now();
    let mut hellos = Vec::new();
    let mut now = start;
    while hellos.len() < 5 {
        let mut out = Collect::default();
        a.engine.timers(now, &mut out);
        hellos.extend(out.network.iter().map(|_| (now - start).as_millis() / 100));
        now = a.engine.wake_at();
    }
    assert_eq!(hellos, [0, 2, 6, 14, 30], "the pause doubles: 200, 400, 800, 1600 ms");
    // The edge learns of the node only now.
    b.knows(&a, A, false);
    let mut out = Collect::default();
    while out.network.is_empty() {
        now = a.engine.wake_at();
        a.engine.timers(now, &mut out);
    }
    let address = a.address;
    settle(&mut [&mut a, &mut b], out, address);
    assert!(a.engine.status(&b.key).unwrap().handshake_age.is_some());
    let mut out = Collect::default();
    a.engine.timers(now + Duration::from_secs(9), &mut out);
    assert!(out.network.iter().all(|(_, d)| d[0] != 1), "no handshake while a session stands");
}

#[test]
fn a_peer_that_lost_its_session_is_reached_again_by_renewal() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let key = b.engine.private_key.clone();
    b.engine = Engine::new(key, 1000, Instant::now());
    b.knows(&a, A, false);
    send(&mut a, &mut b, &packet(A, B, b"into the void"));
    assert_eq!(b.received.len(), 1);
    let now = Instant::now();
    a.engine.renew(&b.key, now);
    let mut out = Collect::default();
    a.engine.timers(now, &mut out);
    let address = a.address;
    settle(&mut [&mut a, &mut b], out, address);
    send(&mut a, &mut b, &packet(A, B, b"two"));
    assert_eq!(b.received.len(), 2);
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
    let mut out = Collect::default();
    a.engine.from_link(&own, &mut out);
    assert!(out.network.is_empty());
    let other_port = packet(A, to.octets(), &[0, 1, 0, 3, 0, 8, 0, 0]);
    a.engine.from_link(&other_port, &mut out);
    assert!(!out.network.is_empty());
}

#[test]
fn changing_a_peer_keeps_its_session_and_prefixes_move_between_peers() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"one"));
    let wide: IpNet = "10.0.0.0/24".parse().unwrap();
    let mut config = a.engine.status(&b.key).unwrap().config;
    config.allowed_ips.insert(wide);
    config.endpoint = None;
    a.engine.set_peer(b.key, config.clone(), Instant::now());
    let status = a.engine.status(&b.key).unwrap();
    assert!(status.handshake_age.is_some() && status.config.endpoint == Some(b.address));
    let c = End::new(3);
    a.engine.set_peer(
        c.key,
        PeerConfig { allowed_ips: [wide].into(), ..Default::default() },
        Instant::now(),
    );
    assert_eq!(a.engine.owner(wide), Some(c.key));
    assert!(!a.engine.status(&b.key).unwrap().config.allowed_ips.contains(&wide));
    assert!(a.engine.remove_peer(&c.key) && !a.engine.remove_peer(&c.key));
    assert_eq!(a.engine.owner(wide), None);
    config.keepalive_secs = 7;
    a.engine.set_peer(b.key, config, Instant::now());
    assert!(a.engine.status(&b.key).unwrap().handshake_age.is_none(), "another session");
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
        let mut out = Collect::default();
        if bytes.len() >= 12 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..12].fill(0);
        }
        a.engine.from_network(([192, 0, 2, 9], 1).into(), &bytes, &mut out);
        prop_assert!(out.network.is_empty() && out.link.is_empty());
        a.engine.from_link(&bytes, &mut out);
        prop_assert!(out.link.is_empty());
    }
}
