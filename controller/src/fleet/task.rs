//! What concerns many sites or comes from status: done by one task, in small transactions.
//!
//! * An edge changed → every site is rendered anew.
//! * A node reported, or was silent for too long → its site's status; its registration is `Online`.
//! * A registration lost its admission → open watches of its holder are looked at.
//! * At the start, and when changes came faster than they could be looked at → everything.

use super::health::{self, Report};
use super::object::to_value;
use super::{Fleet, HEARD_ANNOTATION, REGISTRATION_ANNOTATION};
use crate::Clock;
use crate::store::{Event, Index, Key, Shared, Store, StoreError, Tx};
use holdfast_api::resources::{Kind, NodeStatus, Site};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Sites handled by one transaction: more would keep other writes waiting.
const CHUNK: usize = 64;
/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);
/// Pause after the store refused.
const RETRY: Duration = Duration::from_secs(2);

struct Task {
    store: Store,
    fleet: Arc<Fleet>,
    clock: Clock,
    seen: u64,
    render: BTreeSet<Key>,
    assess: BTreeSet<Key>,
    /// Sites by the moment at which silence could change them.
    silent: BTreeMap<Timestamp, BTreeSet<Key>>,
}

/// Runs until `shutdown` turns true.
pub async fn run(
    store: Store,
    fleet: Arc<Fleet>,
    clock: Clock,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut edges = store.changes(Kind::RegionalEdge);
    let mut statuses = store.changes(Kind::NodeStatus);
    let mut sites = store.changes(Kind::Site);
    let mut registrations = store.changes(Kind::Registration);
    let mut task = Task {
        store,
        fleet,
        clock,
        seen: 0,
        render: BTreeSet::new(),
        assess: BTreeSet::new(),
        silent: BTreeMap::new(),
    };
    task.look_at_everything();
    while !*shutdown.borrow() {
        task.look_at_changes();
        task.look_at_silence();
        if !task.render.is_empty() || !task.assess.is_empty() {
            if let Err(error) = task.work().await {
                tracing::warn!(%error, "sites could not be brought up to date; trying again");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    _ = shutdown.changed() => {}
                }
            }
            continue;
        }
        // Each arm only wakes the loop, so that nothing is lost by dropping the others.
        tokio::select! {
            _ = edges.changed() => {}
            _ = statuses.changed() => {}
            _ = sites.changed() => {}
            _ = registrations.changed() => {}
            () = tokio::time::sleep(TICK) => {}
            _ = shutdown.changed() => {}
        }
    }
}

impl Task {
    fn look_at_everything(&mut self) {
        let (sites, version) = self.store.read(|state, version| {
            (
                state.list(Kind::Site, None, None).map(|e| e.key.clone()).collect::<BTreeSet<_>>(),
                version,
            )
        });
        self.seen = version;
        self.render.clone_from(&sites);
        self.assess = sites;
    }

    fn look_at_changes(&mut self) {
        let since = |kind| self.store.since(kind, self.seen);
        // Statuses and sites first: what changes between the reads is seen again, never missed.
        let kinds = [Kind::NodeStatus, Kind::Site, Kind::RegionalEdge, Kind::Registration];
        let [Ok(statuses), Ok(sites), Ok(edges), Ok(registrations)] = kinds.map(since) else {
            tracing::info!("changes came too fast, looking at everything");
            self.fleet.revoked.send_modify(|count| *count += 1);
            return self.look_at_everything();
        };
        let seen = statuses.1;
        for event in statuses.0 {
            for entry in event.before.iter().chain(&event.after) {
                let site = entry.text("/status/site");
                self.assess.insert(Key::new(Kind::Site, &entry.key.namespace, site));
            }
        }
        let members = |entry: &Option<Shared>| {
            entry.as_ref().and_then(|e| e.value.pointer("/spec/nodes").cloned())
        };
        for event in sites.0.iter().filter(|event| members(&event.before) != members(&event.after))
        {
            self.assess.extend(event.after.iter().map(|entry| entry.key.clone()));
        }
        if edges.0.iter().any(|event| edge_changed(event)) {
            self.render.extend(self.store.read(|state, _| {
                state.list(Kind::Site, None, None).map(|e| e.key.clone()).collect::<Vec<_>>()
            }));
        }
        let admitted = |entry: &Option<Shared>| {
            entry.as_ref().is_some_and(|e| matches!(e.text("/status/phase"), "Admitted" | "Online"))
        };
        let mut lost = registrations
            .0
            .iter()
            .filter(|event| admitted(&event.before) && !admitted(&event.after));
        if lost.next().is_some() {
            self.fleet.revoked.send_modify(|count| *count += 1);
        }
        self.seen = seen;
    }

