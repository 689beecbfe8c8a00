use super::*;
use holdfast_api::resources::TunnelPeerSpec;
use proptest::prelude::*;

fn edge() -> Edge {
    Edge {
        name: "re-1".into(),
        overlay: "100.64.0.1".parse().unwrap(),
        protected: ["10.255.0.1".parse().unwrap(), "10.255.0.2".parse().unwrap()].into(),
    }
}

fn peer(tenant: &str, node: &str, number: u8, prefixes: &[&str]) -> TunnelPeer {
    let spec = TunnelPeerSpec {
        node: node.into(),
        site: format!("site-of-{node}"),
        public_key: PublicKey([number; 32]),
        overlay_address: [100, 64, 1, number].into(),
        site_prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        edges: vec!["re-1".into()],
        bfd: BfdTimers::default(),
    };
    TunnelPeer::new(Some(tenant), node, spec)
}

fn key(text: &str) -> NodeKey {
    text.parse().unwrap()
}

fn claims(nodes: &Nodes) -> Vec<String> {
    nodes.claims().map(|(p, by)| format!("{p} {}", by.iter().next().unwrap())).collect()
}

#[test]
fn peers_become_nodes() {
    let peers = [peer("acme", "a", 1, &["10.1.0.7/16"]), peer("zeta", "a", 2, &[])];
    let (nodes, refusals) = admit(&edge(), &peers, &Nodes::default());
    assert!(refusals.is_empty(), "{refusals:?}");
    assert_eq!(
        claims(&nodes),
        ["10.1.0.0/16 acme/a", "100.64.1.1/32 acme/a", "100.64.1.2/32 zeta/a"]
    );
    assert!(nodes.is_overlay(&"100.64.1.1/32".parse().unwrap()));
    assert!(!nodes.is_overlay(&"10.1.0.0/16".parse().unwrap()));
    assert_eq!(nodes.destinations(&key("zeta/a")), ["100.64.1.2/32".parse().unwrap()].into());
}

#[test]
fn peers_of_other_edges_are_passed_over_in_silence() {
    let mut other = peer("acme", "a", 1, &[]);
    other.spec.edges = vec!["re-2".into()];
    let (nodes, refusals) = admit(&edge(), &[other], &Nodes::default());
    assert!(nodes.is_empty() && refusals.is_empty());
}

#[test]
fn what_cannot_be_is_refused_and_named_and_the_rest_is_served() {
    let strange = |change: fn(&mut TunnelPeerSpec)| {
        let mut peer = peer("acme", "b", 2, &["10.2.0.0/24"]);
        change(&mut peer.spec);
        let good = self::peer("acme", "a", 1, &["10.1.0.0/24"]);
        let (nodes, refusals) = admit(&edge(), &[peer, good], &Nodes::default());
        assert!(nodes.get(&key("acme/a")).is_some(), "the good one is served");
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        (nodes.get(&key("acme/b")).cloned(), refusals[0].why.clone())
    };
    for (want, change) in [
        ("no public key", (|s| s.public_key = PublicKey([0; 32])) as fn(&mut TunnelPeerSpec)),
        ("is that of acme/a", |s| s.public_key = PublicKey([1; 32])),
        ("names no node", |s| s.node.clear()),
        ("same node", |s| s.node = "a".into()),
        ("no host's", |s| s.overlay_address = [0, 0, 0, 0].into()),
        ("family", |s| s.overlay_address = "fd00::1".parse().unwrap()),
        ("belongs to an edge", |s| s.overlay_address = [100, 64, 0, 1].into()),
        ("belongs to an edge", |s| s.overlay_address = [10, 255, 0, 2].into()),
        ("taken by node acme/a", |s| s.overlay_address = [100, 64, 1, 1].into()),
    ] {
        let (node, why) = strange(change);
        assert!(why.contains(want), "{want}: {why}");
        assert!(node.is_none(), "{want}");
    }
    for (want, change) in [
        (
            "everything",
            (|s| s.site_prefixes = vec!["0.0.0.0/0".parse().unwrap()]) as fn(&mut TunnelPeerSpec),
        ),
        ("10.255.0.1", |s| s.site_prefixes = vec!["10.255.0.0/28".parse().unwrap()]),
        ("100.64.0.1", |s| s.site_prefixes = vec!["100.64.0.0/24".parse().unwrap()]),
        ("site acme/site-of-a", |s| s.site_prefixes = vec!["10.1.0.128/25".parse().unwrap()]),
        ("node acme/a", |s| s.site_prefixes = vec!["100.64.1.0/31".parse().unwrap()]),
    ] {
        let (node, why) = strange(change);
        assert!(why.contains(want), "{want}: {why}");
        assert!(node.unwrap().prefixes.is_empty(), "{want}: the node itself is served");
    }
    let (node, why) = strange(|s| s.bfd.multiplier = 0);
    assert!(why.contains("default is used"), "{why}");
    assert_eq!(node.unwrap().bfd, BfdTimers::default());
}

