//! When nodes were last heard, in memory: every request and every open watch of a node counts.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// When each node (tenant, name) was last heard.
#[derive(Debug, Default)]
pub struct Presence(Mutex<BTreeMap<(String, String), Timestamp>>);

impl Presence {
    /// The node was heard just now.
    pub fn heard(&self, tenant: &str, node: &str, now: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((tenant.into(), node.into()), now);
    }

    /// When the node was last heard since the start.
    pub fn last(&self, tenant: &str, node: &str) -> Option<Timestamp> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(tenant.to_owned(), node.to_owned())).copied()
    }

    /// Forgets a node that is no more.
    pub fn forget(&self, tenant: &str, node: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(tenant.to_owned(), node.to_owned()));
    }
}
