//! What is wanted and what is, as plain values.
//!
//! [`Network`] holds either: the caller fills one with what it wants, [`Observed`] holds one
//! with what we have. Values are in normal form when they are inserted (prefixes without host
//! bits, the kernel's default metric for IPv6), so that equality means equality.

mod keyed;
mod link;
mod name;
mod network;
mod nexthop;
mod observed;
mod route;
mod sysctl;
mod wireguard;

pub use keyed::{Item, Keyed};
pub use link::{BondMode, Link, LinkKind, Mac, MacParseError, Peer};
pub use name::{LinkName, LinkNameError};
pub use network::{Address, Family, Network};
pub use nexthop::{Nexthop, NexthopTarget};
pub use observed::{Mark, Observed, Others};
pub use route::{MAIN_TABLE, Route, RouteKey, RouteTarget, Rule};
pub use sysctl::{LinkSysctl, SysctlNameError};
pub use wireguard::{PeerState, WgKey, WireguardDevice, WireguardPeer};
