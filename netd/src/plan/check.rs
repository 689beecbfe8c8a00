//! Whether a wish can be met at all, before anything is touched.

use crate::error::PlanError;
use crate::model::{
    Family, Item, Link, LinkKind, LinkName, Network, Nexthop, NexthopTarget, Observed, Peer, Route,
    RouteTarget, Rule,
};
use crate::ownership::Ownership;
use std::fmt::Display;

struct Check<'a> {
    want: &'a Network,
    have: &'a Observed,
    owner: &'a Ownership,
}

/// Checks all of `want` against `have`.
pub(super) fn check(want: &Network, have: &Observed, owner: &Ownership) -> Result<(), PlanError> {
    let check = Check { want, have, owner };
    want.links.iter().try_for_each(|link| check.link(link))?;
    for address in &want.addresses {
        let what = || format!("address {address}");
        if !owner.may_add_address(address) {
            return Err(not_ours(what(), "addresses go onto links of one's own"));
        }
        check.there(&address.link, what)?;
        let family = Family::from(address.net.addr());
        if address.peer.is_some_and(|peer| Family::from(peer) != family) {
            return Err(nonsense(what(), "the peer is of the other family"));
        }
        let other = have.others.addresses.iter().find(|other| {
            family == Family::V6
                && other.link == address.link
                && other.net.addr() == address.net.addr()
                && *other != address
        });
        if let Some(other) = other {
            return Err(PlanError::Conflict {
                what: what(),
                in_the_way: format!("address {other}"),
            });
        }
    }
    want.nexthops.iter().try_for_each(|nexthop| check.nexthop(nexthop))?;
    want.routes.iter().try_for_each(|route| check.route(route))?;
    want.rules.iter().try_for_each(|rule| check.rule(rule))
}

