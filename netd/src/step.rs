//! One change of the kernel's network, as data.
//!
//! A step carries what was before as well as what shall be, so that it can be printed, applied
//! and turned round without looking anything up.

use crate::model::{
    Address, Link, LinkKind, LinkName, LinkSysctl, Mac, Nexthop, NexthopTarget, Route, RouteTarget,
    Rule, WireguardDevice,
};
use std::fmt;

/// One change. `Display` is the line of a dry run and of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a link with its MTU and hardware address; it is down and in no controller yet.
    CreateLink(Link),
    /// Remove a link.
    DeleteLink(Link),
    /// Set a link up or down.
    SetUp {
        /// The link.
        link: LinkName,
        /// Up, or down.
        up: bool,
    },
    /// Set the largest packet of a link, bytes.
    SetMtu {
        /// The link.
        link: LinkName,
        /// What it was.
        from: u32,
        /// What it shall be.
        to: u32,
    },
    /// Set the hardware address of a link.
    SetMac {
        /// The link.
        link: LinkName,
        /// What it was, when it had one.
        from: Option<Mac>,
        /// What it shall be.
        to: Mac,
    },
    /// Make a link a port of a bridge or bond, or take it out.
    SetController {
        /// The link.
        link: LinkName,
        /// Whose port it was.
        from: Option<LinkName>,
        /// Whose port it shall be.
        to: Option<LinkName>,
    },
    /// Set keys and peers of a WireGuard device.
    SetWireguard {
        /// The link.
        link: LinkName,
        /// What they were.
        from: WireguardDevice,
        /// What they shall be.
        to: WireguardDevice,
    },
    /// Write a setting of a link in procfs.
    SetSysctl {
        /// The link.
        link: LinkName,
        /// Which one.
        sysctl: LinkSysctl,
        /// What it was; `None` when it could not be read.
        from: Option<String>,
        /// What it shall be.
        to: String,
    },
    /// Give a link an address.
    AddAddress(Address),
    /// Take an address from a link.
    DeleteAddress(Address),
    /// Make a nexthop object.
    CreateNexthop(Nexthop),
    /// Point a nexthop object elsewhere; every route that uses it moves at once.
    ReplaceNexthop {
        /// What it was.
        from: Nexthop,
        /// What it shall be.
        to: Nexthop,
    },
    /// Remove a nexthop object.
    DeleteNexthop(Nexthop),
    /// Add a route.
    AddRoute(Route),
    /// Change a route without a moment in which there is none.
    ReplaceRoute {
        /// What it was.
        from: Route,
        /// What it shall be; same table, prefix and metric.
        to: Route,
    },
    /// Remove a route.
    DeleteRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    DeleteRule(Rule),
}

impl Step {
    /// The link that it is about; `None` for what concerns several or none, such as rules.
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Step::CreateLink(link) | Step::DeleteLink(link) => Some(&link.name),
            Step::SetUp { link, .. }
            | Step::SetMtu { link, .. }
            | Step::SetMac { link, .. }
            | Step::SetController { link, .. }
            | Step::SetWireguard { link, .. }
            | Step::SetSysctl { link, .. } => Some(link),
            Step::AddAddress(address) | Step::DeleteAddress(address) => Some(&address.link),
            Step::CreateNexthop(nexthop)
            | Step::ReplaceNexthop { to: nexthop, .. }
            | Step::DeleteNexthop(nexthop) => match &nexthop.target {
                NexthopTarget::Single { link, .. } => Some(link),
                NexthopTarget::Group(_) | NexthopTarget::Blackhole(_) => None,
            },
            Step::AddRoute(route)
            | Step::ReplaceRoute { to: route, .. }
            | Step::DeleteRoute(route) => match &route.target {
                RouteTarget::Via { link, .. } | RouteTarget::Dev(link) => Some(link),
                RouteTarget::Nexthop(_)
                | RouteTarget::Blackhole
                | RouteTarget::Unreachable
                | RouteTarget::Throw => None,
            },
            Step::AddRule(_) | Step::DeleteRule(_) => None,
        }
    }

    /// The steps that take this one back, in their order; `None` where that is not in our hands
    /// (a TUN device belongs to the program that opened it, a setting that could not be read
    /// has no past).
    pub fn inverse(&self) -> Option<Vec<Step>> {
        Some(vec![match self.clone() {
            Step::CreateLink(link) => Step::DeleteLink(link),
            Step::DeleteLink(link) => return link.creation(),
            Step::SetUp { link, up } => Step::SetUp { link, up: !up },
            Step::SetMtu { link, from, to } => Step::SetMtu { link, from: to, to: from },
            Step::SetMac { from: None, .. } => return None,
            Step::SetMac { link, from: Some(from), to } => {
                Step::SetMac { link, from: Some(to), to: from }
            }
            Step::SetController { link, from, to } => {
                Step::SetController { link, from: to, to: from }
            }
            Step::SetWireguard { link, from, to } => {
                Step::SetWireguard { link, from: to, to: from }
            }
            Step::SetSysctl { from: None, .. } => return None,
            Step::SetSysctl { link, sysctl, from: Some(from), to } => {
                Step::SetSysctl { link, sysctl, from: Some(to), to: from }
            }
            Step::AddAddress(address) => Step::DeleteAddress(address),
            Step::DeleteAddress(address) => Step::AddAddress(address),
            Step::CreateNexthop(nexthop) => Step::DeleteNexthop(nexthop),
            Step::ReplaceNexthop { from, to } => Step::ReplaceNexthop { from: to, to: from },
            Step::DeleteNexthop(nexthop) => Step::CreateNexthop(nexthop),
            Step::AddRoute(route) => Step::DeleteRoute(route),
            Step::ReplaceRoute { from, to } => Step::ReplaceRoute { from: to, to: from },
            Step::DeleteRoute(route) => Step::AddRoute(route),
            Step::AddRule(rule) => Step::DeleteRule(rule),
            Step::DeleteRule(rule) => Step::AddRule(rule),
        }])
    }
}

