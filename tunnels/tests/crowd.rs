//! An edge whose nodes all want it at once: a device over loopback, and a crowd.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use tunnels::wireguard::crowd::{Crowd, Place};
use tunnels::wireguard::{Device, LinkEnd, Options, PeerConfig, PrivateKey, Tuning};

const NODES: usize = 200;
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES: usize = 700;

/// Also of an edge that takes one handshake a second: nobody but its nodes comes in the burst.
#[test]
fn all_nodes_of_an_edge_shake_hands_at_once_and_data_passes() {
    let (link, tun) = UnixDatagram::pair().unwrap();
    tun.set_nonblocking(true).unwrap();
    link.set_nonblocking(true).unwrap();
    let private_key = PrivateKey::generate().unwrap();
    let key = private_key.public();
    let options = Options {
        name: "edge".into(),
        private_key,
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: 1,
        tuning: Tuning::default(),
    };
    let edge = Device::start(LinkEnd::plain(tun.into()), options).unwrap();
    let place = Place {
        edge: key,
        endpoint: ([127, 0, 0, 1], edge.listen_port()).into(),
        inside: (EDGE, 9),
        first_outer: [127, 1, 0, 1].into(),
        first_inner: [10, 128, 0, 1].into(),
    };
    let mut crowd = Crowd::new(u32::try_from(NODES).unwrap(), place).unwrap();
    let config = |inner: Ipv4Addr| PeerConfig {
        allowed_ips: [IpAddr::V4(inner).into()].into(),
        ..PeerConfig::default()
    };
    edge.set_peers(crowd.members().map(|(key, inner)| (key, config(inner))));

    (0..NODES).for_each(|n| crowd.call(n));
    let mut waiting: BTreeSet<usize> = (0..NODES).collect();
    let end = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < end, "{} were not answered", waiting.len());
        for n in crowd.run(Duration::from_millis(10)).unwrap() {
            waiting.remove(&n);
        }
    }

    let mut buffer = [0; 2000];
    let inner: Vec<Ipv4Addr> = crowd.members().map(|(_, inner)| inner).collect();
    for (n, inner) in inner.iter().enumerate() {
        crowd.send(n, 1, BYTES);
        let packet = loop {
            assert!(Instant::now() < end, "a packet of node {n} does not come");
            crowd.run(Duration::from_millis(1)).unwrap();
            if let Ok(bytes) = link.recv(&mut buffer) {
                break &mut buffer[..bytes];
            }
        };
        assert_eq!((packet.len(), &packet[12..16]), (BYTES, &inner.octets()[..]));
        // Back to whoever sent it: the sum of the header stays.
        let (from, to) = packet[12..20].split_at_mut(4);
        from.swap_with_slice(to);
        link.send(packet).unwrap();
        let before = crowd.arrived().packets;
        while crowd.arrived().packets == before {
            assert!(Instant::now() < end, "a packet to node {n} does not come");
            crowd.run(Duration::from_millis(1)).unwrap();
        }
    }
    assert_eq!(crowd.arrived().bytes, (NODES * BYTES) as u64);
    assert!(edge.peers().iter().all(|peer| peer.handshake_age.is_some()));
}
