//! Nexthop objects: where routes point, so that one message moves them all.

use super::{Family, Item, LinkName};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;

/// A nexthop object (ip-nexthop(8), `linux/nexthop.h`; kernel 5.3 and later).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexthop {
    /// Its id, 1 and up, one number space per network namespace.
    pub id: u32,
    /// Where it leads.
    pub target: NexthopTarget,
}

/// Where a nexthop leads. The kernel replaces like by like only: a group cannot become a
/// single nexthop or the reverse without being removed first, which removes its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NexthopTarget {
    /// Over one link.
    Single {
        /// The neighbour; without one the destination is on the link itself.
        gateway: Option<IpAddr>,
        /// The link.
        link: LinkName,
        /// Whose routes may use it. IPv4 routes may use either, IPv6 routes only V6.
        /// With a gateway it is the gateway's.
        family: Family,
    },
    /// Over one of several, by weight; flows stay on theirs.
    Group(BTreeMap<u32, NonZeroU8>),
    /// Nowhere: packets are dropped silently.
    Blackhole(Family),
}

impl Nexthop {
    /// Over `link` to the neighbour `gateway`.
    pub fn via(id: u32, gateway: IpAddr, link: LinkName) -> Self {
        let target = NexthopTarget::Single { gateway: Some(gateway), link, family: gateway.into() };
        Nexthop { id, target }
    }

    /// Over `link` without a neighbour, as point-to-point links have it.
    pub fn dev(id: u32, family: Family, link: LinkName) -> Self {
        Nexthop { id, target: NexthopTarget::Single { gateway: None, link, family } }
    }

    /// A group with the single member `member`: replacing it moves every route that uses it.
    pub fn active(id: u32, member: u32) -> Self {
        Nexthop { id, target: NexthopTarget::Group([(member, NonZeroU8::MIN)].into()) }
    }

    /// A group of `(id, weight)`, each weight 1 to 255.
    pub fn group(id: u32, members: impl IntoIterator<Item = (u32, NonZeroU8)>) -> Self {
        Nexthop { id, target: NexthopTarget::Group(members.into_iter().collect()) }
    }

    /// The link that it leads over, when it leads over one.
    pub fn link(&self) -> Option<&LinkName> {
        match &self.target {
            NexthopTarget::Single { link, .. } => Some(link),
            NexthopTarget::Group(_) | NexthopTarget::Blackhole(_) => None,
        }
    }

    /// Whether it is a group.
    pub fn is_group(&self) -> bool {
        matches!(self.target, NexthopTarget::Group(_))
    }
}

impl Item for Nexthop {
    type Key = u32;
    fn key(&self) -> u32 {
        self.id
    }
    fn normal(mut self) -> Self {
        if let NexthopTarget::Single { gateway: Some(gateway), family, .. } = &mut self.target {
            *family = (*gateway).into();
        }
        self
    }
}

impl fmt::Display for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match &self.target {
            NexthopTarget::Single { gateway: Some(gateway), link, .. } => {
                write!(f, " via {gateway} on {link}")
            }
            NexthopTarget::Single { link, family, .. } => write!(f, " on {link} ({family})"),
            NexthopTarget::Blackhole(family) => write!(f, " to nowhere ({family})"),
            NexthopTarget::Group(members) => {
                f.write_str(" over")?;
                for (n, (id, weight)) in members.iter().enumerate() {
                    write!(f, "{} {id}", if n > 0 { "," } else { "" })?;
                    if weight.get() > 1 {
                        write!(f, " (weight {weight})")?;
                    }
                }
                Ok(())
            }
        }
    }
}
