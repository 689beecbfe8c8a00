//! What is on the wire: one JSON object per line.
//!
//! A reader passes over fields and messages that it does not know, so edges of different versions
//! understand each other.

use crate::nodes::NodeKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// Bytes of one line: a snapshot of 50,000 nodes with long names.
pub const MAX_LINE: usize = 16 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Message {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Who speaks.
        edge: String,
        /// How often something is said at the least, milliseconds.
        heartbeat_ms: u32,
    },
    /// All nodes that are up.
    Snapshot {
        /// Counts snapshots and changes.
        seq: u64,
        /// The nodes.
        up: BTreeSet<NodeKey>,
    },
    /// What changed.
    Change {
        /// One more than the one before.
        seq: u64,
        /// Up now.
        up: BTreeSet<NodeKey>,
        /// Down now.
        down: BTreeSet<NodeKey>,
    },
    /// Nothing changed.
    Alive {
        /// Of the last snapshot or change.
        seq: u64,
    },
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

impl Message {
    /// As a line with its end.
    pub fn to_line(&self) -> Vec<u8> {
        // Strings, numbers and sets of strings always have a JSON form.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// What to say when the set was `before` and is `now`; none when it is the same.
pub fn difference(
    seq: u64,
    before: &BTreeSet<NodeKey>,
    now: &BTreeSet<NodeKey>,
) -> Option<Message> {
    let up: BTreeSet<NodeKey> = now.difference(before).cloned().collect();
    let down: BTreeSet<NodeKey> = before.difference(now).cloned().collect();
    (!up.is_empty() || !down.is_empty()).then_some(Message::Change { seq, up, down })
}
