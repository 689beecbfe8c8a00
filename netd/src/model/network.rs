//! All of it together.

use super::{Keyed, Link, LinkName, Nexthop, Route, Rule};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: LinkName,
    /// The address and the length of its subnet's prefix.
    pub net: IpNet,
    /// The other end of a point-to-point link; the prefix length is then that of the peer.
    pub peer: Option<IpAddr>,
}

impl Address {
    /// An address with its subnet.
    pub fn new(link: LinkName, net: IpNet) -> Self {
        Address { link, net, peer: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.net, self.link)?;
        match self.peer {
            Some(peer) => write!(f, " with peer {peer}"),
            None => Ok(()),
        }
    }
}

/// A network as it is wanted, or that part of the real one that is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Links by name.
    pub links: Keyed<Link>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Nexthop objects by id.
    pub nexthops: Keyed<Nexthop>,
    /// Routes by table, prefix and metric.
    pub routes: Keyed<Route>,
    /// Rules. Insert them in [`Rule::normal`] form; [`crate::plan()`] does so too.
    pub rules: BTreeSet<Rule>,
}

impl Network {
    /// Puts everything of `other` in as well; where both have a key, `other` wins.
    pub fn merge(&mut self, other: Network) {
        self.links.extend(other.links.iter().cloned());
        self.addresses.extend(other.addresses);
        self.nexthops.extend(other.nexthops.iter().cloned());
        self.routes.extend(other.routes.iter().cloned());
        self.rules.extend(other.rules);
    }

    /// Takes out the link `name` and everything that rests on it: ports and links above it,
    /// addresses, nexthops with the groups they leave empty, routes. Rules stay.
    ///
    /// This is what the kernel does when a link goes away, and what a caller does to a wish
    /// whose port is missing, so that the rest can be brought up.
    pub fn remove_link(&mut self, name: &LinkName) {
        let mut gone = vec![name.clone()];
        while let Some(name) = gone.pop() {
            self.links.remove(&name);
            gone.extend(
                self.links.iter().filter(|l| l.parent() == Some(&name)).map(|l| l.name.clone()),
            );
            self.addresses.retain(|a| a.link != name);
            self.routes.retain(|r| r.link() != Some(&name));
            let lost: Vec<u32> =
                self.nexthops.iter().filter(|n| n.link() == Some(&name)).map(|n| n.id).collect();
            for id in lost {
                self.remove_nexthop(id);
            }
        }
    }

    /// Takes out the nexthop `id`, its place in groups, groups left empty, and the routes
    /// that used any of them, as the kernel does.
    pub fn remove_nexthop(&mut self, id: u32) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            self.nexthops.remove(&id);
            let mut groups = Vec::new();
            for nexthop in &self.nexthops {
                if let super::NexthopTarget::Group(members) = &nexthop.target
                    && members.contains_key(&id)
                {
                    groups.push((nexthop.id, members.clone()));
                }
            }
            for (group, mut members) in groups {
                members.remove(&id);
                if members.is_empty() {
                    gone.push(group);
                } else {
                    self.nexthops.insert(Nexthop::group(group, members));
                }
            }
            self.routes.retain(|r| r.target != super::RouteTarget::Nexthop(id));
        }
    }
}
