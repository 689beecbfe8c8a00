//! The laws are tested on a small model of the kernel: rules in order of priority, the longest
//! prefix in each table, nexthops followed to their link.

use super::*;
use crate::nodes::{Edge, admit};
use holdfast_api::resources::{TunnelPeer, TunnelPeerSpec};
use holdfast_api::tunnel::PublicKey;
use netd::NexthopTarget;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const NODES: u8 = 4;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn node(number: u8) -> NodeKey {
    NodeKey::new("acme", &format!("n{number}")).unwrap()
}

/// Nodes 2 and 3 are of one site and share a prefix.
fn nodes() -> Nodes {
    let peers: Vec<TunnelPeer> = (0..NODES)
        .map(|n| {
            let site = n.min(2);
            let spec = TunnelPeerSpec {
                node: format!("n{n}"),
                site: format!("s{site}"),
                public_key: PublicKey([n + 1; 32]),
                overlay_address: overlay(n),
                site_prefixes: vec![format!("10.{site}.0.0/24").parse().unwrap()],
                edges: vec!["re".into()],
                ..TunnelPeerSpec::default()
            };
            TunnelPeer::new(Some("acme"), &format!("n{n}"), spec)
        })
        .collect();
    let edge = Edge { name: "re".into(), overlay: [100, 64, 0, 1].into(), protected: [].into() };
    let (nodes, refusals) = admit(&edge, &peers, &Nodes::default());
    assert!(refusals.is_empty(), "{refusals:?}");
    nodes
}

fn overlay(n: u8) -> IpAddr {
    [100, 64, 1, n].into()
}

fn site(n: u8) -> IpAddr {
    [10, n.min(2), 0, 9].into()
}

fn device() -> Device {
    let overlay = [100, 64, 0, 1].into();
    Device { link: name(names::LINK), kind: LinkKind::Tun, overlay, mtu: 1420 }
}

fn backbone(others: &[u8]) -> Backbone {
    let at = |n: &u8| (format!("re-{n}"), IpAddr::V4(Ipv4Addr::new(10, 255, 0, *n)));
    Backbone { link: name("bb0"), edges: others.iter().map(at).collect() }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Tunnel,
    Backbone(IpAddr),
    Nowhere,
    NotOurs,
}

/// What the kernel does with a packet that came in on `iif`.
fn forward(network: &Network, iif: &str, to: IpAddr) -> Way {
    let mut rules: Vec<_> = network.rules.iter().collect();
    rules.sort_by_key(|rule| rule.priority);
    let fits = |rule: &&Rule| {
        rule.family == Family::from(to)
            && rule.fwmark.is_none()
            && rule.iif.as_ref().is_none_or(|link| link.as_str() == iif)
    };
    for rule in rules.into_iter().filter(fits) {
        let found = network
            .routes
            .iter()
            .filter(|route| route.table == rule.table && route.prefix.contains(&to))
            .max_by_key(|route| route.prefix.prefix_len());
        match found.map(|route| &route.target) {
            None => {}
            Some(RouteTarget::Nexthop(id)) => match &network.nexthops.get(id).unwrap().target {
                NexthopTarget::Single { gateway: Some(at), link, .. } => {
                    assert_eq!(link.as_str(), "bb0");
                    return Way::Backbone(*at);
                }
                NexthopTarget::Single { gateway: None, link, .. } => {
                    assert_eq!(link.as_str(), names::LINK);
                    return Way::Tunnel;
                }
                other => panic!("{other:?}"),
            },
            Some(RouteTarget::Unreachable) => return Way::Nowhere,
            Some(other) => panic!("{other:?}"),
        }
    }
    Way::NotOurs
}

/// What one edge believes: who is up here, and what the others (by number) said last.
#[derive(Debug, Clone)]
struct Belief {
    up: BTreeSet<NodeKey>,
    elsewhere: BTreeMap<NodeKey, BTreeSet<String>>,
}

