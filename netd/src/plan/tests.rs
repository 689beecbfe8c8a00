//! The laws of planning, against a kernel that remembers.

mod cases;
mod fake;

use super::plan;
use crate::model::*;
use crate::ownership::Ownership;
use crate::step::Step;
use fake::FakeKernel;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::BTreeSet;
use std::num::NonZeroU8;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

/// Links that a wish may contain. The kind goes with the name, so that nothing is made anew
/// where a law is about keeping.
fn candidates() -> Vec<Link> {
    let link = |n: &str, kind| Link::new(name(n), kind);
    vec![
        link("eth0", LinkKind::Physical),
        link("hf-br0", LinkKind::Bridge),
        link("hf-br1", LinkKind::Bridge),
        link("hf-v0", LinkKind::Veth { peer: Peer::Here(name("hf-v1")) }),
        link("hf-v1", LinkKind::Veth { peer: Peer::Here(name("hf-v0")) }),
        link("hf-x0", LinkKind::Veth { peer: Peer::In { netns: "other".into(), name: name("p") } }),
        link("hf-vlan7", LinkKind::Vlan { parent: name("eth0"), id: 7 }),
        link("hf-mac0", LinkKind::Macvlan { parent: name("eth0") }),
        link("hf-k0", LinkKind::Wireguard(WireguardDevice::default())),
    ]
}

fn links() -> impl Strategy<Value = Vec<Link>> {
    let all = candidates();
    let count = all.len();
    subsequence(all, 0..=count).prop_flat_map(|links| {
        let settings = prop::collection::vec(
            (
                select(vec![None, Some(1400), Some(1500)]),
                select(vec![None, Some("hf-br0")]),
                any::<bool>(),
            ),
            links.len(),
        );
        (Just(links), settings).prop_map(|(links, settings)| {
            let bridge = links.iter().any(|link| link.name == name("hf-br0"));
            let set = |(mut link, (mtu, controller, forward)): (
                Link,
                (Option<u32>, Option<&str>, bool),
            )| {
                link.mtu = mtu;
                let port = bridge && !matches!(link.kind, LinkKind::Bridge | LinkKind::Vlan { .. });
                link.controller = controller.filter(|_| port).map(name);
                if let LinkKind::Wireguard(device) = &mut link.kind {
                    device.private_key = forward.then_some(WgKey([7; 32]));
                    device.peers.insert(WgKey([u8::from(forward); 32]), WireguardPeer::default());
                }
                if forward {
                    link = link.with_sysctl(LinkSysctl::forwarding(Family::V4), "1");
                }
                link
            };
            links.into_iter().zip(settings).map(set).collect()
        })
    })
}

/// A wish that makes sense, over the links that it has.
fn wish() -> impl Strategy<Value = Network> {
    links().prop_flat_map(|links| {
        let mut names: Vec<LinkName> = links.iter().map(|link| link.name.clone()).collect();
        names.push(name("eth1"));
        let address = (select(names.clone()), 0u8..3, 1u8..4, any::<bool>()).prop_map(
            |(link, net, host, v6)| {
                let net: IpNet = match v6 {
                    false => format!("10.0.{net}.{host}/24"),
                    true => format!("2001:db8:{net}::{host}/{}", if host == 3 { 48 } else { 64 }),
                }
                .parse()
                .unwrap();
                Address::new(link, net)
            },
        );
        let singles =
            prop::collection::btree_map(0u32..4, (select(names.clone()), any::<bool>()), 0..4);
        (
            Just(links),
            prop::collection::vec(address, 0..6),
            singles,
            prop::collection::btree_map(
                10u32..13,
                prop::collection::btree_map(0u32..4, 1u8..4, 1..3),
                0..3,
            ),
            prop::collection::vec(
                (
                    0u8..6,
                    0u32..3,
                    any::<bool>(),
                    0u8..5,
                    any::<prop::sample::Index>(),
                    select(names),
                ),
                0..10,
            ),
            prop::collection::btree_set((7250u32..7253, 7250u32..7253, any::<bool>()), 0..4),
        )
            .prop_map(|(links, addresses, singles, groups, routes, rules)| {
                let mut want = Network::default();
                want.links.extend(links);
                for address in addresses {
                    // One prefix length per IPv6 address and link.
                    let twice =
                        |a: &Address| a.link == address.link && a.net.addr() == address.net.addr();
                    if !want.addresses.iter().any(twice) {
                        want.addresses.insert(address);
                    }
                }
                for (n, (link, gateway)) in singles {
                    let id = 0x4846_8000 + n;
                    want.nexthops.insert(match gateway {
                        true => Nexthop::via(id, "fe80::1".parse().unwrap(), link),
                        false => Nexthop::dev(id, Family::V6, link),
                    });
                }
                for (n, members) in groups {
                    let there = members
                        .into_iter()
                        .map(|(m, w)| (0x4846_8000 + m, NonZeroU8::new(w).unwrap()));
                    let there: Vec<_> =
                        there.filter(|(id, _)| want.nexthops.contains(id)).collect();
                    if !there.is_empty() {
                        want.nexthops.insert(Nexthop::group(0x4846_8000 + n, there));
                    }
                }
                let ids: Vec<u32> = want.nexthops.iter().map(|n| n.id).collect();
                for (prefix, table, v6, kind, which, link) in routes {
                    let prefix: IpNet = match v6 {
                        false => format!("172.16.{prefix}.0/24"),
                        true => format!("2001:db8:{prefix}::/48"),
                    }
                    .parse()
                    .unwrap();
                    let target = match kind {
                        0 => RouteTarget::Dev(link),
                        1 => RouteTarget::Blackhole,
                        2 => RouteTarget::Via {
                            gateway: "fe80::2".parse().unwrap(),
                            link,
                            onlink: false,
                        },
                        _ if ids.is_empty() => RouteTarget::Unreachable,
                        _ => RouteTarget::Nexthop(ids[which.index(ids.len())]),
                    };
                    let table = if table == 0 { MAIN_TABLE } else { 7250 + table };
                    want.routes.insert(Route::new(table, prefix, target).with_metric(700));
                }
                for (priority, table, v6) in rules {
                    let family = if v6 { Family::V6 } else { Family::V4 };
                    want.rules.insert(Rule::new(priority, family, table));
                }
                want
            })
    })
}

