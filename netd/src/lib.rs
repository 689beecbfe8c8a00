//! The kernel's network: links, addresses, nexthop objects, routes, rules, WireGuard devices.
//!
//! The shape is the one of every domain here: [`model`] says what is wanted and what is,
//! [`plan()`] decides which steps lead from one to the other, [`Kernel`] observes the machine and
//! applies steps, one at a time or in batches, over one netlink socket. [`watch`] tells when
//! somebody changed something, [`dhcp`] gives leases for the caller to merge into what it wants.
//!
//! What is ours is told by marks ([`Ownership`]), and only that is changed or removed. A thing
//! of somebody else's in the place of ours is a conflict that is reported and left alone.
//!
//! It leaves out: firewalls, traffic control, name resolution (a lease only reports its
//! servers), and waiting; the caller decides when to look again.
#![warn(missing_docs)]

pub mod dhcp;
mod error;
mod kernel;
pub mod model;
pub mod netns;
mod ownership;
mod plan;
mod readiness;
mod step;
pub mod tuntap;
pub mod watch;
mod wire;

pub use error::{
    ApplyError, BatchError, KernelAnswer, ObserveError, OpenError, PlanError, TalkError,
};
pub use kernel::{Ipv6, Kernel, Outcome};
pub use model::{
    Address, BondMode, Family, Link, LinkKind, LinkName, LinkSysctl, Mac, Network, Nexthop,
    NexthopTarget, Observed, Peer, Route, RouteTarget, Rule, WgKey, WireguardDevice, WireguardPeer,
};
pub use ownership::Ownership;
pub use plan::plan;
pub use step::Step;