#[test]
fn who_holds_a_prefix_keeps_it_against_an_earlier_name() {
    let held = [peer("zeta", "z", 26, &["10.9.0.0/24"])];
    let (before, _) = admit(&edge(), &held, &Nodes::default());
    let thief = peer("acme", "a", 1, &["10.9.0.0/24"]);
    let (nodes, refusals) = admit(&edge(), &[thief, held[0].clone()], &before);
    assert!(claims(&nodes).contains(&"10.9.0.0/24 zeta/z".to_string()));
    assert_eq!(refusals[0].peer, "acme/a");
}

#[test]
fn nodes_of_one_site_share_its_prefix() {
    let mut one = peer("acme", "a", 1, &["10.1.0.0/24"]);
    let mut two = peer("acme", "b", 2, &["10.1.0.0/24"]);
    (one.spec.site, two.spec.site) = ("shop".into(), "shop".into());
    let (nodes, refusals) = admit(&edge(), &[one, two], &Nodes::default());
    assert!(refusals.is_empty(), "{refusals:?}");
    assert_eq!(nodes.claimants(&"10.1.0.0/24".parse().unwrap()).count(), 2);
}

prop_compose! {
    fn any_peer()(tenant in 0u8..3, node in 0u8..4, number in 1u8..6, prefixes in proptest::collection::vec((0u8..4, 20u8..27), 0..3)) -> TunnelPeer {
        let prefixes: Vec<String> = prefixes.iter().map(|(net, len)| format!("10.0.{net}.0/{len}")).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        peer(&format!("t{tenant}"), &format!("n{node}"), number, &prefixes)
    }
}

proptest! {
    /// The laws: no two sites' destinations overlap, and what was granted stays granted as long as
    /// it is asked for, whoever else comes.
    #[test]
    fn the_space_is_disjoint_and_grants_are_kept(
        first in proptest::collection::vec(any_peer(), 0..6),
        more in proptest::collection::vec(any_peer(), 0..6),
    ) {
        let (before, _) = admit(&edge(), &first, &Nodes::default());
        // Those who come later are somebody else.
        let more: Vec<TunnelPeer> = more.into_iter().map(|mut peer| {
            peer.metadata.namespace = Some(format!("a-{}", peer.metadata.namespace.unwrap()));
            peer
        }).collect();
        let (after, _) = admit(&edge(), more.iter().chain(&first), &before);
        for (prefix, claimants) in before.claims() {
            let now: BTreeSet<_> = after.claimants(prefix).cloned().collect();
            prop_assert!(claimants.is_subset(&now), "{prefix}");
        }
        let all: Vec<_> = after.claims().map(|(p, _)| *p).collect();
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                prop_assert!(!one.contains(other) && !other.contains(one), "{one} {other}");
            }
        }
    }
}
