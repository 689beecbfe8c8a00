//! What the kernel has, sorted by whose it is.
//!
//! The adapter hands every thing over with its mark; which side it lands on is decided here,
//! by [`Ownership`], and nowhere else. A plan can remove only what is in `ours`.

use super::{Address, Item, Keyed, Link, LinkName, Network, Nexthop, Route, RouteKey, Rule};
use crate::Ownership;
use std::collections::{BTreeMap, BTreeSet};

/// The number with which a maker signs an address, route or nexthop (`IFA_PROTO`,
/// `rtm_protocol`, `nh_protocol`); 0 when there is none.
pub type Mark = u8;

/// The kernel's network as far as it matters to one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What carries the owner's marks.
    pub ours: Network,
    /// What does not, as far as it could be in the way.
    pub others: Others,
}

/// Things of others, remembered to notice conflicts. Nothing here is ever removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Links, among them the physical ports.
    pub links: Keyed<Link>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Nexthop ids and their makers' marks.
    pub nexthops: BTreeMap<u32, Mark>,
    /// Places of routes, with the maker's mark.
    pub routes: BTreeMap<RouteKey, Mark>,
}

impl Observed {
    /// The link of this name, whosever it is.
    pub fn link(&self, name: &LinkName) -> Option<&Link> {
        self.ours.links.get(name).or_else(|| self.others.links.get(name))
    }

    /// Sorts a link in.
    pub fn add_link(&mut self, owner: &Ownership, link: Link) {
        match owner.owns_link(&link.name) {
            true => self.ours.links.insert(link),
            false => self.others.links.insert(link),
        };
    }

    /// Sorts an address in.
    pub fn add_address(&mut self, owner: &Ownership, address: Address, mark: Mark) {
        match owner.owns_address(&address, mark) {
            true => self.ours.addresses.insert(address),
            false => self.others.addresses.insert(address),
        };
    }

    /// Sorts a nexthop in.
    pub fn add_nexthop(&mut self, owner: &Ownership, nexthop: Nexthop, mark: Mark) {
        if owner.owns_nexthop(nexthop.id) {
            self.ours.nexthops.insert(nexthop);
        } else {
            self.others.nexthops.insert(nexthop.id, mark);
        }
    }

    /// Sorts a route in.
    pub fn add_route(&mut self, owner: &Ownership, route: Route, mark: Mark) {
        let route = route.normal();
        if owner.owns_route(route.table, mark) {
            self.ours.routes.insert(route);
        } else {
            self.others.routes.insert(route.key(), mark);
        }
    }

    /// Sorts a rule in; those of others cannot be in the way and are forgotten.
    pub fn add_rule(&mut self, owner: &Ownership, rule: Rule) {
        if owner.owns_rule(rule.priority) {
            self.ours.rules.insert(rule.normal());
        }
    }
}
