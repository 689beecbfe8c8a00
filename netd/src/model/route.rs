//! Routes and the rules that choose among tables.

use super::{Family, Item, LinkName};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// The table that ip-route(8) shows by default.
pub const MAIN_TABLE: u32 = 254;

/// What an IPv6 route without a metric gets (`IP6_RT_PRIO_USER`); the kernel reports it back.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The routing table, 1 and up; [`MAIN_TABLE`] is the usual one.
    pub table: u32,
    /// Which destinations it is for.
    pub prefix: IpNet,
    /// Where they go.
    pub target: RouteTarget,
    /// Smaller wins. An IPv6 route with 0 gets the kernel's default of 1024.
    pub metric: u32,
    /// The source address that the machine's own packets get.
    pub source: Option<IpAddr>,
    /// Largest packet to these destinations, bytes.
    pub mtu: Option<u32>,
}

/// Where packets of a route go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a neighbour.
    Via {
        /// The neighbour, of either family.
        gateway: IpAddr,
        /// The link that it is on.
        link: LinkName,
        /// The neighbour is reached although no address of the link covers it (clouds that
        /// hand out a /32).
        onlink: bool,
    },
    /// Onto a link: the destination itself is the neighbour.
    Dev(LinkName),
    /// To a nexthop object.
    Nexthop(u32),
    /// Dropped silently.
    Blackhole,
    /// Refused with an ICMP "unreachable".
    Unreachable,
    /// As if this table had no route: the next rule is looked at (`RTN_THROW`, rtnetlink(7)).
    Throw,
}

/// What tells routes apart: the kernel keeps one per table, prefix and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The routing table.
    pub table: u32,
    /// The destinations.
    pub prefix: IpNet,
    /// The metric, never 0 for IPv6.
    pub metric: u32,
}

impl Route {
    /// A route with metric 0 and no further wishes.
    pub fn new(table: u32, prefix: IpNet, target: RouteTarget) -> Self {
        Route { table, prefix, target, metric: 0, source: None, mtu: None }
    }

    /// With this metric.
    #[must_use]
    pub fn with_metric(mut self, metric: u32) -> Self {
        self.metric = metric;
        self
    }

    /// The family of its destinations.
    pub fn family(&self) -> Family {
        self.prefix.addr().into()
    }

    /// The link that it names itself.
    pub fn link(&self) -> Option<&LinkName> {
        match &self.target {
            RouteTarget::Via { link, .. } | RouteTarget::Dev(link) => Some(link),
            RouteTarget::Nexthop(_)
            | RouteTarget::Blackhole
            | RouteTarget::Unreachable
            | RouteTarget::Throw => None,
        }
    }
}

impl Item for Route {
    type Key = RouteKey;
    fn key(&self) -> RouteKey {
        RouteKey { table: self.table, prefix: self.prefix, metric: self.metric }
    }
    fn normal(mut self) -> Self {
        self.prefix = self.prefix.trunc();
        if self.metric == 0 && self.family() == Family::V6 {
            self.metric = IPV6_DEFAULT_METRIC;
        }
        self
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey { table, prefix, metric } = self;
        write!(f, "{prefix}")?;
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        match *table {
            MAIN_TABLE => Ok(()),
            table => write!(f, " in table {table}"),
        }
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteTarget::Via { gateway, link, onlink } => {
                write!(f, "via {gateway} on {link}{}", if *onlink { " (onlink)" } else { "" })
            }
            RouteTarget::Dev(link) => write!(f, "on {link}"),
            RouteTarget::Nexthop(id) => write!(f, "over nexthop {id}"),
            RouteTarget::Blackhole => f.write_str("to nowhere"),
            RouteTarget::Unreachable => f.write_str("to unreachable"),
            RouteTarget::Throw => f.write_str("to the next table"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key(), self.target)?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        Ok(())
    }
}

/// A rule: which packets look into which table (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Smaller is asked first.
    pub priority: u32,
    /// For packets of this family.
    pub family: Family,
    /// The table to look into.
    pub table: u32,
    /// Only packets from here.
    pub from: Option<IpNet>,
    /// Only packets to here.
    pub to: Option<IpNet>,
    /// Only packets with this mark, as (value, mask).
    pub fwmark: Option<(u32, u32)>,
    /// Only packets that came in here.
    pub iif: Option<LinkName>,
}

impl Rule {
    /// All packets of `family` look into `table`.
    pub fn new(priority: u32, family: Family, table: u32) -> Self {
        Rule { priority, family, table, from: None, to: None, fwmark: None, iif: None }
    }

    /// As the kernel reports it back: prefixes without host bits, "from everywhere" left out.
    #[must_use]
    pub fn normal(mut self) -> Self {
        let tidy = |net: Option<IpNet>| net.map(|n| n.trunc()).filter(|n| n.prefix_len() > 0);
        self.from = tidy(self.from);
        self.to = tidy(self.to);
        self
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.priority, self.family)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some((value, mask)) = self.fwmark {
            write!(f, " mark {value:#x}/{mask:#x}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " in from {iif}")?;
        }
        write!(f, " to table {}", self.table)
    }
}
