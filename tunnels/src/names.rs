//! Names and numbers of what `tunneld` makes in the kernel.
//!
//! All of them lie in the ranges that [`holdfast_api::marks`] gives to `tunneld`.

use holdfast_api::marks::{TUNNEL_LINK_PREFIX, TUNNEL_NEXTHOPS, TUNNEL_RULES, TUNNEL_TABLES};

/// How many tunnels can stand at once: three wanted, and one that takes over from another.
pub const SLOTS: u8 = 4;

/// The routing table that holds what the node reaches through its tunnels.
pub const TABLE: u32 = *TUNNEL_TABLES.start();

/// The priority of the rule that leads into [`TABLE`].
pub const RULE_PRIORITY: u32 = *TUNNEL_RULES.start();

/// The nexthop group that all routes of [`TABLE`] point at: its one member is the active tunnel.
pub const GROUP: u32 = *TUNNEL_NEXTHOPS.start();

/// The nexthop that leads nowhere: the group's member while no tunnel is up, so that nothing
/// that should be encrypted leaves in the clear.
pub const NOWHERE: u32 = GROUP + 0x100;

/// The mark (`SO_MARK`) of datagrams that carry tunnels and of probes. The rule into [`TABLE`]
/// leaves them out, else a tunnel that routes everything would swallow its own datagrams.
/// One bit that neither kube-proxy (0x4000, 0x8000), Calico (0xffff0000) nor Cilium
/// (0x0f00) uses.
pub const FWMARK: u32 = 0x2000;

/// Metric of the routes that catch packets when the group is gone: worse than any real one.
pub const CATCH_METRIC: u32 = 0x4846_0000;

/// The name of the link in `slot`.
pub fn link(slot: u8) -> String {
    format!("{TUNNEL_LINK_PREFIX}{slot}")
}

/// The nexthop that leads over the link in `slot`.
pub fn nexthop(slot: u8) -> u32 {
    GROUP + 1 + u32::from(slot)
}

/// The slot of the nexthop `id`, when it is one of ours.
pub fn slot_of_nexthop(id: u32) -> Option<u8> {
    (0..SLOTS).find(|slot| nexthop(*slot) == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_carries_our_marks() {
        for slot in 0..SLOTS {
            assert!(TUNNEL_NEXTHOPS.contains(&nexthop(slot)));
            assert_eq!(slot_of_nexthop(nexthop(slot)), Some(slot));
            assert!(link(slot).len() <= 15);
        }
        assert!(TUNNEL_NEXTHOPS.contains(&NOWHERE) && TUNNEL_NEXTHOPS.contains(&GROUP));
        assert_eq!(slot_of_nexthop(GROUP), None);
        assert_eq!((GROUP, nexthop(0)), (0x4846_0000, 0x4846_0001));
        assert_eq!(slot_of_nexthop(NOWHERE), None);
        assert_eq!(FWMARK.count_ones(), 1);
    }
}
