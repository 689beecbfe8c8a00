//! Whose is what: the marks of one owner, and what follows from them.
//!
//! Two daemons of ours write to the same kernel; [`Ownership::host`] and
//! [`Ownership::tunnels`] are disjoint, so neither ever removes what is the other's
//! (`holdfast_api::marks` has the numbers, `docs/reference/network.md` the table).

use crate::model::{Address, LinkName, MAIN_TABLE, Mark};
use holdfast_api::marks;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What the kernel itself signs with: `RTPROT_REDIRECT`, `RTPROT_KERNEL`, `RTPROT_RA`.
const KERNEL_ROUTES: [Mark; 3] = [1, 2, 9];
/// `IFAPROT_KERNEL_LO`, `IFAPROT_KERNEL_RA`, `IFAPROT_KERNEL_LL` (`linux/if_addr.h`).
const KERNEL_ADDRESSES: RangeInclusive<Mark> = 1..=3;

/// The marks of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Links whose names begin so are its own …
    link_prefix: &'static str,
    /// … unless they begin so.
    link_except: Option<&'static str>,
    /// Signs routes, nexthops, rules and addresses.
    protocol: Mark,
    /// Every route in these tables is its own, save the kernel's.
    tables: RangeInclusive<u32>,
    /// Routes in the main table that are signed with `protocol` are its own.
    main_table: bool,
    /// Addresses on links of others that are signed with `protocol` are its own.
    foreign_links: bool,
    rules: RangeInclusive<u32>,
    nexthops: RangeInclusive<u32>,
}

impl Ownership {
    /// What belongs to `holdfastd`: links `hf-*` but `hf-wg*`, signed routes in the main table,
    /// signed addresses on physical ports, and the host's number ranges.
    pub fn host() -> Self {
        Ownership {
            link_prefix: marks::LINK_PREFIX,
            link_except: Some(marks::TUNNEL_LINK_PREFIX),
            protocol: marks::ROUTE_PROTOCOL,
            tables: marks::HOST_TABLES,
            main_table: true,
            foreign_links: true,
            rules: marks::HOST_RULES,
            nexthops: marks::HOST_NEXTHOPS,
        }
    }

    /// What belongs to `tunneld` and `regional-edge`: links `hf-wg*` and the tunnels' number
    /// ranges; nothing in the main table.
    pub fn tunnels() -> Self {
        Ownership {
            link_prefix: marks::TUNNEL_LINK_PREFIX,
            link_except: None,
            protocol: marks::ROUTE_PROTOCOL,
            tables: marks::TUNNEL_TABLES,
            main_table: false,
            foreign_links: false,
            rules: marks::TUNNEL_RULES,
            nexthops: marks::TUNNEL_NEXTHOPS,
        }
    }

    /// The number that signs what is made.
    pub fn protocol(&self) -> Mark {
        self.protocol
    }

    /// Whether the link of this name is owned: the name is the mark.
    pub fn owns_link(&self, name: &LinkName) -> bool {
        name.as_str().starts_with(self.link_prefix) && !self.is_excepted(name)
    }

    /// Whether the link of this name belongs to another owner of ours.
    fn is_excepted(&self, name: &LinkName) -> bool {
        self.link_except.is_some_and(|except| name.as_str().starts_with(except))
    }

    /// Whether an observed address is owned. On owned links everything is, but for what the
    /// kernel gave itself; elsewhere only what carries the mark.
    pub fn owns_address(&self, address: &Address, mark: Mark) -> bool {
        if self.owns_link(&address.link) {
            // Kernels before 5.18 do not sign, so link-local addresses are told by their look.
            let link_local = match address.net.addr() {
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
                IpAddr::V4(_) => false,
            };
            !KERNEL_ADDRESSES.contains(&mark) && (mark == self.protocol || !link_local)
        } else {
            self.foreign_links && mark == self.protocol && !self.is_excepted(&address.link)
        }
    }

    /// Whether an address may be wanted by this owner.
    pub fn may_add_address(&self, address: &Address) -> bool {
        self.owns_link(&address.link) || (self.foreign_links && !self.is_excepted(&address.link))
    }

    /// Whether an observed route is owned.
    pub fn owns_route(&self, table: u32, mark: Mark) -> bool {
        match table {
            MAIN_TABLE => self.main_table && mark == self.protocol,
            table => self.tables.contains(&table) && !KERNEL_ROUTES.contains(&mark),
        }
    }

    /// Whether a route in this table may be wanted by this owner.
    pub fn may_add_route(&self, table: u32) -> bool {
        self.owns_route(table, self.protocol)
    }

    /// Whether the rule of this priority is owned: the number is the mark.
    pub fn owns_rule(&self, priority: u32) -> bool {
        self.rules.contains(&priority)
    }

    /// Whether the nexthop of this id is owned: the number is the mark.
    pub fn owns_nexthop(&self, id: u32) -> bool {
        self.nexthops.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LinkName {
        text.parse().unwrap()
    }

    #[test]
    fn the_two_owners_share_nothing() {
        let (host, tunnels) = (Ownership::host(), Ownership::tunnels());
        for link in ["hf-", "hf-br0", "hf-wg", "hf-wg0", "hf-w", "eth0", "wg0"] {
            assert!(!(host.owns_link(&name(link)) && tunnels.owns_link(&name(link))), "{link}");
        }
        for number in 7100..7400 {
            assert!(!(host.owns_rule(number) && tunnels.owns_rule(number)), "{number}");
            assert!(!(host.owns_route(number, 72) && tunnels.owns_route(number, 72)), "{number}");
        }
        for id in [0x4845_ffff, 0x4846_0000, 0x4846_7fff, 0x4846_8000, 0x4846_ffff, 0x4847_0000] {
            assert!(!(host.owns_nexthop(id) && tunnels.owns_nexthop(id)), "{id:#x}");
        }
        assert!(!host.owns_nexthop(0x4847_0000) && !tunnels.owns_nexthop(0x4845_ffff));
    }

    #[test]
    fn the_main_table_is_shared_by_signature() {
        assert!(Ownership::host().owns_route(MAIN_TABLE, 72));
        assert!(!Ownership::host().owns_route(MAIN_TABLE, 4));
        assert!(!Ownership::tunnels().owns_route(MAIN_TABLE, 72));
        assert!(!Ownership::tunnels().owns_route(7200, 2), "the kernel's own");
    }

    #[test]
    fn addresses_of_ports_are_owned_by_signature_only() {
        let host = Ownership::host();
        let on = |link: &str, net: &str| Address::new(name(link), net.parse().unwrap());
        assert!(host.owns_address(&on("eth0", "192.0.2.1/24"), 72));
        assert!(!host.owns_address(&on("eth0", "192.0.2.1/24"), 0));
        assert!(host.owns_address(&on("hf-br0", "192.0.2.1/24"), 0));
        assert!(!host.owns_address(&on("hf-br0", "fe80::1/64"), 3));
        assert!(!host.owns_address(&on("hf-br0", "fe80::1/64"), 0));
        assert!(host.owns_address(&on("hf-br0", "fe80::1/64"), 72));
        assert!(!Ownership::tunnels().owns_address(&on("eth0", "192.0.2.1/24"), 72));
    }
}
