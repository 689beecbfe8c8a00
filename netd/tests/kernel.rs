//! The real kernel in fresh namespaces, checked with `ip -j`.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{World, name, world};
use holdfast_api::Reason;
use netd::model::MAIN_TABLE;
use netd::{
    Address, BondMode, Family, Kernel, Link, LinkKind, LinkSysctl, Network, Nexthop, Outcome,
    Ownership, Peer, Route, RouteTarget, Rule, Step, WireguardDevice, plan,
};
use serde_json::{Value, json};
use std::io::Write;

const A: u32 = 0x4846_8001;
const B: u32 = 0x4846_8002;
const GROUP: u32 = 0x4846_8010;

/// Plans and applies; afterwards there must be nothing left to do.
fn bring_about(kernel: &mut Kernel, want: &Network) -> Vec<Step> {
    let owner = Ownership::host();
    let have = kernel.observe(&owner, want).unwrap();
    let steps = plan(want, &have, &owner).unwrap();
    if let Err(error) = kernel.apply_all(&steps) {
        panic!("{error}: {}: {:?}", error.source, std::error::Error::source(&error.source));
    }
    let have = kernel.observe(&owner, want).unwrap();
    let again: Vec<String> =
        plan(want, &have, &owner).unwrap().iter().map(ToString::to_string).collect();
    assert!(again.is_empty(), "still to do: {again:?}");
    steps
}

fn pair(a: &str, b: &str) -> [Link; 2] {
    let link = |a: &str, b: &str| Link::new(name(a), LinkKind::Veth { peer: Peer::Here(name(b)) });
    [link(a, b), link(b, a)]
}

/// Two pairs of links that are up, with an address each: `hf-a` 10.1.0.1/24, `hf-b` 10.2.0.1/24.
fn two_ways() -> Network {
    let mut want = Network::default();
    want.links.extend(pair("hf-a", "hf-a1"));
    want.links.extend(pair("hf-b", "hf-b1"));
    want.addresses.insert(Address::new(name("hf-a"), "10.1.0.1/24".parse().unwrap()));
    want.addresses.insert(Address::new(name("hf-b"), "10.2.0.1/24".parse().unwrap()));
    want
}

fn ways() -> [Nexthop; 2] {
    [
        Nexthop::via(A, "10.1.0.2".parse().unwrap(), name("hf-a")),
        Nexthop::via(B, "10.2.0.2".parse().unwrap(), name("hf-b")),
    ]
}

#[test]
fn links_of_each_kind_that_the_kernel_has() {
    let Some(world) = world() else { return };
    let Some(other) = common::world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    let mac = "02:00:5e:10:00:01".parse().unwrap();
    let mut bridge = Link::new(name("hf-br0"), LinkKind::Bridge).with_mtu(1400);
    bridge.address = Some(mac);
    want.links.insert(bridge);
    want.links
        .insert(pair("hf-a", "hf-a1")[0].clone().in_controller(name("hf-br0")).with_mtu(1400));
    let peer = Peer::In { netns: other.name.clone(), name: name("far") };
    want.links.insert(Link::new(name("hf-x"), LinkKind::Veth { peer }).with_mtu(1380));
    want.links.insert(Link::new(name("hf-mac0"), LinkKind::Macvlan { parent: name("hf-b") }));
    want.links.insert(Link::new(name("lo"), LinkKind::Physical));
    want.addresses.clear();
    bring_about(&mut kernel, &want);

    let bridge = world.link("hf-br0").unwrap();
    assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
    assert_eq!((&bridge["mtu"], &bridge["address"]), (&json!(1400), &json!("02:00:5e:10:00:01")));
    let port = world.link("hf-a").unwrap();
    assert_eq!((&port["master"], &port["mtu"]), (&json!("hf-br0"), &json!(1400)));
    assert_eq!(world.link("hf-mac0").unwrap()["linkinfo"]["info_data"]["mode"], "bridge");
    assert_eq!(other.link("far").unwrap()["mtu"], 1380);
    for up in ["hf-br0", "hf-a", "hf-a1", "hf-x", "hf-mac0", "lo"] {
        let flags = world.link(up).unwrap()["flags"].clone();
        assert!(flags.as_array().unwrap().contains(&json!("UP")), "{up}: {flags}");
    }

    // Settings change in place; what is no longer wanted goes.
    let index = world.link("hf-a").unwrap()["ifindex"].clone();
    want.links.insert(pair("hf-a", "hf-a1")[0].clone().with_mtu(1300));
    for gone in ["hf-br0", "hf-mac0", "hf-x"] {
        want.links.remove(&name(gone));
    }
    bring_about(&mut kernel, &want);
    let port = world.link("hf-a").unwrap();
    assert_eq!(
        (&port["mtu"], &port["ifindex"], &port["master"]),
        (&json!(1300), &index, &Value::Null)
    );
    assert!(world.link("hf-br0").is_none() && other.link("far").is_none());
    bring_about(&mut kernel, &Network::default());
    assert_eq!(world.ask("link").len(), 1, "only the loopback link is left");
}

