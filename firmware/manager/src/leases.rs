//! DHCP: one client for each link that asks, started and stopped as the wanted set changes.
//!
//! Leases are not kept on disk. After a restart of the manager what a link has from its last lease
//! stays until the server answers again (`pass::network`), so traffic does not notice.

use futures_util::future::select_all;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use netd::dhcp::Client;
use netd::{LinkName, Network};
use std::collections::{BTreeMap, BTreeSet};

/// Routes of a lease lose against static ones, which have metric 0.
const METRIC: u32 = 100;

/// The clients that run.
#[derive(Debug, Default)]
pub struct Leases {
    clients: BTreeMap<LinkName, Client>,
    host_name: Option<String>,
}

impl Leases {
    /// No clients yet; they will tell servers this name.
    pub fn new(host_name: Option<String>) -> Self {
        Leases { clients: BTreeMap::new(), host_name }
    }

    /// Runs clients on exactly these links.
    pub fn want(&mut self, links: &BTreeSet<LinkName>) {
        self.clients.retain(|link, _| links.contains(link));
        for link in links {
            self.clients
                .entry(link.clone())
                .or_insert_with(|| Client::start(link.clone(), self.host_name.clone()));
        }
    }

    /// What the servers gave so far, as the network it asks for.
    pub fn have(&self) -> BTreeMap<LinkName, Network> {
        let lease = |(link, client): (&LinkName, &Client)| {
            Some((link.clone(), client.state().lease?.network(METRIC)))
        };
        self.clients.iter().filter_map(lease).collect()
    }

    /// Links that ask and get nothing.
    pub fn problems(&self) -> Vec<Problem> {
        let states = self.clients.values().map(Client::state);
        states
            .filter_map(|state| Some(Problem::new(Reason::NetDhcpFailed, state.trouble?)))
            .collect()
    }

    /// Waits for news of any client. Cancel safe.
    pub async fn changed(&mut self) {
        if self.clients.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.clients.values_mut().map(|client| Box::pin(client.changed()))).await;
    }
}
