//! The reboot lock and the drain around it, behind FleetLock's two requests.
//!
//! A node that has the lock is drained by a task of its own here; the request is answered at
//! once, and asked again by the client until it is granted. Everything that must survive this
//! process is in the cluster (the holder in the Lease, our cordon on the Node), so a request may
//! go to any server, and a drain that died with its server is begun anew by the next request.
//!
//! The lock is free without its holder's doing in one case only: its holder is no Node of the
//! cluster any more. Otherwise an operator breaks it ([`RebootLock::break_lock`]). When a drain
//! takes too long, the node takes pods again and the lock is released, so that others get a turn.

use super::cluster::{Answer, Cluster, ClusterError, Lease};
use super::drain::{Drain, DrainSettings, Evicted, Next, Outcome, Seen};
use super::lease::{Decision, Expiry, Record, Watcher};
use super::model::{NodeView, Readiness};
use super::refusal::{Kind, Refusal};
use super::replace;
use holdfast_api::chain;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The Lease of the group `default`; others have `-` and the group's name after it.
pub const REBOOT_LEASE: &str = "holdfast-reboot";

/// A group of nodes that reboot one at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(String);

impl Group {
    /// The lock's Lease.
    pub fn lease_name(&self) -> String {
        match self.0.as_str() {
            "default" => REBOOT_LEASE.to_owned(),
            name => format!("{REBOOT_LEASE}-{name}"),
        }
    }

    /// The group of a Lease; none when it is no reboot lock.
    pub fn of_lease(name: &str) -> Option<Group> {
        match name.strip_prefix(REBOOT_LEASE)? {
            "" => Some(Group::default()),
            rest => Group::try_from(rest.strip_prefix('-')?).ok(),
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Group("default".into())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for Group {
    type Error = Refusal;

    /// The protocol has `^[a-zA-Z0-9.-]+$`. Ours must also be the name of a Lease: lower case,
    /// a letter or digit at both ends (RFC 1123), at most 63 characters.
    fn try_from(name: &str) -> Result<Self, Refusal> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let parts = name.split('.');
        let good = (1..=63).contains(&name.len())
            && name.chars().all(|c| plain(c) || c == '.' || c == '-')
            && parts.clone().all(|part| part.starts_with(plain) && part.ends_with(plain));
        match good {
            true => Ok(Group(name.to_owned())),
            false => Err(Refusal::new(
                Kind::UnknownGroup,
                "a group has at most 63 lower-case letters, digits, dots and dashes",
            )),
        }
    }
}

/// How the lock works.
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// Groups that there are. Nodes of two groups may be down at once.
    pub groups: BTreeSet<Group>,
    /// How nodes are drained.
    pub drain: DrainSettings,
    /// How long a request waits for a drain, so that a quick one is granted at once.
    pub patience: Duration,
}

impl Default for LockSettings {
    /// The group `default` alone: one node of the site at a time.
    fn default() -> Self {
        LockSettings {
            groups: [Group::default()].into(),
            drain: DrainSettings::default(),
            patience: Duration::from_secs(2),
        }
    }
}

/// Where a drain is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Running(Option<Refusal>),
    Ended(Outcome, Instant),
}

#[derive(Debug)]
struct Running {
    progress: watch::Receiver<Progress>,
    task: AbortHandle,
}

/// The lock.
#[derive(Debug)]
pub struct RebootLock<K> {
    cluster: Arc<K>,
    settings: LockSettings,
    drains: Mutex<BTreeMap<String, Running>>,
}

impl<K> Drop for RebootLock<K> {
    fn drop(&mut self) {
        for running in self.drains().values() {
            running.task.abort();
        }
    }
}

/// How often a write is tried against others before the client is asked to come again.
const ATTEMPTS: usize = 8;