#[test]
fn kinds_that_the_kernel_lacks_are_named_with_their_module() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    bring_about(&mut kernel, &two_ways());
    let kinds = [
        ("bonding", LinkKind::Bond { mode: BondMode::ActiveBackup, miimon_ms: 100 }),
        ("8021q", LinkKind::Vlan { parent: name("hf-a"), id: 7 }),
        ("wireguard", LinkKind::Wireguard(WireguardDevice::default())),
    ];
    for (module, kind) in kinds {
        let mut want = two_ways();
        want.links.insert(Link::new(name("hf-k"), kind.clone()));
        match kernel.apply(&Step::CreateLink(want.links.get(&name("hf-k")).unwrap().clone())) {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Created);
                bring_about(&mut kernel, &want);
                let seen = world.link("hf-k").unwrap()["linkinfo"]["info_kind"].clone();
                assert_eq!(seen, kind.name());
                bring_about(&mut kernel, &two_ways());
            }
            Err(error) => {
                eprintln!("skipped: {kind}: {error}");
                assert_eq!(error.reason(), Reason::NetUnsupported);
                assert!(error.to_string().contains(&format!("modprobe {module}")), "{error}");
            }
        }
    }
}

#[test]
fn addresses_carry_our_mark_and_those_of_others_stay() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    // For us a port: its name is not one of ours.
    world.ip("link add eth0 type veth peer name eth1");
    world.ip("link set eth0 up");
    world.ip("addr add 198.51.100.7/24 dev eth0");
    let mut want = two_ways();
    want.links.insert(Link::new(name("eth0"), LinkKind::Physical));
    want.addresses.insert(Address::new(name("eth0"), "192.0.2.1/24".parse().unwrap()));
    want.addresses.insert(Address::new(name("eth0"), "2001:db8::1/64".parse().unwrap()));
    let point = Address {
        peer: Some("10.3.0.2".parse().unwrap()),
        ..Address::new(name("hf-b"), "10.3.0.1/32".parse().unwrap())
    };
    want.addresses.insert(point);
    bring_about(&mut kernel, &want);

    let of = |world: &World, link: &str| -> Vec<Value> {
        let all = world.ask(&format!("addr show dev {link}"));
        all[0]["addr_info"].as_array().unwrap().clone()
    };
    let find = |all: &[Value], ip: &str| all.iter().find(|a| a["local"] == ip).cloned();
    let eth0 = of(&world, "eth0");
    assert_eq!(find(&eth0, "192.0.2.1").unwrap()["prefixlen"], 24);
    assert!(find(&eth0, "2001:db8::1").is_some() && find(&eth0, "198.51.100.7").is_some());
    assert_eq!(find(&of(&world, "hf-b"), "10.3.0.1").unwrap()["address"], "10.3.0.2");

    // A neighbour in the same subnet takes over without the kernel taking it along; an IPv6
    // address changes its prefix length.
    want.addresses.retain(|a| a.link != name("eth0"));
    want.addresses.insert(Address::new(name("eth0"), "192.0.2.2/24".parse().unwrap()));
    want.addresses.insert(Address::new(name("eth0"), "2001:db8::1/48".parse().unwrap()));
    bring_about(&mut kernel, &want);
    let eth0 = of(&world, "eth0");
    assert!(find(&eth0, "192.0.2.1").is_none());
    assert!(find(&eth0, "192.0.2.2").is_some());
    assert_eq!(find(&eth0, "2001:db8::1").unwrap()["prefixlen"], 48);

    bring_about(&mut kernel, &Network::default());
    let eth0 = of(&world, "eth0");
    assert!(find(&eth0, "198.51.100.7").is_some(), "what was there before stays");
    assert!(find(&eth0, "192.0.2.2").is_none() && find(&eth0, "2001:db8::1").is_none());
}

