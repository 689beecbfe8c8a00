//! Carries out what [`super::replace`] decides: one pass over the nodes of the site.
//!
//! Only one manager does it, the one that leads ([`super::leader`]). A pass that breaks off is
//! simply done again: every step of it may be done twice.

use super::cluster::{Answer, Cluster};
use super::replace::{self, Plan, Silence, Step, Wanted};
use super::service::{Group, RebootLock};
use std::sync::Arc;
use std::time::Instant;

/// Removes nodes.
#[derive(Debug)]
pub struct Removal<K> {
    cluster: Arc<K>,
    lock: Arc<RebootLock<K>>,
    me: String,
    silence: Silence,
}

impl<K: Cluster> Removal<K> {
    /// Removal by the node `me`.
    pub fn new(cluster: Arc<K>, lock: Arc<RebootLock<K>>, me: &str) -> Self {
        Removal { cluster, lock, me: me.into(), silence: Silence::default() }
    }

    /// Looks at the nodes and plans, and changes nothing.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn plan(&mut self, wanted: &Wanted, now: Instant) -> Answer<Plan> {
        // The locks first, as in `RebootLock`: a holder that is missing from the nodes is gone.
        let locks = self.lock.holders().await?;
        let nodes = self.cluster.nodes().await?;
        self.silence.note(&nodes, now);
        let locks: Vec<(String, String)> =
            locks.into_iter().map(|(group, holder)| (group.to_string(), holder)).collect();
        Ok(replace::plan(wanted, &nodes, &locks, &self.silence, &self.me, now))
    }

    /// Plans and carries it out; what was done and what is held back.
    ///
    /// # Errors
    /// The cluster does not answer; the next pass carries on.
    pub async fn pass(&mut self, wanted: &Wanted, now: Instant) -> Answer<Plan> {
        let plan = self.plan(wanted, now).await?;
        for step in &plan.steps {
            tracing::info!(%step, "a node is removed");
            match step {
                Step::BreakLock { group, node } => {
                    if let Ok(group) = Group::try_from(group.as_str()) {
                        self.lock.break_lock(&group, node).await?;
                    }
                }
                Step::DeletePods { node } => {
                    for pod in self.cluster.pods_on(node).await? {
                        self.cluster.delete_pod(&pod.pod).await?;
                    }
                }
                Step::DeleteNode { node, uid } => self.cluster.delete_node(node, uid).await?,
            }
        }
        Ok(plan)
    }

    /// The one call that replaces a broken node: what to add to [`Wanted::retired`], so that this
    /// machine goes and its successor of the same name stays. None when there is no such node.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn retire(&self, name: &str) -> Answer<Option<(String, String)>> {
        let nodes = self.cluster.nodes().await?;
        let node = nodes.into_iter().find(|node| node.name == name);
        Ok(node.map(|node| (node.name, node.uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::cluster::fake::Fake;
    use crate::nodes::model::{NodeView, PodRef, PodView, Readiness};
    use crate::nodes::service::LockSettings;

    #[tokio::test]
    async fn a_broken_node_is_removed_wherever_the_pass_breaks_off() {
        for failures_at in 0..12 {
            let fake = Arc::new(Fake::default());
            let node = |name: &str, readiness| NodeView {
                name: name.into(),
                uid: format!("uid-{name}"),
                readiness,
                ..NodeView::default()
            };
            fake.world().nodes = vec![node("s1", Readiness::Ready), node("w1", Readiness::Ready)];
            let pod = PodRef { namespace: "a".into(), name: "p".into(), uid: "p".into() };
            fake.world().pods = vec![("w1".into(), PodView { pod, ..PodView::default() })];
            let lock = Arc::new(RebootLock::new(Arc::clone(&fake), LockSettings::default()));
            // Its pod has nobody to make it anew and goes at the second look.
            fake.world().looks_to_end = 1;
            while lock.pre_reboot("default", "w1").await.is_err() {}
            fake.world().nodes[1].readiness = Readiness::Unknown;
            let pod = PodRef { namespace: "a".into(), name: "stuck".into(), uid: "q".into() };
            fake.world().pods = vec![("w1".into(), PodView { pod, ..PodView::default() })];

            let mut removal = Removal::new(Arc::clone(&fake), Arc::clone(&lock), "s1");
            let retired = removal.retire("w1").await.unwrap().unwrap();
            let wanted = Wanted { retired: [retired].into(), ..Wanted::default() };
            fake.fail_after(failures_at);
            let first = removal.pass(&wanted, Instant::now()).await;
            assert_eq!(first.is_ok(), failures_at >= 7, "{failures_at}");
            fake.fail_next(0);
            removal.pass(&wanted, Instant::now()).await.unwrap();
            assert_eq!(fake.world().nodes.len(), 1);
            // Pods of a Node that is gone already are Kubernetes' own to collect.
            assert_eq!(fake.world().pods.is_empty(), !(5..7).contains(&failures_at));
            assert_eq!(lock.holders().await.unwrap(), []);
            // Its successor stays.
            let successor = NodeView { uid: "new".into(), ..node("w1", Readiness::Unknown) };
            fake.world().nodes.push(successor);
            let plan = removal.pass(&wanted, Instant::now()).await.unwrap();
            assert_eq!(plan, Plan::default());
        }
    }
}
