//! Brings what a transaction touched to where it belongs, inside the same transaction.

use super::Fleet;
use crate::store::{Key, Tx};
use holdfast_api::resources::Kind;
use std::collections::BTreeSet;

/// Rounds after which something must be wrong: a registration leads to its site, a site to its
/// registrations, and there it ends.
const ROUNDS: usize = 16;

impl Fleet {
    /// Runs the controllers for everything that this transaction wrote, until nothing changes.
    pub fn settle(&self, tx: &mut Tx<'_>) {
        let mut mark = 0;
        let mut more = BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut work = tx.written_since(mark);
            work.append(&mut more);
            mark = tx.writes();
            if work.is_empty() {
                return;
            }
            for key in work {
                more.extend(self.step(tx, &key));
            }
        }
        tracing::error!("the controllers do not come to rest");
    }

    /// One object. Answers what else to look at, beside what was written.
    pub(super) fn step(&self, tx: &mut Tx<'_>, key: &Key) -> Vec<Key> {
        match key.kind {
            Kind::Registration => self.registration(tx, key),
            Kind::Site => self.site(tx, key),
            Kind::RegionalEdge => self.edge(tx, key),
            Kind::Token
            | Kind::NodeConfig
            | Kind::NodeStatus
            | Kind::Release
            | Kind::TunnelPeer => Vec::new(),
        }
    }
}