/// Without the promise that nobody else holds it, the kernel would call a new IPv6 address
/// tentative for a while and refuse it as a source.
#[test]
fn an_ipv6_address_of_one_host_is_a_source_at_once() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    let own = "fd00:64::1:1".parse().unwrap();
    let host = Address {
        peer: Some("fd00:64::1".parse().unwrap()),
        ..Address::new(name("hf-a"), "fd00:64::1:1/128".parse().unwrap())
    };
    want.addresses.insert(host);
    want.addresses.insert(Address::new(name("hf-b"), "fd00:64::1:2/128".parse().unwrap()));
    let to = RouteTarget::Dev(name("hf-a"));
    let route = Route::new(7250, "fd00:200::/32".parse().unwrap(), to);
    want.routes.insert(Route { source: Some(own), ..route });
    bring_about(&mut kernel, &want);
    let routes = world.ask("-6 route show table 7250");
    assert_eq!(routes[0]["prefsrc"], "fd00:64::1:1");
    for link in ["hf-a", "hf-b"] {
        let all = world.ask(&format!("-6 addr show dev {link} scope global"));
        assert_eq!(all[0]["addr_info"][0]["nodad"], true, "{link}");
    }
}

#[test]
fn routes_and_rules_in_our_tables() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    want.addresses.insert(Address::new(name("hf-a"), "2001:db8:1::1/64".parse().unwrap()));
    want.nexthops.extend(ways());
    let net = |text: &str| text.parse().unwrap();
    let via = |ip: &str, onlink| RouteTarget::Via {
        gateway: ip.parse().unwrap(),
        link: name("hf-a"),
        onlink,
    };
    let full = Route {
        source: Some("10.1.0.1".parse().unwrap()),
        mtu: Some(1380),
        ..Route::new(7250, net("10.9.0.0/16"), via("10.1.0.2", false)).with_metric(20)
    };
    for route in [
        full,
        Route::new(7250, net("10.10.0.0/16"), RouteTarget::Dev(name("hf-b"))),
        Route::new(7251, net("0.0.0.0/0"), RouteTarget::Nexthop(A)),
        Route::new(7251, net("10.11.0.0/16"), RouteTarget::Blackhole),
        Route::new(7251, net("10.12.0.0/16"), RouteTarget::Unreachable),
        Route::new(7251, net("10.13.0.0/16"), via("192.0.2.77", true)),
        Route::new(7251, net("10.14.0.0/16"), via("2001:db8:1::2", false)),
        Route::new(MAIN_TABLE, net("0.0.0.0/0"), via("10.1.0.2", false)).with_metric(100),
        Route::new(7250, net("2001:db8:9::/48"), via("2001:db8:1::2", false)),
        Route::new(7250, net("2001:db8:a::/48"), RouteTarget::Dev(name("hf-a"))),
        Route::new(7250, net("2001:db8:b::/48"), RouteTarget::Blackhole),
        Route::new(7250, net("2001:db8:c::/48"), RouteTarget::Unreachable).with_metric(7),
    ] {
        want.routes.insert(route);
    }
    want.rules.insert(Rule { from: Some(net("10.9.0.0/16")), ..Rule::new(7250, Family::V4, 7250) });
    want.rules.insert(Rule { fwmark: Some((0x72, 0xff)), ..Rule::new(7251, Family::V4, 7251) });
    want.rules.insert(Rule { fwmark: Some((0, 0x2000)), ..Rule::new(7252, Family::V4, 7251) });
    want.rules.insert(Rule {
        iif: Some(name("hf-a")),
        to: Some(net("2001:db8:9::/48")),
        ..Rule::new(7250, Family::V6, 7250)
    });
    bring_about(&mut kernel, &want);

    let routes = world.ask("route show table 7250");
    let full = routes.iter().find(|r| r["dst"] == "10.9.0.0/16").unwrap();
    assert_eq!(full["gateway"], "10.1.0.2");
    assert_eq!(full["protocol"], "72");
    assert_eq!((&full["metric"], &full["prefsrc"]), (&json!(20), &json!("10.1.0.1")));
    assert_eq!(full["metrics"][0]["mtu"], 1380);
    assert_eq!(world.ask("route show table 7251").len(), 5);
    assert_eq!(world.ask("-6 route show table 7250 proto 72").len(), 4);
    let rules = world.ask("rule show");
    assert!(
        rules
            .iter()
            .any(|r| r["priority"] == 7250 && r["src"] == "10.9.0.0" && r["table"] == "7250")
    );
    assert!(
        rules
            .iter()
            .any(|r| r["priority"] == 7251 && r["fwmark"] == "0x72" && r["fwmask"] == "0xff")
    );
    let forward = || {
        std::fs::File::options()
            .write(true)
            .open("/proc/sys/net/ipv4/ip_forward")
            .and_then(|mut f| f.write_all(b"1"))
    };
    world.namespace.enter(forward).unwrap().unwrap();
    let reached = &world.ask("route get 10.9.1.1 from 10.9.0.1 iif hf-b");
    assert_eq!(reached[0]["gateway"], "10.1.0.2", "the rule leads into the table");

    // Each target is exchanged for another in place, and the main table's others stay.
    world.ip("route add 203.0.113.0/24 dev hf-b metric 5 proto static");
    let targets: Vec<RouteTarget> = want.routes.iter().map(|r| r.target.clone()).collect();
    let rotated: Vec<Route> = want
        .routes
        .iter()
        .enumerate()
        .map(|(n, route)| {
            let next = targets.iter().cycle().skip(n + 1).find(|target| match target {
                _ if **target == route.target => false,
                RouteTarget::Via { gateway, .. } => {
                    gateway.is_ipv4() == route.prefix.addr().is_ipv4()
                }
                RouteTarget::Nexthop(_) => route.prefix.addr().is_ipv4(),
                _ => true,
            });
            Route { target: next.unwrap().clone(), source: None, mtu: None, ..route.clone() }
        })
        .collect();
    want.routes.extend(rotated);
    let steps = bring_about(&mut kernel, &want);
    assert!(steps.iter().all(|step| matches!(step, Step::ReplaceRoute { .. })), "{steps:?}");

    bring_about(&mut kernel, &two_ways());
    assert!(world.ask("route show table main proto 72").is_empty());
    assert_eq!(world.ask("route show 203.0.113.0/24").len(), 1);
    assert_eq!(world.ask("rule show").len(), 3, "the three that every namespace has");
}