fn belief(edges: u8) -> impl Strategy<Value = Belief> {
    let set = || proptest::collection::btree_set((0..NODES).prop_map(node), 0..=usize::from(NODES));
    (set(), proptest::collection::vec(set(), usize::from(edges))).prop_map(|(up, said)| {
        let mut elsewhere: BTreeMap<NodeKey, BTreeSet<String>> = BTreeMap::new();
        for (edge, nodes) in said.into_iter().enumerate() {
            for node in nodes {
                elsewhere.entry(node).or_default().insert(format!("re-{edge}"));
            }
        }
        Belief { up, elsewhere }
    })
}

fn destinations() -> impl Iterator<Item = IpAddr> {
    (0..NODES).flat_map(|n| [overlay(n), site(n)])
}

fn view<'a>(nodes: &'a Nodes, belief: &'a Belief, backbone: Option<&'a Backbone>) -> View<'a> {
    View { nodes, up: &belief.up, elsewhere: &belief.elsewhere, backbone, ipv6: true }
}

proptest! {
    /// The law: whatever the edges believe, also if all of it is old and wrong, a packet crosses
    /// the backbone at most once and never leaves an edge by the way it came.
    #[test]
    fn no_packet_loops(beliefs in proptest::collection::vec(belief(4), 4), start in 0usize..4) {
        let nodes = nodes();
        let kernels: Vec<Network> = beliefs.iter().zip(0u8..).map(|(belief, me)| {
            let others: Vec<u8> = (0..4).filter(|n| *n != me).collect();
            want(&device(), &view(&nodes, belief, Some(&backbone(&others))))
        }).collect();
        for to in destinations() {
            let (mut at, mut iif, mut crossed) = (start, "eth0", 0);
            while let Way::Backbone(next) = forward(&kernels[at], iif, to) {
                prop_assert_eq!(iif, "eth0", "came over the backbone and goes back over it");
                let IpAddr::V4(next) = next else { panic!() };
                (at, iif, crossed) = (usize::from(next.octets()[3]), "bb0", crossed + 1);
                prop_assert!(crossed <= 1);
            }
        }
    }

    /// The laws of the way: into the tunnel when the node is up here; else over the backbone when
    /// another edge has it; else nowhere, and never out by the default route.
    #[test]
    fn packets_go_where_the_node_is(belief in belief(4)) {
        let (nodes, backbone) = (nodes(), backbone(&[1, 2, 3]));
        let kernel = want(&device(), &view(&nodes, &belief, Some(&backbone)));
        for n in 0..NODES {
            let site_mates: Vec<NodeKey> = if n < 2 { vec![node(n)] } else { vec![node(2), node(3)] };
            for (to, claimants) in [(overlay(n), vec![node(n)]), (site(n), site_mates)] {
                let here = claimants.iter().any(|key| belief.up.contains(key));
                let there: BTreeSet<IpAddr> = claimants.iter()
                    .flat_map(|key| belief.elsewhere.get(key)).flatten()
                    .filter_map(|edge| backbone.edges.get(edge)).copied().collect();
                let lost = if to == overlay(n) { Way::Tunnel } else { Way::Nowhere };
                let way = forward(&kernel, "eth0", to);
                match way {
                    Way::Tunnel if here => {}
                    Way::Backbone(at) if !here => prop_assert!(there.contains(&at)),
                    way => prop_assert!(!here && there.is_empty() && way == lost, "{to}: {way:?}"),
                }
                let from_backbone = forward(&kernel, "bb0", to);
                prop_assert_eq!(from_backbone, if here { Way::Tunnel } else { lost });
            }
        }
    }

    /// The law: stepping from one view to another gives what planning the other from nothing gives.
    #[test]
    fn small_changes_add_up(beliefs in proptest::collection::vec(belief(4), 2..5)) {
        let (nodes, backbone) = (nodes(), backbone(&[1, 2, 3]));
        let mut have = want(&device(), &view(&nodes, &beliefs[0], Some(&backbone))).routes;
        for belief in &beliefs[1..] {
            let view = view(&nodes, belief, Some(&backbone));
            let all: BTreeSet<IpNet> = nodes.claims().map(|(prefix, _)| *prefix).collect();
            let steps = change(&have, &all, &view);
            let first_deletion = steps.iter().position(|s| matches!(s, Step::DeleteRoute(_)));
            prop_assert!(steps.iter().skip(first_deletion.unwrap_or(steps.len())).all(|s| matches!(s, Step::DeleteRoute(_))));
            for step in steps {
                match step {
                    Step::AddRoute(route) => prop_assert!(have.insert(route).is_none()),
                    Step::ReplaceRoute { from, to } => prop_assert_eq!(have.insert(to), Some(from)),
                    Step::DeleteRoute(route) => prop_assert_eq!(have.remove(&route.key()), Some(route)),
                    other => panic!("{other}"),
                }
            }
            prop_assert_eq!(&have, &want(&device(), &view).routes);
            prop_assert!(change(&have, &all, &view).is_empty());
        }
    }

    /// The law: every destination is exactly one node's in WireGuard, and one that is up if any is.
    #[test]
    fn every_destination_has_one_tunnel(belief in belief(1)) {
        let nodes = nodes();
        let allowed = allowed_ips(&view(&nodes, &belief, None));
        for (prefix, claimants) in nodes.claims() {
            let owners: Vec<_> = allowed.iter().filter(|(_, p)| p.contains(prefix)).map(|(k, _)| k).collect();
            prop_assert_eq!(owners.len(), 1);
            prop_assert!(claimants.contains(owners[0]));
            let any_up = claimants.iter().any(|key| belief.up.contains(key));
            prop_assert_eq!(any_up, belief.up.contains(owners[0]));
        }
    }
}

