//! Links: what they are and what is set on them.

use super::{Item, LinkName, LinkSysctl, WireguardDevice};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// One link. `None` and absent settings are left as the kernel has them and not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name in its network namespace.
    pub name: LinkName,
    /// What it is; another kind means another link.
    pub kind: LinkKind,
    /// Largest packet, bytes, without the link layer's header.
    pub mtu: Option<u32>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its hardware address.
    pub address: Option<Mac>,
    /// The bridge or bond that it is a port of.
    pub controller: Option<LinkName>,
    /// Settings below `/proc/sys/net/{ipv4,ipv6}/conf/<name>/`.
    pub sysctls: BTreeMap<LinkSysctl, String>,
}

impl Link {
    /// A link that is up and otherwise as the kernel makes it.
    pub fn new(name: LinkName, kind: LinkKind) -> Self {
        Link {
            name,
            kind,
            mtu: None,
            up: true,
            address: None,
            controller: None,
            sysctls: BTreeMap::new(),
        }
    }

    /// With this MTU, bytes.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// As a port of `controller`.
    #[must_use]
    pub fn in_controller(mut self, controller: LinkName) -> Self {
        self.controller = Some(controller);
        self
    }

    /// With this setting.
    #[must_use]
    pub fn with_sysctl(mut self, sysctl: LinkSysctl, value: impl Into<String>) -> Self {
        self.sysctls.insert(sysctl, value.into());
        self
    }

    /// The links that must be there before this one can be made, save its controller.
    pub fn parent(&self) -> Option<&LinkName> {
        match &self.kind {
            LinkKind::Vlan { parent, .. } | LinkKind::Macvlan { parent } => Some(parent),
            _ => None,
        }
    }
}

impl Item for Link {
    type Key = LinkName;
    fn key(&self) -> LinkName {
        self.name.clone()
    }
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A port that is there or not; never made or removed, only configured when it is declared.
    Physical,
    /// One end of a pair.
    Veth {
        /// The other end.
        peer: Peer,
    },
    /// An Ethernet bridge.
    Bridge,
    /// An IEEE 802.1Q sub-interface.
    Vlan {
        /// The link that carries it.
        parent: LinkName,
        /// 1 to 4094.
        id: u16,
    },
    /// Several ports as one.
    Bond {
        /// How the ports share the traffic.
        mode: BondMode,
        /// Interval of link monitoring, milliseconds; 0 is off.
        miimon_ms: u32,
    },
    /// A second hardware address on `parent`, in bridge mode.
    Macvlan {
        /// The link that carries it.
        parent: LinkName,
    },
    /// A WireGuard device of the kernel.
    Wireguard(WireguardDevice),
    /// A TUN or TAP device that a program of ours holds open ([`crate::tuntap`]). It can be
    /// configured and removed, not made: a plan that needs one that is missing fails.
    Tun,
    /// Observed only: a kind that this crate does not know, by the kernel's name.
    Other(String),
}

impl LinkKind {
    /// The kernel's name of the kind (`IFLA_INFO_KIND`), which is also that of its module.
    pub fn name(&self) -> &str {
        match self {
            LinkKind::Physical => "physical",
            LinkKind::Veth { .. } => "veth",
            LinkKind::Bridge => "bridge",
            LinkKind::Vlan { .. } => "vlan",
            LinkKind::Bond { .. } => "bond",
            LinkKind::Macvlan { .. } => "macvlan",
            LinkKind::Wireguard(_) => "wireguard",
            LinkKind::Tun => "tun",
            LinkKind::Other(name) => name,
        }
    }

    /// The module of the kernel that brings the kind, as modprobe(8) wants it.
    pub fn module(&self) -> &str {
        match self {
            LinkKind::Vlan { .. } => "8021q",
            LinkKind::Bond { .. } => "bonding",
            other => other.name(),
        }
    }

    /// Whether an observed link of kind `seen` is what `self` asks for, so that the rest of
    /// its settings can be changed in place.
    pub fn is_met_by(&self, seen: &LinkKind) -> bool {
        match (self, seen) {
            (LinkKind::Veth { peer: want }, LinkKind::Veth { peer: have }) => match (want, have) {
                (Peer::In { .. }, Peer::Elsewhere) | (Peer::Elsewhere, _) => true,
                (want, have) => want == have,
            },
            // Keys and peers of a WireGuard device are changed in place.
            (LinkKind::Wireguard(_), LinkKind::Wireguard(_)) => true,
            // The kernel tells nothing about who made a link without a kind: anything goes.
            (LinkKind::Physical, _) => true,
            (want, have) => want == have,
        }
    }
}

/// The other end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// In the same network namespace.
    Here(LinkName),
    /// In the namespace `/run/netns/<netns>`.
    In {
        /// The name of the namespace.
        netns: String,
        /// The name of the link there.
        name: LinkName,
    },
    /// Observed: in some other namespace; the kernel does not tell its name.
    Elsewhere,
}

/// How a bond shares traffic (Documentation/networking/bonding.rst, `mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BondMode {
    /// Round robin.
    BalanceRr = 0,
    /// One port at a time.
    ActiveBackup = 1,
    /// By hash.
    BalanceXor = 2,
    /// On all ports.
    Broadcast = 3,
    /// IEEE 802.3ad (LACP).
    Lacp = 4,
    /// By load, sending.
    BalanceTlb = 5,
    /// By load, both ways.
    BalanceAlb = 6,
}

impl BondMode {
    /// Every mode.
    pub const ALL: [BondMode; 7] = [
        BondMode::BalanceRr,
        BondMode::ActiveBackup,
        BondMode::BalanceXor,
        BondMode::Broadcast,
        BondMode::Lacp,
        BondMode::BalanceTlb,
        BondMode::BalanceAlb,
    ];
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hardware address; six pairs of hexadecimal digits with colons are")]
pub struct MacParseError(pub String);

impl FromStr for Mac {
    type Err = MacParseError;
    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let fail = || MacParseError(text.to_string());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(fail)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() { Err(fail()) } else { Ok(Mac(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkKind::Veth { peer: Peer::Here(peer) } => write!(f, "veth to {peer}"),
            LinkKind::Veth { peer: Peer::In { netns, name } } => {
                write!(f, "veth to {name} in namespace {netns}")
            }
            LinkKind::Vlan { parent, id } => write!(f, "vlan {id} on {parent}"),
            LinkKind::Macvlan { parent } => write!(f, "macvlan on {parent}"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_read_back() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in
            ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "0g:00:5e:10:00:ff"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(MacParseError(bad.to_string())));
        }
    }
}