#[test]
fn a_nexthop_group_moves_all_routes_by_one_message() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    want.nexthops.extend(ways());
    want.nexthops.insert(Nexthop::active(GROUP, A));
    for n in 0..50u8 {
        let prefix = format!("10.9.{n}.0/24").parse().unwrap();
        want.routes
            .insert(Route::new(MAIN_TABLE, prefix, RouteTarget::Nexthop(GROUP)).with_metric(72));
    }
    bring_about(&mut kernel, &want);
    let way = |world: &World| world.ask("route get 10.9.7.1")[0]["gateway"].clone();
    assert_eq!(way(&world), "10.1.0.2");
    kernel.replace_nexthop(&Nexthop::active(GROUP, B)).unwrap();
    assert_eq!(way(&world), "10.2.0.2");
    let group = world.ask(&format!("nexthop show id {GROUP}"));
    assert_eq!(group[0]["group"], json!([{ "id": B }]));

    // The plan sees it as drift of exactly this group.
    let owner = Ownership::host();
    let have = kernel.observe(&owner, &want).unwrap();
    let steps = plan(&want, &have, &owner).unwrap();
    assert_eq!(
        steps,
        [Step::ReplaceNexthop { from: Nexthop::active(GROUP, B), to: Nexthop::active(GROUP, A) }]
    );
    kernel.apply_all(&steps).unwrap();
    assert_eq!(way(&world), "10.1.0.2");

    let unknown = kernel.replace_nexthop(&Nexthop::active(GROUP, 0x4846_8fff)).unwrap_err();
    assert!(unknown.errno().is_some(), "{unknown}");
    assert_eq!(way(&world), "10.1.0.2", "a refused message changes nothing");
}