    fn look_at_silence(&mut self) {
        let now = (self.clock)();
        while let Some(entry) = self.silent.first_entry() {
            if *entry.key() > now {
                break;
            }
            self.assess.append(&mut entry.remove());
        }
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        let take = |from: &BTreeSet<Key>| from.iter().take(CHUNK).cloned().collect::<Vec<_>>();
        let (render, assess) = (take(&self.render), take(&self.assess));
        let fleet = self.fleet.clone();
        let (to_render, to_assess) = (render.clone(), assess.clone());
        let due = self
            .store
            .write(move |tx| {
                for key in &to_render {
                    fleet.refresh_site(tx, key);
                }
                let due = to_assess
                    .iter()
                    .filter_map(|key| Some((fleet.assess_site(tx, key)?, key.clone())));
                Ok::<_, StoreError>(due.collect::<Vec<_>>())
            })
            .await?;
        for (at, key) in due {
            self.silent.entry(at).or_default().insert(key);
        }
        self.render.retain(|key| !render.contains(key));
        self.assess.retain(|key| !assess.contains(key));
        Ok(())
    }
}

fn edge_changed(event: &Event) -> bool {
    let spec = |entry: &Option<Shared>| entry.as_ref().and_then(|e| e.value.get("spec").cloned());
    spec(&event.before) != spec(&event.after)
}

impl Fleet {
    /// Writes a site's status; answers when silence could change it next.
    pub(super) fn assess_site(&self, tx: &mut Tx<'_>, key: &Key) -> Option<Timestamp> {
        let entry = tx.get(key)?;
        let site = entry.decode::<Site>()?;
        let mut reports = BTreeMap::new();
        for status in tx.find(Index::SiteStatuses, &format!("{}/{}", key.namespace, key.name)) {
            let heard = status.annotation(HEARD_ANNOTATION).parse().ok();
            let heard = heard.max(self.presence.last(&key.namespace, &status.key.name));
            let Some(report) = status.decode::<NodeStatus>().and_then(|s| s.status) else {
                continue;
            };
            if report.tunnels.as_ref().is_some_and(|tunnels| tunnels.up() > 0) {
                let node = site.spec.nodes.iter().find(|node| node.name == status.key.name);
                if let Some(node) = node {
                    bring_online(tx, &key.namespace, &node.registration);
                }
            }
            reports.insert(status.key.name.clone(), Report { status: report, heard });
        }
        let before = site.status.clone().unwrap_or_default();
        let after = self.settings.offline_after;
        let (status, next) =
            health::site_status(&site.spec.nodes, &reports, &before, tx.now(), after);
        if status.phase != before.phase {
            tracing::info!(site = %key, from = before.phase, to = status.phase, "changed");
        }
        if status != before {
            let mut value = entry.value.clone();
            value["status"] = to_value(&status);
            super::save(tx, key.clone(), value, None);
        }
        next
    }

    /// An edge reported: its registration is online.
    pub fn edge_reported(&self, tx: &mut Tx<'_>, edge: &Shared) {
        if let Some((tenant, name)) = edge.annotation(REGISTRATION_ANNOTATION).split_once('/') {
            bring_online(tx, tenant, name);
        }
    }
}

fn bring_online(tx: &mut Tx<'_>, tenant: &str, registration: &str) {
    let entry = tx.get(&Key::new(Kind::Registration, tenant, registration));
    if let Some(entry) = entry.filter(|entry| entry.text("/status/phase") == "Admitted") {
        let mut value = entry.value.clone();
        value["status"]["phase"] = "Online".into();
        super::save(tx, entry.key.clone(), value, None);
    }
}
