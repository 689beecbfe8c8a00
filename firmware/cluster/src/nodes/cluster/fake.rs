//! A cluster that remembers, for tests: Leases with versions, Nodes, pods that end after some
//! looks, budgets that count. Requests fail when told to.

use super::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) leases: BTreeMap<String, (u64, Record)>,
    pub(crate) nodes: Vec<NodeView>,
    /// Node and pod.
    pub(crate) pods: Vec<(String, PodView)>,
    pub(crate) budgets: Vec<BudgetView>,
    /// What was changed, in order.
    pub(crate) log: Vec<String>,
    /// Looks that a pod needs to end.
    pub(crate) looks_to_end: u32,
    ending: BTreeMap<PodRef, u32>,
    fail: u32,
    fail_after: Option<u32>,
    races: VecDeque<String>,
    refuse_leases: bool,
    versions: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Fake(Mutex<World>);

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The next requests find no API server.
    pub(crate) fn fail_next(&self, requests: u32) {
        let mut world = self.world();
        (world.fail, world.fail_after) = (requests, None);
    }

    /// So many requests are answered, then none.
    pub(crate) fn fail_after(&self, requests: u32) {
        self.world().fail_after = Some(requests);
    }

    /// A webhook lets no Lease be written.
    pub(crate) fn refuse_leases(&self, refuse: bool) {
        self.world().refuse_leases = refuse;
    }

    /// Somebody else writes just before the next write of a Lease.
    pub(crate) fn race_next_write(&self, holder: &str) {
        self.world().races.push_back(holder.into());
    }

    pub(crate) fn lease_record(&self, name: &str) -> Option<Record> {
        self.world().leases.get(name).map(|(_, record)| record.clone())
    }

    pub(crate) fn node(&self, name: &str) -> NodeView {
        self.world().nodes.iter().find(|node| node.name == name).cloned().unwrap()
    }

    fn asked(&self) -> Answer<MutexGuard<'_, World>> {
        let mut world = self.world();
        let cut = world.fail_after == Some(0);
        world.fail_after = world.fail_after.map(|left| left.saturating_sub(1));
        if cut || world.fail > 0 {
            world.fail = world.fail.saturating_sub(1);
            return Err(ClusterError::Failed {
                attempt: "reach",
                object: "the API server".into(),
                reason: Reason::KubernetesApiUnavailable,
                retryable: true,
                source: "connection refused".into(),
            });
        }
        Ok(world)
    }
}

impl World {
    fn put(&mut self, name: &str, record: Record) {
        self.versions += 1;
        self.log.push(format!("{name}: {:?}", record.holder));
        self.leases.insert(name.into(), (self.versions, record));
    }
}

impl Cluster for Fake {
    async fn lease(&self, name: &str) -> Answer<Option<Lease>> {
        let world = self.asked()?;
        Ok(world.leases.get(name).map(|(version, record)| Lease {
            name: name.into(),
            version: version.to_string(),
            record: record.clone(),
        }))
    }

    async fn leases(&self) -> Answer<Vec<Lease>> {
        let world = self.asked()?;
        let all = world.leases.iter().map(|(name, (version, record))| Lease {
            name: name.clone(),
            version: version.to_string(),
            record: record.clone(),
        });
        Ok(all.collect())
    }

    async fn write_lease(&self, name: &str, record: &Record, read: Option<&Lease>) -> Answer<()> {
        let mut world = self.asked()?;
        if let Some(holder) = world.races.pop_front() {
            world.put(name, Record { holder, ..Record::default() });
        }
        if world.refuse_leases {
            return Err(ClusterError::Failed {
                attempt: "write",
                object: format!("Lease {name}"),
                reason: Reason::KubernetesAdmissionRefused,
                retryable: true,
                source: "failed calling webhook".into(),
            });
        }
        let have = world.leases.get(name).map(|(version, _)| version.to_string());
        if have != read.map(|read| read.version.clone()) {
            return Err(ClusterError::Conflict { object: name.into() });
        }
        world.put(name, record.clone());
        Ok(())
    }

    async fn nodes(&self) -> Answer<Vec<NodeView>> {
        Ok(self.asked()?.nodes.clone())
    }

    async fn pods_on(&self, node: &str) -> Answer<Vec<PodView>> {
        let mut world = self.asked()?;
        world.ending.values_mut().for_each(|left| *left = left.saturating_sub(1));
        let World { ending, pods, .. } = &mut *world;
        pods.retain(|(_, pod)| ending.get(&pod.pod) != Some(&0));
        let own = pods.iter().filter(|(on, _)| on == node);
        Ok(own.map(|(_, pod)| pod.clone()).collect())
    }

    async fn budgets(&self) -> Answer<Vec<BudgetView>> {
        Ok(self.asked()?.budgets.clone())
    }

    async fn cordon(&self, node: &str, on: bool) -> Answer<()> {
        let mut world = self.asked()?;
        world.log.push(format!("{} {node}", if on { "cordon" } else { "uncordon" }));
        if let Some(node) = world.nodes.iter_mut().find(|one| one.name == node) {
            (node.unschedulable, node.cordoned_by_us) = (on, on);
        }
        Ok(())
    }

    async fn evict(&self, pod: &PodRef) -> Answer<Evicted> {
        let mut world = self.asked()?;
        let World { pods, budgets, ending, looks_to_end, log, .. } = &mut *world;
        let Some((_, view)) = pods.iter_mut().find(|(_, view)| view.pod == *pod) else {
            return Ok(Evicted::Leaving);
        };
        let mut guards: Vec<_> = budgets.iter_mut().filter(|one| one.guards(view)).collect();
        if guards.iter().any(|budget| budget.allowed <= 0) {
            return Ok(Evicted::Refused { message: "it needs 1 healthy pod".into() });
        }
        guards.iter_mut().for_each(|budget| budget.allowed -= 1);
        log.push(format!("evict {pod}"));
        view.terminating = true;
        ending.insert(pod.clone(), *looks_to_end);
        Ok(Evicted::Leaving)
    }

    async fn delete_pod(&self, pod: &PodRef) -> Answer<()> {
        let mut world = self.asked()?;
        world.log.push(format!("delete {pod}"));
        world.pods.retain(|(_, view)| view.pod != *pod);
        Ok(())
    }

    async fn delete_node(&self, name: &str, uid: &str) -> Answer<()> {
        let mut world = self.asked()?;
        world.log.push(format!("delete node {name}"));
        world.nodes.retain(|node| node.name != name || node.uid != uid);
        Ok(())
    }
}