impl Link {
    /// The steps that make this link from nothing, all its settings included; `None` for kinds
    /// that are not made by us.
    pub(crate) fn creation(&self) -> Option<Vec<Step>> {
        let mut steps = match &self.kind {
            LinkKind::Physical | LinkKind::Tun | LinkKind::Other(_) => return None,
            _ => vec![Step::CreateLink(self.clone())],
        };
        if let LinkKind::Wireguard(device) = &self.kind {
            let (from, to) = (WireguardDevice::default(), device.clone());
            steps.push(Step::SetWireguard { link: self.name.clone(), from, to });
        }
        for (sysctl, to) in &self.sysctls {
            let (link, sysctl, to) = (self.name.clone(), sysctl.clone(), to.clone());
            steps.push(Step::SetSysctl { link, sysctl, from: None, to });
        }
        if let Some(to) = self.controller.clone() {
            steps.push(Step::SetController { link: self.name.clone(), from: None, to: Some(to) });
        }
        if self.up {
            steps.push(Step::SetUp { link: self.name.clone(), up: true });
        }
        Some(steps)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateLink(link) => write!(f, "create link {} ({})", link.name, link.kind),
            Step::DeleteLink(link) => write!(f, "delete link {} ({})", link.name, link.kind),
            Step::SetUp { link, up: true } => write!(f, "set link {link} up"),
            Step::SetUp { link, up: false } => write!(f, "set link {link} down"),
            Step::SetMtu { link, from, to } => {
                write!(f, "change the MTU of link {link} from {from} to {to} bytes")
            }
            Step::SetMac { link, to, .. } => {
                write!(f, "change the hardware address of link {link} to {to}")
            }
            Step::SetController { link, to: Some(to), .. } => {
                write!(f, "make link {link} a port of {to}")
            }
            Step::SetController { link, from, to: None } => {
                write!(f, "take link {link} out of ")?;
                match from {
                    Some(from) => write!(f, "{from}"),
                    None => f.write_str("its controller"),
                }
            }
            Step::SetWireguard { link, to, .. } => {
                write!(f, "set keys and peers ({}) of WireGuard link {link}", to.peers.len())
            }
            Step::SetSysctl { link, sysctl, from, to } => {
                write!(f, "change setting {sysctl} of link {link}")?;
                if let Some(from) = from {
                    write!(f, " from {from}")?;
                }
                write!(f, " to {to}")
            }
            Step::AddAddress(address) => write!(f, "add address {address}"),
            Step::DeleteAddress(address) => write!(f, "delete address {address}"),
            Step::CreateNexthop(nexthop) => write!(f, "create nexthop {nexthop}"),
            Step::ReplaceNexthop { to, .. } => write!(f, "point nexthop {to}"),
            Step::DeleteNexthop(nexthop) => write!(f, "delete nexthop {nexthop}"),
            Step::AddRoute(route) => write!(f, "add route {route}"),
            Step::ReplaceRoute { from, to } => {
                write!(f, "change route {to} (was {})", from.target)
            }
            Step::DeleteRoute(route) => write!(f, "delete route {route}"),
            Step::AddRule(rule) => write!(f, "add rule {rule}"),
            Step::DeleteRule(rule) => write!(f, "delete rule {rule}"),
        }
    }
}
