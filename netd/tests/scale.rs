//! How long many routes take. Prints, asserts nothing about time.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{name, world};
use netd::{Address, Link, LinkKind, Network, Nexthop, Ownership, Peer, Route, RouteTarget, plan};
use std::time::Instant;

#[test]
fn a_hundred_thousand_routes_move_by_one_message() {
    let Some(world) = world() else { return };
    let (mut kernel, owner) = (world.kernel(), Ownership::host());
    let (a, b, group) = (0x4846_8001, 0x4846_8002, 0x4846_8010);
    let mut want = Network::default();
    for (link, peer) in [("hf-a", "hf-a1"), ("hf-a1", "hf-a"), ("hf-b", "hf-b1"), ("hf-b1", "hf-b")]
    {
        want.links.insert(Link::new(name(link), LinkKind::Veth { peer: Peer::Here(name(peer)) }));
    }
    want.addresses.insert(Address::new(name("hf-a"), "192.0.2.1/25".parse().unwrap()));
    want.addresses.insert(Address::new(name("hf-b"), "192.0.2.129/25".parse().unwrap()));
    want.nexthops.insert(Nexthop::via(a, "192.0.2.2".parse().unwrap(), name("hf-a")));
    want.nexthops.insert(Nexthop::via(b, "192.0.2.130".parse().unwrap(), name("hf-b")));
    want.nexthops.insert(Nexthop::active(group, a));
    for n in 0..100_000u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + (n << 4));
        want.routes.insert(
            Route::new(254, format!("{ip}/28").parse().unwrap(), RouteTarget::Nexthop(group))
                .with_metric(72),
        );
    }
    kernel.disable_nexthop_compat().unwrap();
    let clock = Instant::now();
    let have = kernel.observe(&owner, &want).unwrap();
    let steps = plan(&want, &have, &owner).unwrap();
    let planned = clock.elapsed();
    kernel.apply_all(&steps).unwrap();
    let applied = clock.elapsed();
    let have = kernel.observe(&owner, &want).unwrap();
    let observed = clock.elapsed();
    assert_eq!(plan(&want, &have, &owner), Ok(vec![]));
    let compared = clock.elapsed();
    let mut switches: Vec<_> = (0..1001)
        .map(|n| {
            let clock = Instant::now();
            kernel
                .replace_nexthop(&Nexthop::active(group, if n % 2 == 0 { b } else { a }))
                .unwrap();
            clock.elapsed()
        })
        .collect();
    switches.sort();
    let last = world.ask("route get 10.0.0.1");
    assert_eq!(last[0]["gateway"], "192.0.2.130");
    eprintln!(
        "{} steps: planned in {planned:?}, applied in {:?}; observed in {:?}, compared in {:?}; \
         one switch {:?} (median), {:?} (p99)",
        steps.len(),
        applied - planned,
        observed - applied,
        compared - observed,
        switches[500],
        switches[990],
    );
    let clock = Instant::now();
    let steps = plan(&Network::default(), &have, &owner).unwrap();
    kernel.apply_all(&steps).unwrap();
    eprintln!("removed in {:?}", clock.elapsed());
}
