//! Edges tell each other which nodes they have up, over the backbone.
//!
//! ```text
//!  edge A ──dials──► edge B      B: hello, snapshot of its nodes, then changes and heartbeats
//!  edge B ──dials──► edge A      A: the same
//! ```
//!
//! Each direction is a TLS 1.3 connection of its own, in JSON lines; both sides show certificates
//! that the controller issued to edges. What an edge said counts until its connection breaks or
//! it was silent for three of its heartbeats: then none of its nodes can be reached through it.
//! [`feed`] decides that, without sockets and clocks; [`listen`] and [`dial`] carry it.
//!
//! Left out: relaying what a third edge said. Every edge talks to every other.

pub mod dial;
pub mod feed;
pub mod listen;
pub mod message;
pub mod tls;

use crate::nodes::NodeKey;
use std::collections::BTreeSet;

/// What was heard of another edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// These are all nodes that it has up.
    All(BTreeSet<NodeKey>),
    /// These came up, and those went down.
    Changed {
        /// Up now.
        up: BTreeSet<NodeKey>,
        /// Down now.
        down: BTreeSet<NodeKey>,
    },
    /// It is gone, and with it the way to its nodes.
    Lost,
}