impl<K> RebootLock<K> {
    fn drains(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Cluster> RebootLock<K> {
    /// A lock in `cluster`.
    pub fn new(cluster: Arc<K>, settings: LockSettings) -> Self {
        RebootLock { cluster, settings, drains: Mutex::default() }
    }

    /// FleetLock's `pre-reboot`: granted when the node has the lock and is drained.
    ///
    /// # Errors
    /// Why not yet, or not at all.
    pub async fn pre_reboot(&self, group: &str, id: &str) -> Result<(), Refusal> {
        let group = self.group(group)?;
        let nodes = self.cluster.nodes().await.map_err(unavailable)?;
        let name = &find(&nodes, id)?.ok_or_else(unknown)?.name;
        if let Some(refusal) = self.just_failed(name) {
            return Err(refusal);
        }
        // A restore tells a lock of its snapshot's time by its version (`super::restored`). So a
        // drain is begun, and a reboot granted, only on a Lease that was written for it.
        let running = self.running(name);
        let goes_on = running.is_some();
        let node = self.acquire(&group, name, !goes_on).await?;
        let mut progress = match running {
            Some(progress) => progress,
            None => {
                let seen = look(&*self.cluster, &group, &node.name).await.map_err(unavailable)?;
                let mut drain = Drain::begin(self.settings.drain, Instant::now());
                match drain.look(&seen, Instant::now()) {
                    // A kubelet that is silent ends no pods; that is why it wants to reboot.
                    Next::End(Outcome::Done | Outcome::Vanished) => return Ok(()),
                    _ => self.start(&group, &node.name, drain),
                }
            }
        };
        let is_over = |progress: &Progress| matches!(progress, Progress::Ended(..));
        // What it says when the patience is over is told as well as its end.
        drop(tokio::time::timeout(self.settings.patience, progress.wait_for(is_over)).await);
        let said = progress.borrow().clone();
        match said {
            Progress::Running(None) => {
                Err(Refusal::new(Kind::Draining, format!("node {} is being drained", node.name)))
            }
            Progress::Running(Some(refusal)) => Err(refusal),
            Progress::Ended(Outcome::Done, _) if goes_on => {
                self.acquire(&group, &node.name, true).await.map(drop)
            }
            Progress::Ended(Outcome::Done, _) => Ok(()),
            // Removed, or fell silent: the next request looks which of them.
            Progress::Ended(outcome @ Outcome::Vanished, _) => {
                Err(Refusal::new(Kind::Draining, outcome.to_string()))
            }
            Progress::Ended(Outcome::Withdrawn, _) => {
                Err(Refusal::new(Kind::Locked, "the lock was released or broken meanwhile"))
            }
            Progress::Ended(outcome @ Outcome::TimedOut { .. }, _) => {
                self.drains().remove(&node.name);
                Err(Refusal::new(Kind::DrainTimeout, outcome.to_string()))
            }
        }
    }

    /// FleetLock's `steady-state`: the node is uncordoned when the cordon is ours, and loses the
    /// lock if it has it. Of a node that has neither it is granted at once.
    ///
    /// # Errors
    /// The node is not Ready, or the cluster does not answer; it is asked again then.
    pub async fn steady_state(&self, group: &str, id: &str) -> Result<(), Refusal> {
        let group = self.group(group)?;
        for _ in 0..ATTEMPTS {
            let lease = self.cluster.lease(&group.lease_name()).await.map_err(unavailable)?;
            let nodes = self.cluster.nodes().await.map_err(unavailable)?;
            let node = find(&nodes, id)?;
            let name = node.map_or(id, |node| node.name.as_str());
            let held = lease.as_ref().filter(|lease| lease.record.holder == name);
            let cordoned = node.is_some_and(|node| node.cordoned_by_us);
            if held.is_none() && !cordoned {
                return Ok(());
            }
            if node.is_some_and(|node| node.readiness != Readiness::Ready) {
                return Err(Refusal::new(Kind::NotReady, format!("node {name} is not Ready yet")));
            }
            if let Some(running) = self.drains().remove(name) {
                running.task.abort();
            }
            if cordoned {
                self.cluster.cordon(name, false).await.map_err(unavailable)?;
                tracing::info!(node = name, "the node takes pods again");
            }
            let Some(held) = held else { return Ok(()) };
            match self.release(held).await {
                Ok(()) => return Ok(()),
                Err(ClusterError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Refusal::new(Kind::Unavailable, "the lock changes too often"))
    }

    /// Locks that are held: group and holder.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn holders(&self) -> Answer<Vec<(Group, String)>> {
        let leases = self.cluster.leases().await?;
        let held = leases.into_iter().filter(|lease| !lease.record.holder.is_empty());
        Ok(held
            .filter_map(|lease| Some((Group::of_lease(&lease.name)?, lease.record.holder)))
            .collect())
    }

    /// Takes the lock from `holder`, as an operator or the removal of a node does. The holder is
    /// named so that nobody loses it who got it a moment ago. Tells whether it was held by it.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn break_lock(&self, group: &Group, holder: &str) -> Answer<bool> {
        loop {
            let lease = self.cluster.lease(&group.lease_name()).await?;
            let Some(lease) = lease.filter(|lease| lease.record.holder == holder) else {
                return Ok(false);
            };
            match self.release(&lease).await {
                Err(ClusterError::Conflict { .. }) => {}
                done => return done.map(|()| true),
            }
        }
    }

    fn group(&self, name: &str) -> Result<Group, Refusal> {
        let group = Group::try_from(name)?;
        match self.settings.groups.contains(&group) {
            true => Ok(group),
            false => {
                Err(Refusal::new(Kind::UnknownGroup, format!("this site has no group {group}")))
            }
        }
    }

    /// Makes the node the holder, unless another one is; the Lease is written also when it is already.
    /// Without `anew` nothing is written: the node's drain goes on, and has the lock as long as it
    /// does. What it gave back a moment ago is not to be taken behind its back.
    async fn acquire(&self, group: &Group, name: &str, anew: bool) -> Result<NodeView, Refusal> {
        let lease_name = group.lease_name();
        for _ in 0..ATTEMPTS {
            // The lock first: whoever holds it was a Node when it got it, so that one that is
            // missing from the later list was removed.
            let lease = self.cluster.lease(&lease_name).await.map_err(unavailable)?;
            let nodes = self.cluster.nodes().await.map_err(unavailable)?;
            let node = nodes.iter().find(|node| node.name == name).ok_or_else(unknown)?;
            let record = lease.as_ref().map(|lease| &lease.record);
            match Watcher::default().decide(record, &node.name, Expiry::Never, Instant::now()) {
                Decision::Wait { holder, .. } | Decision::TakeOver { from: holder }
                    if nodes.iter().any(|node| node.name == holder) =>
                {
                    let message = format!("node {holder} has the reboot lock");
                    return Err(Refusal::new(Kind::Locked, message));
                }
                Decision::Acquire
                | Decision::Renew
                | Decision::Wait { .. }
                | Decision::TakeOver { .. } => {}
            }
            // Also of a holder: another server may have died since it got the lock.
            if !replace::survives_reboot_of(node, &nodes) {
                let message = "another server is away; the datastore would stop without this one";
                return Err(Refusal::new(Kind::Datastore, message));
            }
            if !anew {
                return Ok(node.clone());
            }
            let has_it = record.is_some_and(|record| record.holder == node.name);
            let mine = Record::held_by(&node.name, record, Expiry::Never, Timestamp::now());
            match self.cluster.write_lease(&lease_name, &mine, lease.as_ref()).await {
                Ok(()) => {
                    if !has_it {
                        tracing::info!(node = node.name, %group, "the node has the reboot lock");
                    }
                    return Ok(node.clone());
                }
                Err(ClusterError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Refusal::new(Kind::Unavailable, "the lock changes too often"))
    }

    async fn release(&self, lease: &Lease) -> Answer<()> {
        release(&*self.cluster, lease).await
    }

    fn running(&self, node: &str) -> Option<watch::Receiver<Progress>> {
        let mut drains = self.drains();
        let progress = drains.get(node)?.progress.clone();
        if matches!(*progress.borrow(), Progress::Ended(..)) || progress.has_changed().is_err() {
            // Ended: the node is looked at anew, for it may have got pods since.
            drains.remove(node);
            return None;
        }
        Some(progress)
    }

    /// A failure is told once, by the request after it. When that one comes late it says nothing
    /// about the next drain, which is begun instead.
    fn just_failed(&self, node: &str) -> Option<Refusal> {
        let mut drains = self.drains();
        let Progress::Ended(outcome @ Outcome::TimedOut { .. }, at) =
            drains.get(node)?.progress.borrow().clone()
        else {
            return None;
        };
        drains.remove(node);
        let fresh = at.elapsed() < self.settings.drain.deadline;
        fresh.then(|| Refusal::new(Kind::DrainTimeout, outcome.to_string()))
    }

    fn start(&self, group: &Group, node: &str, drain: Drain) -> watch::Receiver<Progress> {
        let (tell, progress) = watch::channel(Progress::Running(None));
        let (cluster, group, name) = (Arc::clone(&self.cluster), group.clone(), node.to_owned());
        let task = tokio::spawn(run(cluster, group, name, drain, tell)).abort_handle();
        let running = Running { progress: progress.clone(), task };
        if let Some(earlier) = self.drains().insert(node.to_owned(), running) {
            earlier.task.abort();
        }
        progress
    }
}

/// One drain, to its end.
async fn run<K: Cluster>(
    cluster: Arc<K>,
    group: Group,
    node: String,
    mut drain: Drain,
    tell: watch::Sender<Progress>,
) {
    tracing::info!(node, "the node is being drained");
    let outcome = loop {
        match pass(&*cluster, &group, &node, &mut drain).await {
            Ok(Some(outcome)) => break outcome,
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(node, error = chain(&error), "the drain goes on later");
                let waits = Refusal::new(Kind::Unavailable, chain(&error));
                tell.send_replace(Progress::Running(Some(waits)));
                tokio::time::sleep(AWAY).await;
                continue;
            }
        }
        let blocked = drain.blocked();
        let refusal = blocked.map(|blocked| Refusal::new(Kind::DrainBlocked, blocked.to_string()));
        tell.send_replace(Progress::Running(refusal));
    };
    match outcome.reason() {
        Some(reason) => tracing::warn!(node, %reason, %outcome, "the drain ended"),
        None => tracing::info!(node, %outcome, "the drain ended"),
    }
    tell.send_replace(Progress::Ended(outcome, Instant::now()));
}

/// Pause after the API server did not answer.
const AWAY: Duration = Duration::from_secs(1);

/// One look and what follows from it; the outcome when it is over.
async fn pass<K: Cluster>(
    cluster: &K,
    group: &Group,
    node: &str,
    drain: &mut Drain,
) -> Answer<Option<Outcome>> {
    let seen = look(cluster, group, node).await?;
    match drain.look(&seen, Instant::now()) {
        Next::Cordon => cluster.cordon(node, true).await?,
        Next::Uncordon => cluster.cordon(node, false).await?,
        Next::Evict(pods) => {
            for pod in pods {
                let answer = match cluster.evict(&pod).await {
                    Ok(answer) => answer,
                    Err(error) if error.retryable() => return Err(error),
                    // A webhook or a namespace that is being deleted: others go on meanwhile.
                    Err(error) => Evicted::Refused { message: chain(&error) },
                };
                drain.evicted(&pod, answer, Instant::now());
            }
        }
        Next::LookAt(at) => tokio::time::sleep_until(at.into()).await,
        Next::End(outcome) => {
            if matches!(outcome, Outcome::TimedOut { .. }) {
                let lease = cluster.lease(&group.lease_name()).await?;
                if let Some(lease) = lease.filter(|lease| lease.record.holder == node) {
                    release(cluster, &lease).await?;
                }
            }
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

async fn look<K: Cluster>(cluster: &K, group: &Group, name: &str) -> Answer<Seen> {
    let lease = cluster.lease(&group.lease_name()).await?;
    let nodes = cluster.nodes().await?;
    let node = nodes.iter().find(|node| node.name == name).cloned();
    Ok(Seen {
        wanted: lease.is_some_and(|lease| lease.record.holder == name),
        elsewhere: nodes.iter().any(|node| node.name != name && node.takes_pods()),
        pods: match node {
            Some(_) => cluster.pods_on(name).await?,
            None => Vec::new(),
        },
        node,
        budgets: cluster.budgets().await?,
    })
}

/// Frees a lock, when it is as it was read.
pub(super) async fn release<K: Cluster>(cluster: &K, lease: &Lease) -> Answer<()> {
    cluster.write_lease(&lease.name, &lease.record.released(), Some(lease)).await?;
    tracing::info!(node = lease.record.holder, lease = lease.name, "the reboot lock is free");
    Ok(())
}

/// A node by its name, or by one of the ids that other FleetLock clients have. Machines made from
/// one image may share such an id; then none of them is drained for another.
fn find<'a>(nodes: &'a [NodeView], id: &str) -> Result<Option<&'a NodeView>, Refusal> {
    if let Some(node) = nodes.iter().find(|node| node.name == id) {
        return Ok(Some(node));
    }
    let mut known = nodes.iter().filter(|node| node.other_ids.contains(id));
    match (known.next(), known.next()) {
        (Some(one), Some(other)) => Err(Refusal::new(
            Kind::BadRequest,
            format!("nodes {} and {} both have this id; ask by name", one.name, other.name),
        )),
        (one, _) => Ok(one),
    }
}

fn unknown() -> Refusal {
    Refusal::new(Kind::UnknownNode, "no node of the site has this id")
}

fn unavailable(error: ClusterError) -> Refusal {
    Refusal::new(Kind::Unavailable, chain(&error))
}

#[cfg(test)]
mod tests;