/// A machine with ports and things of others all around.
fn bare_machine() -> FakeKernel {
    let mut kernel = FakeKernel::with_ports(&["eth0", "eth1", "docker0"]);
    kernel.foreign();
    kernel
}

/// The same with `have` on top.
fn machine(have: &Network) -> FakeKernel {
    let mut kernel = bare_machine();
    let owner = Ownership::host();
    for step in plan(have, &kernel.observe(&owner, have), &owner).unwrap() {
        kernel.apply(&step).unwrap_or_else(|e| panic!("{step}: {e}"));
    }
    kernel
}

fn apply(kernel: &mut FakeKernel, steps: &[Step]) {
    for step in steps {
        kernel.apply(step).unwrap_or_else(|e| panic!("{step}: {e}\nof {}", listing(steps)));
    }
}

fn listing(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn planning_again_after_applying_yields_nothing(have in wish(), want in wish()) {
        let owner = Ownership::host();
        let mut kernel = machine(&have);
        let steps = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        apply(&mut kernel, &steps);
        let again = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        prop_assert!(again.is_empty(), "first:\n{}then:\n{}", listing(&steps), listing(&again));
    }

    #[test]
    fn nothing_without_our_mark_is_ever_changed(first in wish(), then in wish()) {
        let owner = Ownership::host();
        let mut kernel = bare_machine();
        let both = first.links.iter().chain(&then.links);
        let declared: BTreeSet<LinkName> = both.map(|link| link.name.clone()).collect();
        let before = kernel.of_others(&declared);
        for want in [&first, &then] {
            for step in plan(want, &kernel.observe(&owner, want), &owner).unwrap() {
                kernel.apply(&step).unwrap();
                prop_assert_eq!(&kernel.of_others(&declared), &before, "{}", step);
            }
        }
    }

    #[test]
    fn a_plan_cut_short_is_made_good_by_the_next(have in wish(), want in wish(), cut: prop::sample::Index) {
        let owner = Ownership::host();
        let mut kernel = machine(&have);
        let steps = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        let cut = cut.index(steps.len() + 1);
        apply(&mut kernel, &steps[..cut]);
        let rest = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        apply(&mut kernel, &rest);
        let again = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        prop_assert!(again.is_empty(), "after {cut} of:\n{}rest:\n{}then:\n{}", listing(&steps), listing(&rest), listing(&again));
    }

    #[test]
    fn what_is_wanted_before_and_after_is_there_all_the_time(have in wish(), want in wish()) {
        let owner = Ownership::host();
        let mut kernel = machine(&have);
        let seen = kernel.observe(&owner, &want);
        let kept: Vec<RouteKey> = seen.ours.routes.iter().map(Item::key).filter(|key| want.routes.contains(key)).collect();
        let rules: Vec<Rule> = seen.ours.rules.intersection(&want.rules).cloned().collect();
        let nets: Vec<Address> = seen.ours.addresses.intersection(&want.addresses).cloned().collect();
        let steps = plan(&want, &seen, &owner).unwrap();
        for step in &steps {
            kernel.apply(step).unwrap();
            let now = kernel.observe(&owner, &want).ours;
            for key in &kept {
                prop_assert!(now.routes.contains(key), "{} is gone after \"{}\" of:\n{}", key, step, listing(&steps));
            }
            prop_assert!(rules.iter().all(|rule| now.rules.contains(rule)));
            prop_assert!(nets.iter().all(|net| now.addresses.contains(net)), "after {}", step);
        }
    }

    #[test]
    fn what_was_done_can_be_taken_back(have in wish(), want in wish(), cut: prop::sample::Index) {
        let owner = Ownership::host();
        let mut kernel = machine(&have);
        let before = kernel.observe(&owner, &Network::default());
        let steps = plan(&want, &kernel.observe(&owner, &want), &owner).unwrap();
        let cut = cut.index(steps.len() + 1);
        apply(&mut kernel, &steps[..cut]);
        for undo in steps[..cut].iter().rev().filter_map(Step::inverse).flatten() {
            kernel.apply(&undo).unwrap_or_else(|e| panic!("{undo}: {e}\nback from {}", listing(&steps[..cut])));
        }
        prop_assert_eq!(kernel.observe(&owner, &Network::default()), before, "{}", listing(&steps[..cut]));
    }
}