#[test]
fn losing_a_tunnel_only_takes_deletions() {
    let (nodes, backbone) = (nodes(), backbone(&[1]));
    let up = Belief { up: [node(0)].into(), elsewhere: [(node(0), ["re-1".into()].into())].into() };
    let have = want(&device(), &view(&nodes, &up, Some(&backbone))).routes;
    let down = Belief { up: [].into(), ..up };
    let steps = change(&have, &nodes.destinations(&node(0)), &view(&nodes, &down, Some(&backbone)));
    let text: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "delete route 10.0.0.0/24 in table 7210 over nexthop 1212551168",
            "delete route 100.64.1.0/32 in table 7210 over nexthop 1212551168",
        ]
    );
}

#[test]
fn without_a_backbone_nothing_points_at_one() {
    let nodes = nodes();
    let all = Belief { up: [].into(), elsewhere: [(node(0), ["re-1".into()].into())].into() };
    let kernel = want(&device(), &view(&nodes, &all, None));
    assert!(kernel.routes.iter().all(|route| route.table != names::BACKBONE_TABLE));
    assert!(kernel.rules.iter().all(|rule| rule.iif.is_none()));
    assert_eq!(forward(&kernel, "eth0", site(0)), Way::Nowhere);
    assert_eq!(forward(&kernel, "eth0", [192, 0, 2, 1].into()), Way::NotOurs);
}

#[test]
fn nodes_spread_over_the_edges_that_have_them() {
    let (nodes, backbone) = (nodes(), backbone(&[1, 2, 3]));
    let everywhere: BTreeSet<String> = ["re-1".into(), "re-2".into(), "re-3".into()].into();
    let belief = Belief {
        up: [].into(),
        elsewhere: (0..NODES).map(|n| (node(n), everywhere.clone())).collect(),
    };
    let view = view(&nodes, &belief, Some(&backbone));
    let chosen: BTreeSet<_> =
        (0..NODES).filter_map(|n| backup(&IpNet::from(overlay(n)), &view)).collect();
    assert!(chosen.len() > 1, "{chosen:?}");
}