#[test]
fn somebody_elses_thing_is_a_conflict_and_left_alone() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    bring_about(&mut kernel, &two_ways());
    world.ip("route add 10.9.0.0/16 dev hf-b metric 72 proto static");
    let mut want = two_ways();
    let route =
        Route::new(MAIN_TABLE, "10.9.0.0/16".parse().unwrap(), RouteTarget::Dev(name("hf-a")))
            .with_metric(72);
    want.routes.insert(route.clone());
    let owner = Ownership::host();
    let have = kernel.observe(&owner, &want).unwrap();
    assert_eq!(plan(&want, &have, &owner).unwrap_err().reason(), Reason::NetConflict);
    // The same when it came after the observation.
    let error = kernel.apply(&Step::AddRoute(route)).unwrap_err();
    assert_eq!(error.reason(), Reason::NetConflict);
    assert_eq!(world.ask("route show 10.9.0.0/16")[0]["dev"], "hf-b");
}

#[test]
fn doing_a_step_twice_is_ordinary() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    want.nexthops.extend(ways());
    want.routes.insert(Route::new(7250, "10.9.0.0/16".parse().unwrap(), RouteTarget::Nexthop(A)));
    want.rules.insert(Rule::new(7250, Family::V4, 7250));
    let steps = bring_about(&mut kernel, &want);
    let making = |step: &&Step| {
        matches!(
            step,
            Step::CreateLink(_)
                | Step::AddAddress(_)
                | Step::CreateNexthop(_)
                | Step::AddRoute(_)
                | Step::AddRule(_)
        )
    };
    for step in steps.iter().filter(making) {
        assert_eq!(kernel.apply(step).unwrap(), Outcome::Unchanged, "{step}");
    }
    let undo: Vec<Step> =
        steps.iter().rev().filter(making).flat_map(|s| s.inverse().unwrap()).collect();
    kernel.apply_all(&undo).unwrap();
    for step in &undo {
        assert_eq!(kernel.apply(step).unwrap(), Outcome::Unchanged, "{step}");
    }
    assert_eq!(world.ask("link").len(), 1);
}

#[test]
fn a_failed_plan_is_taken_back() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut before = two_ways();
    before.nexthops.extend(ways());
    before.nexthops.insert(Nexthop::active(GROUP, A));
    before.routes.insert(Route::new(
        7250,
        "10.8.0.0/16".parse().unwrap(),
        RouteTarget::Nexthop(GROUP),
    ));
    bring_about(&mut kernel, &before);

    let mut want = before.clone();
    want.links.insert(Link::new(name("hf-br0"), LinkKind::Bridge));
    want.links.insert(pair("hf-a", "hf-a1")[0].clone().with_mtu(1300));
    want.addresses.insert(Address::new(name("hf-br0"), "10.4.0.1/24".parse().unwrap()));
    want.nexthops.insert(Nexthop::active(GROUP, B));
    let gateway = "192.0.2.99".parse().unwrap();
    let unreachable = RouteTarget::Via { gateway, link: name("hf-a"), onlink: false };
    want.routes.insert(Route::new(7250, "10.9.0.0/16".parse().unwrap(), unreachable));
    want.routes.insert(Route::new(7250, "10.10.0.0/16".parse().unwrap(), RouteTarget::Blackhole));
    want.routes.remove(&before.routes.iter().next().map(netd::model::Item::key).unwrap());

    let owner = Ownership::host();
    let have = kernel.observe(&owner, &want).unwrap();
    let steps = plan(&want, &have, &owner).unwrap();
    let error = kernel.apply_all(&steps).unwrap_err();
    assert_eq!(error.reason(), Reason::NetApplyFailed);
    assert!(error.source.to_string().contains("covers the gateway"), "{}", error.source);
    assert!(matches!(&steps[error.at], Step::AddRoute(r) if r.prefix.to_string() == "10.9.0.0/16"));
    assert!(error.undo_failures.is_empty() && error.kept.is_empty(), "{error}");
    let after = kernel.observe(&owner, &before).unwrap();
    assert_eq!(plan(&before, &after, &owner), Ok(vec![]), "all is as it was");
    assert!(world.link("hf-br0").is_none());
}

