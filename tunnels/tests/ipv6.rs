//! Tunnels whose datagrams are IPv6, on real wires.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod wires;
mod world;

use holdfast_api::tunnel::TunnelKind;
use std::net::{Ipv6Addr, SocketAddr};
use wires::{
    End, Kind, Outside, answer_from_either_address, need, stream_both_ways,
    stream_over_a_small_mtu, tunnel, tunnel_over,
};
use world::{World, of, wait_for};

#[test]
fn a_stream_arrives_whole() {
    need!(Kind::Ours);
    let ends = tunnel_over(Outside::V6, [Kind::Ours, Kind::Ours], "");
    stream_both_ways(&ends, 20_000_000);
}

#[test]
fn a_wire_with_a_small_mtu_carries_it_all_the_same() {
    need!(Kind::Ours);
    stream_over_a_small_mtu(Outside::V6);
}

#[test]
fn answers_come_from_the_address_that_was_written_to() {
    need!(Kind::Ours);
    answer_from_either_address(Outside::V6);
}

/// By addresses that only mean something on their link.
#[test]
fn neighbours_find_each_other() {
    need!(Kind::Ours);
    let [a, b] = tunnel([Kind::Ours, Kind::Ours], "");
    for (end, address) in [(&a, "fe80::1/64"), (&b, "fe80::2/64")] {
        end.run("ip", &["address", "add", address, "dev", "w", "nodad"]);
    }
    a.run("wg", &["set", &a.link, "peer", &b.public, "endpoint", "[fe80::2%w]:5002"]);
    assert!(a.pings("10.9.0.2", "56") && b.pings("10.9.0.1", "1392"));
    let endpoint = |end: &End| end.run("wg", &["show", &end.link, "endpoints"]);
    assert_eq!(endpoint(&a), format!("{}\t[fe80::2%w]:5002", b.public));
    let seen = endpoint(&b);
    assert!(seen.contains("\t[fe80::") && seen.ends_with("%w]:5001"), "{seen}");
}

/// Of IPv6 there are no fragments on the way: our end makes them, or the datagram is lost.
#[test]
fn what_passes_whole_is_found_out_over_ipv6() {
    if let Some(why) = world::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut world = World::of(&[("a", 0), ("b", 60)]);
    world.edges.iter_mut().for_each(world::Edge::run_through_device);
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    for (edge, (candidate, n)) in
        world.edges.iter().zip(config.intent.candidates.iter_mut().zip(1u16..))
    {
        let [near, far] = [1, 2].map(|last| Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, last));
        let add = |address: Ipv6Addr, link: &str| {
            let address = format!("{address}/64");
            ["addr", "add", &address, "dev", link, "nodad"].map(str::to_owned)
        };
        world.node.ip(&add(near, &format!("up{n}")).each_ref().map(String::as_str));
        edge.namespace.ip(&add(far, "wan").each_ref().map(String::as_str));
        candidate.endpoint = SocketAddr::new(far.into(), candidate.endpoint.port());
    }
    // Our end goes on to send what the other one does not take. What is no probe goes in fragments,
    // as if the kernel had learned it.
    world.node.ip(&[
        "-6",
        "route",
        "replace",
        "2001:db8:1::/64",
        "dev",
        "up1",
        "metric",
        "256",
        "mtu",
        "1400",
    ]);
    world.edge("re-1").namespace.ip(&["link", "set", "dev", "wan", "mtu", "1400"]);
    world.write(&config);
    world.start();
    let state = world.wait("both paths are known", |state| {
        let known = |edge| of(state, edge).and_then(|tunnel| tunnel.path_mtu);
        known("re-1").is_some_and(|mtu| mtu > 1280) && known("re-2").is_some()
    });
    let path = |edge| of(&state, edge).unwrap().path_mtu.unwrap();
    assert!((1317..=1320).contains(&path("re-1")), "1400 less 80: {}", path("re-1"));
    assert_eq!(path("re-2"), 1420);
    let mtu = |link: &str| world.json(&["link", "show", "dev", link])[0]["mtu"].as_u64();
    wait_for("the link's MTU", || (mtu("hf-wg0") == Some(path("re-1").into())).then_some(()));
    for bytes in ["1000", "1290", "1380", "5000"] {
        let out = world.node.run("ping", &["-c", "1", "-W", "5", "-s", bytes, world::TARGET]);
        assert!(out.status.success(), "{bytes} bytes");
    }
}