impl Check<'_> {
    fn link(&self, link: &Link) -> Result<(), PlanError> {
        let what = || format!("link {} ({})", link.name, link.kind);
        let present = self.have.link(&link.name).is_some();
        match &link.kind {
            LinkKind::Other(_) => return Err(nonsense(what(), "this kind is observed only")),
            LinkKind::Physical if !present => return Err(missing(&link.name, "its configuration")),
            LinkKind::Physical => {}
            _ if !self.owner.owns_link(&link.name) => {
                // An own prefix in the name tells whose a link is, so no other name can be made.
                return Err(not_ours(
                    what(),
                    "the name of a link that is made begins with a prefix of one's own",
                ));
            }
            LinkKind::Tun if !present => {
                return Err(missing(&link.name, "the program that opens it"));
            }
            LinkKind::Vlan { id, .. } if !(1..=4094).contains(id) => {
                return Err(nonsense(what(), "a VLAN's number is 1 to 4094"));
            }
            LinkKind::Veth { peer: Peer::Elsewhere } => {
                return Err(nonsense(what(), "the other end needs a name"));
            }
            LinkKind::Veth { peer: Peer::Here(peer) } if !self.owner.owns_link(peer) => {
                let rule = "both ends of a pair in one namespace are one's own";
                return Err(not_ours(what(), rule));
            }
            _ => {}
        }
        for below in [link.parent(), link.controller.as_ref()].into_iter().flatten() {
            self.there(below, what)?;
        }
        if let Some(name) = &link.controller {
            let kind = self.want.links.get(name).or_else(|| self.have.link(name)).map(|l| &l.kind);
            // One that is there and not wanted may be of any kind that the kernel takes.
            if !matches!(
                kind,
                Some(
                    LinkKind::Bridge
                        | LinkKind::Bond { .. }
                        | LinkKind::Physical
                        | LinkKind::Other(_)
                ) | None
            ) {
                return Err(nonsense(what(), "its controller is neither a bridge nor a bond"));
            }
        }
        Ok(())
    }

    fn nexthop(&self, nexthop: &Nexthop) -> Result<(), PlanError> {
        let what = || format!("nexthop {nexthop}");
        if !self.owner.owns_nexthop(nexthop.id) {
            return Err(not_ours(what(), "its number is outside of the owner's range"));
        }
        if let Some(mark) = self.have.others.nexthops.get(&nexthop.id) {
            let in_the_way = format!("a nexthop of the same number by protocol {mark}");
            return Err(PlanError::Conflict { what: what(), in_the_way });
        }
        match &nexthop.target {
            NexthopTarget::Single { link, .. } => self.there(link, what),
            NexthopTarget::Blackhole(_) => Ok(()),
            NexthopTarget::Group(members) if members.is_empty() => {
                Err(nonsense(what(), "a group has at least one member"))
            }
            NexthopTarget::Group(members) => {
                members.keys().try_for_each(|id| match self.want.nexthops.get(id) {
                    None => Err(PlanError::NexthopUnknown { id: *id, needed_by: what() }),
                    Some(member) if member.is_group() => {
                        Err(nonsense(what(), "a member of a group is no group"))
                    }
                    Some(_) => Ok(()),
                })
            }
        }
    }

    fn route(&self, route: &Route) -> Result<(), PlanError> {
        let what = || format!("route {route}");
        if !self.owner.may_add_route(route.table) {
            return Err(not_ours(what(), "its table is outside of the owner's range"));
        }
        if let Some(mark) = self.have.others.routes.get(&route.key())
            && !self.have.ours.routes.contains(&route.key())
        {
            return Err(PlanError::RouteTaken { key: route.key(), mark: *mark });
        }
        if route.source.is_some_and(|source| Family::from(source) != route.family()) {
            return Err(nonsense(what(), "its source address is of the other family"));
        }
        match &route.target {
            RouteTarget::Via { gateway, link, .. } => {
                if route.family() == Family::V6 && gateway.is_ipv4() {
                    return Err(nonsense(what(), "IPv6 has no IPv4 gateways"));
                }
                self.there(link, what)
            }
            RouteTarget::Dev(link) => self.there(link, what),
            RouteTarget::Nexthop(id) => {
                let Some(nexthop) = self.want.nexthops.get(id) else {
                    return Err(PlanError::NexthopUnknown { id: *id, needed_by: what() });
                };
                if route.family() == Family::V6 && self.speaks_only_ipv4(nexthop) {
                    return Err(nonsense(what(), "IPv6 routes cannot use an IPv4 nexthop"));
                }
                Ok(())
            }
            RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Throw => Ok(()),
        }
    }

    fn speaks_only_ipv4(&self, nexthop: &Nexthop) -> bool {
        match &nexthop.target {
            NexthopTarget::Single { family, .. } | NexthopTarget::Blackhole(family) => {
                *family == Family::V4
            }
            NexthopTarget::Group(members) => members
                .keys()
                .filter_map(|id| self.want.nexthops.get(id))
                .any(|member| !member.is_group() && self.speaks_only_ipv4(member)),
        }
    }

    fn rule(&self, rule: &Rule) -> Result<(), PlanError> {
        if !self.owner.owns_rule(rule.priority) {
            return Err(not_ours(
                format!("rule {rule}"),
                "its priority is outside of the owner's range",
            ));
        }
        let strange = |net: ipnet::IpNet| Family::from(net.addr()) != rule.family;
        if rule.from.is_some_and(strange) || rule.to.is_some_and(strange) {
            return Err(nonsense(format!("rule {rule}"), "a prefix is of the other family"));
        }
        Ok(())
    }

    /// Whether `link` will be there once the wish is met.
    fn there(&self, link: &LinkName, needed_by: impl Fn() -> String) -> Result<(), PlanError> {
        let peer_of_wanted = || {
            self.want
                .links
                .iter()
                .any(|l| matches!(&l.kind, LinkKind::Veth { peer: Peer::Here(p) } if p == link))
        };
        // A link of ours that is there but not wanted is about to be removed.
        let stays = !self.owner.owns_link(link) && self.have.link(link).is_some();
        if self.want.links.contains(link) || stays || peer_of_wanted() {
            Ok(())
        } else {
            Err(missing(link, needed_by()))
        }
    }
}

fn missing(link: &LinkName, needed_by: impl Display) -> PlanError {
    PlanError::LinkMissing { link: link.clone(), needed_by: needed_by.to_string() }
}

fn not_ours(what: String, rule: &'static str) -> PlanError {
    PlanError::NotOurs { what, rule }
}

fn nonsense(what: String, why: &'static str) -> PlanError {
    PlanError::Contradiction { what, why }
}