#[test]
fn many_routes() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    want.nexthops.extend(ways());
    want.nexthops.insert(Nexthop::active(GROUP, A));
    for n in 0..1000u32 {
        let prefix = format!("100.{}.{}.0/24", 64 + n / 256, n % 256).parse().unwrap();
        want.routes.insert(Route::new(7252, prefix, RouteTarget::Nexthop(GROUP)));
    }
    bring_about(&mut kernel, &want);
    assert_eq!(world.ask("route show table 7252").len(), 1000);
    // One of them fails in the middle of a batch: all are taken back.
    let steps: Vec<Step> = want
        .routes
        .iter()
        .enumerate()
        .map(|(n, route)| {
            let target = RouteTarget::Nexthop(if n == 500 { 0x4846_8fff } else { GROUP });
            Step::AddRoute(Route { table: 7253, target, ..route.clone() })
        })
        .collect();
    let error = kernel.apply_all(&steps).unwrap_err();
    assert_eq!((error.at, error.total, error.undo_failures.len()), (500, 1000, 0));
    assert!(world.ask("route show table all proto 72").iter().all(|r| r["table"] == "7252"));
    bring_about(&mut kernel, &two_ways());
    assert!(world.ask("route show table all proto 72").is_empty());
}

#[test]
fn settings_of_links() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let mut want = two_ways();
    let link = pair("hf-a", "hf-a1")[0].clone();
    let sysctl = LinkSysctl::rp_filter();
    want.links.insert(
        link.clone()
            .with_sysctl(sysctl.clone(), "2")
            .with_sysctl(LinkSysctl::forwarding(Family::V6), "1"),
    );
    bring_about(&mut kernel, &want);
    let read = || {
        world
            .namespace
            .enter(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/hf-a/rp_filter"))
            .unwrap()
            .unwrap()
    };
    assert_eq!(read().trim(), "2");
    let bad = Step::SetSysctl {
        link: name("hf-a"),
        sysctl: LinkSysctl::new(Family::V4, "no_such").unwrap(),
        from: None,
        to: "1".into(),
    };
    assert!(matches!(kernel.apply(&bad), Err(netd::ApplyError::Sysctl { .. })));
}

#[test]
fn another_owners_things_are_not_seen_as_ours() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let owner = Ownership::tunnels();
    let mut want = Network::default();
    want.links.extend(pair("hf-wg0", "hf-wg1"));
    want.addresses.insert(Address::new(name("hf-wg0"), "10.5.0.1/24".parse().unwrap()));
    want.nexthops.insert(Nexthop::dev(0x4846_0001, Family::V6, name("hf-wg0")));
    want.routes.insert(Route::new(
        7200,
        "10.9.0.0/16".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_0001),
    ));
    want.routes.insert(Route::new(
        7200,
        "2001:db8::/32".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_0001),
    ));
    want.rules.insert(Rule::new(7200, Family::V6, 7200));
    let have = kernel.observe(&owner, &want).unwrap();
    kernel.apply_all(&plan(&want, &have, &owner).unwrap()).unwrap();

    // The host wants nothing, and nothing of the tunnels goes.
    bring_about(&mut kernel, &Network::default());
    let have = kernel.observe(&owner, &want).unwrap();
    assert_eq!(plan(&want, &have, &owner), Ok(vec![]));
    assert_eq!(have.ours.routes.len(), 2);
}
