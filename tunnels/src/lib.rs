//! The encrypted uplinks of a node, and the other ends of them.
//!
//! Library pieces for both sides: [`bfd`] (is the tunnel alive), [`probe`] (how far is an
//! edge), [`path_mtu`] (how large its packets may be), [`ipv6`] (what is told where that is off), [`wireguard`] (the userspace engine). For the node alone: [`select`] (which edges),
//! [`slots`] (which tunnel on which link), [`failover`] (which tunnel carries traffic), and
//! [`daemon`], which joins them into `tunneld`.
//!
//! What decides has no clock, socket or random source: `now` and seeds are arguments.
#![warn(missing_docs)]

pub mod bfd;
pub mod daemon;
pub mod failover;
#[doc(hidden)]
pub mod fuzzing;
pub mod ipv6;
pub mod names;
pub mod path_mtu;
pub mod probe;
pub mod program;
mod random;
pub mod select;
pub mod slots;
mod udp;
mod wake;
pub mod wireguard;
