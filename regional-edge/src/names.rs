//! Names and numbers of what an edge makes in the kernel.
//!
//! All of them lie in the ranges that [`holdfast_api::marks`] gives to the tunnels' side, beside
//! those that `tunneld` uses on a node.

use holdfast_api::marks::{TUNNEL_NEXTHOPS, TUNNEL_RULES, TUNNEL_TABLES};
use netd::Family;

/// The link that ends all tunnels.
pub const LINK: &str = "hf-wg0";

/// Routes to nodes whose tunnel here passes data.
pub const LOCAL_TABLE: u32 = *TUNNEL_TABLES.start() + 10;
/// Routes over the backbone to edges that have a node up.
pub const BACKBONE_TABLE: u32 = LOCAL_TABLE + 1;
/// What is left: nodes that nobody has up.
pub const LAST_TABLE: u32 = LOCAL_TABLE + 2;

/// Datagrams that carry tunnels are routed as if we were not there.
pub const CARRIER_RULE: u32 = *TUNNEL_RULES.start() + 5;
/// Everything looks into [`LOCAL_TABLE`] first.
pub const LOCAL_RULE: u32 = *TUNNEL_RULES.start() + 10;
/// What came over the backbone looks into [`LAST_TABLE`] next, and so never goes back.
pub const INGRESS_RULE: u32 = LOCAL_RULE + 1;
/// Everything else may go over the backbone.
pub const BACKBONE_RULE: u32 = LOCAL_RULE + 2;
/// And ends here.
pub const LAST_RULE: u32 = LOCAL_RULE + 3;

const LOCAL_NEXTHOP: u32 = *TUNNEL_NEXTHOPS.start() + 0x1000;
const EDGE_NEXTHOPS: u32 = LOCAL_NEXTHOP + 0x100;
/// Other edges that can be told apart; a power of two.
const EDGE_SLOTS: u32 = 0x1000;

/// The nexthop that leads into the tunnels.
pub fn local_nexthop(family: Family) -> u32 {
    match family {
        Family::V4 => LOCAL_NEXTHOP,
        Family::V6 => LOCAL_NEXTHOP + 1,
    }
}

/// Nexthop ids of other edges, in the order of `edges`: by a hash of the name, so that an edge
/// that comes or goes leaves the ids of the others alone (but for the rare collision).
pub fn edge_nexthops<'a>(edges: impl Iterator<Item = &'a str>) -> Vec<(&'a str, u32)> {
    let mut taken = std::collections::BTreeSet::new();
    edges
        .take(EDGE_SLOTS as usize)
        .map(|edge| {
            let start = u32::try_from(hash(&[edge]) % u64::from(EDGE_SLOTS)).unwrap_or(0);
            let free = |n: &u32| taken.insert(*n);
            let slot = (start..EDGE_SLOTS).chain(0..start).find(free).unwrap_or(start);
            (edge, EDGE_NEXTHOPS + slot)
        })
        .collect()
}

/// FNV-1a over the parts and their borders: spreads, and is the same on every machine.
pub fn hash(parts: &[&str]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| step(part.bytes().fold(hash, step), 0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_carries_our_marks_and_keeps_clear_of_a_nodes() {
        for table in [LOCAL_TABLE, BACKBONE_TABLE, LAST_TABLE] {
            assert!(TUNNEL_TABLES.contains(&table) && table != tunnels::names::TABLE);
        }
        for rule in [CARRIER_RULE, LOCAL_RULE, INGRESS_RULE, BACKBONE_RULE, LAST_RULE] {
            assert!(TUNNEL_RULES.contains(&rule) && rule != tunnels::names::RULE_PRIORITY);
        }
        for id in [LOCAL_NEXTHOP, LOCAL_NEXTHOP + 1, EDGE_NEXTHOPS, EDGE_NEXTHOPS + EDGE_SLOTS - 1]
        {
            assert!(TUNNEL_NEXTHOPS.contains(&id) && id > tunnels::names::NOWHERE);
        }
    }

    #[test]
    fn edges_keep_their_ids_when_others_come() {
        let names: Vec<String> = (0..40).map(|n| format!("re-{n}")).collect();
        let all = edge_nexthops(names.iter().map(String::as_str));
        let ids: std::collections::BTreeSet<_> = all.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), 40);
        for (name, id) in &all {
            assert_eq!(edge_nexthops([*name].into_iter()), [(*name, *id)]);
        }
    }
}
