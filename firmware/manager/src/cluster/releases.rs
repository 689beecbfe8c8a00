//! What brings releases onto the site, and what sees to its nodes: started when there is a cluster.

use super::checks::Checks;
use super::{Wanted, WantedRelease, fleet_lock};
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_api::local::{PlanReport, Problem, ReleaseInput, TrafficImpact};
use holdfast_api::{Reason, chain};
use holdfast_cluster::images::{OwnNode, PrePuller, Runtime};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::cluster;
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::leader::{LeaderLock, Leadership, RENEW_EVERY};
use holdfast_cluster::nodes::removal::Removal;
use holdfast_cluster::nodes::replace::{self, Plan};
use holdfast_cluster::nodes::service::{LockSettings, RebootLock};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::engine::{ReleaseEngine, Releases, Report};
use holdfast_cluster::release::journal::Kept;
use holdfast_cluster::release::live::Live;
use holdfast_cluster::release::target::Failure;
use holdfast_cluster::release::trial::{Known, Trial, Tried};
use holdfast_cluster::snapshots;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// Nodes that the site does not have any more are looked for this often, and at once when something
/// else is wanted.
const NODES_EVERY: Duration = Duration::from_secs(30);

/// For the answers that a dry run needs; whoever asks for it waits a minute.
const ASKED_WITHIN: Duration = Duration::from_secs(45);

/// Where an answer goes.
type Answer<T> = oneshot::Sender<Result<T, Problem>>;

/// The lock of whoever leads the site, shared by all that only the leader does.
pub(super) type Leader = Arc<Mutex<LeaderLock<KubeCluster>>>;

/// Everything that was started; it ends with this value.
pub(super) struct Releasing {
    /// With the rights that this node has.
    pub(super) api: Api,
    /// What the engine tells.
    pub(super) report: watch::Receiver<Report>,
    handle: Releases,
    target: Arc<Live<Checks>>,
    part: Part,
    _tasks: JoinSet<()>,
}

/// The node's part in the cluster, as far as it decides what is started: an agent that becomes a
/// server has other rights and may lead, and the first server of a site that grows is asked by others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    node: String,
    is_server: bool,
    fleet_lock: Option<SocketAddr>,
}

impl Part {
    fn of(wanted: &Wanted, fleet_lock: Option<SocketAddr>) -> Self {
        Part {
            node: wanted.node_name.clone(),
            is_server: wanted.intent.as_ref().is_some_and(|intent| intent.role.is_server()),
            fleet_lock: fleet_lock::address(wanted, fleet_lock),
        }
    }
}

/// The API server, with the rights that this node has: an agent has the kubelet's.
pub(super) fn connect(paths: &ClusterPaths, wanted: &Wanted) -> Result<Api, Problem> {
    let server = wanted.intent.as_ref().is_some_and(|intent| intent.role.is_server());
    let kubeconfig = if server { paths.admin_kubeconfig() } else { paths.kubelet_kubeconfig() };
    Api::connect(&kubeconfig).map_err(|error| Problem::new(error.reason(), chain(&error)))
}

/// Starts everything.
pub(super) fn start(
    paths: &ClusterPaths,
    wanted: &Wanted,
    snapshots: Option<snapshots::Handle>,
    wants: watch::Receiver<Wanted>,
    fleet_lock: Option<SocketAddr>,
) -> Result<Releasing, Problem> {
    let api = connect(paths, wanted)?;
    let part = Part::of(wanted, fleet_lock);
    let node = part.node.as_str();
    let runtime = Runtime::connect(&paths.containerd_socket());
    let puller = PrePuller::start(runtime, OwnNode::new(paths.kubelet_kubeconfig(), node));
    let cluster = Arc::new(KubeCluster::new(api.clone()));
    let leader: Option<Leader> = part
        .is_server
        .then(|| Arc::new(Mutex::new(LeaderLock::of_releases(cluster.clone(), node))));
    let checks =
        Checks { paths: paths.clone(), wants: wants.clone(), leader: leader.clone(), snapshots };
    let target = Arc::new(Live::new(api.clone(), node, puller, checks));
    let (engine, handle) = ReleaseEngine::open(paths, Arc::clone(&target));
    let mut tasks = JoinSet::new();
    tasks.spawn(engine.run());
    if let Some(leader) = leader {
        let lock = Arc::new(RebootLock::new(cluster.clone(), LockSettings::default()));
        let removal = Removal::new(cluster, lock.clone(), node);
        tasks.spawn(see_to_nodes(removal, leader, wants));
        let outside = part.fleet_lock;
        let token = wanted.intent.as_ref().map(|intent| intent.token.clone());
        let socket = paths.root().fleet_lock_socket();
        tasks.spawn(fleet_lock::serve(lock, socket, outside.zip(token), paths.clone()));
    }
    Ok(Releasing { api, report: handle.report(), handle, target, part, _tasks: tasks })
}

impl Releasing {
    /// Whether it was started for the part that the node has now.
    pub(super) fn fits(&self, wanted: &Wanted, fleet_lock: Option<SocketAddr>) -> bool {
        self.part == Part::of(wanted, fleet_lock)
    }

    /// Asks the engine for the release that is wanted, once its content is here. None is no order to
    /// remove anything: the site goes on with what it has.
    pub(super) fn want(&self, wanted: &Wanted) {
        let kept = wanted.release.as_ref().and_then(WantedRelease::kept);
        if kept.is_some() || wanted.release.is_none() {
            self.handle.want(kept);
        }
    }

    /// Tells the engine whether the datastore is being put back to a snapshot.
    pub(super) fn restoring(&self, is: bool) {
        self.handle.restoring(is);
    }

    /// A dry run, answered when the site was asked: the task goes on meanwhile.
    pub(super) fn plan(&self, input: ReleaseInput, wanted: &Wanted, answer: Answer<PlanReport>) {
        let known = match self.known(input, wanted) {
            Ok(known) => known,
            // Whoever asked may have gone; nobody misses the answer then.
            Err(problem) => return drop(answer.send(Err(problem))),
        };
        let (target, is_server) = (Arc::clone(&self.target), self.part.is_server);
        tokio::spawn(async move {
            let trial = known.ask(target.as_ref(), is_server, ASKED_WITHIN).await;
            let _ = answer.send(Ok(report(trial)));
        });
    }

    fn known(&self, input: ReleaseInput, wanted: &Wanted) -> Result<Known, Problem> {
        let kept = match input.manifests.is_empty() {
            true => wanted.release.as_ref().and_then(WantedRelease::kept).ok_or_else(|| {
                Problem::new(Reason::ReleaseUnavailable, "the controller names no release")
            })?,
            false => Kept {
                release: ReleaseRef {
                    name: input.name,
                    digest: release_digest(&input.manifests),
                    ..ReleaseRef::default()
                },
                manifests: input.manifests,
                timeout_secs: 0,
            },
        };
        self.handle.plan(&kept).map_err(|error| Problem::new(error.reason(), chain(&error)))
    }
}

fn report(trial: Trial) -> PlanReport {
    let step = |step: Tried| {
        let traffic = match step.interrupts {
            true => TrafficImpact::Interrupted,
            false => TrafficImpact::None,
        };
        crate::pass::live("release", step.text, traffic)
    };
    let problem = |failure: Failure| Problem::new(failure.reason, failure.message);
    PlanReport {
        steps: trial.steps.into_iter().map(step).collect(),
        problems: trial.problems.into_iter().map(problem).collect(),
    }
}

/// Removes nodes that the site does not have any more, while this node leads; sees that some node
/// does, also where there is no release.
async fn see_to_nodes(
    mut removal: Removal<KubeCluster>,
    leader: Leader,
    mut wants: watch::Receiver<Wanted>,
) {
    let mut looked: Option<(Instant, NodeNames)> = None;
    loop {
        let names = NodeNames::of(&wants.borrow_and_update());
        let leads = leads(&leader, names.is_retired).await;
        let is_due =
            looked.as_ref().is_none_or(|(at, last)| at.elapsed() >= NODES_EVERY || *last != names);
        if leads && is_due {
            looked = Some((Instant::now(), names.clone()));
            match remove_nodes(&mut removal, names).await {
                Ok(plan) => debug!(steps = plan.steps.len(), held = plan.held.len(), "nodes"),
                Err(error) => {
                    warn!(reason = %error.reason(), error = chain(&error), "nodes are not looked at");
                }
            }
        }
        tokio::select! {
            changed = wants.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
    }
}

/// Takes the place when it is free, renews it when it is ours. A node that is no node of the site
/// any more leaves it to the others: what it knows of the site is old, and it is to be removed.
async fn leads(leader: &Leader, is_retired: bool) -> bool {
    let mut leader = leader.lock().await;
    if is_retired {
        if let Err(error) = leader.give_back().await {
            debug!(error = chain(&error), "the others wait until its time is over");
        }
        return false;
    }
    matches!(leader.attempt().await, Ok(Leadership::Ours { .. }))
}

/// What is said of the site's nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct NodeNames {
    here: BTreeSet<String>,
    retired: Vec<String>,
    is_retired: bool,
}

impl NodeNames {
    fn of(wanted: &Wanted) -> Self {
        let intent = wanted.intent.clone().unwrap_or_default();
        Self {
            here: intent.nodes.into_iter().collect(),
            retired: intent.retired,
            is_retired: wanted.is_retired,
        }
    }
}

async fn remove_nodes(
    removal: &mut Removal<KubeCluster>,
    names: NodeNames,
) -> cluster::Answer<Plan> {
    let mut wanted = replace::Wanted { names: names.here, ..replace::Wanted::default() };
    for name in &names.retired {
        wanted.retired.extend(removal.retire(name).await?);
    }
    removal.pass(&wanted, Instant::now()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::wanted::Tunnels;
    use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole};
    use holdfast_cluster::distribution::{NodeWants, Wish};

    fn wanted(role: KubernetesRole, nodes: &[&str]) -> Wanted {
        let intent = KubernetesIntent {
            role,
            node_ip: Some([10, 0, 0, 1].into()),
            server: Some("https://10.0.0.2:6443".into()),
            token: holdfast_api::kubernetes::Secret("token".into()),
            nodes: nodes.iter().map(|name| (*name).into()).collect(),
            ..KubernetesIntent::default()
        };
        let wants = NodeWants::new("n", &intent, &Default::default(), Default::default()).unwrap();
        Wanted {
            wish: Wish::Run(Box::new(wants)),
            intent: Some(intent),
            node_name: "n".into(),
            ..Wanted::default()
        }
    }

    #[test]
    fn what_carries_traffic_is_told_with_its_step() {
        let tried = |interrupts| Tried { text: "apply DaemonSet net/way".into(), interrupts };
        let problems = vec![Failure::always(Reason::ReleasePreflight, "1 of 2 tunnels pass data")];
        let report = report(Trial { steps: vec![tried(false), tried(true)], problems });
        let traffic: Vec<_> = report.steps.iter().map(|step| step.traffic).collect();
        assert_eq!(traffic, [TrafficImpact::None, TrafficImpact::Interrupted]);
        assert_eq!(report.problems[0].reason, Reason::ReleasePreflight);
    }

    #[test]
    fn another_part_takes_another_start_and_nothing_else_does() {
        let server = wanted(KubernetesRole::Server, &["n", "m"]);
        let part = Part::of(&server, None);
        let same = Wanted { tunnels: Tunnels { up: 2, want: 2 }, is_retired: true, ..server };
        assert_eq!(Part::of(&same, None), part);
        let more = wanted(KubernetesRole::Server, &["n", "m", "o"]);
        assert_eq!(Part::of(&more, None), part);
        let first = wanted(KubernetesRole::ClusterInit, &["n", "m"]);
        assert_eq!(Part::of(&first, None), part, "it is a server all the same");
        let agent = wanted(KubernetesRole::Agent, &["n", "m"]);
        assert_ne!(Part::of(&agent, None), part);
        let alone = wanted(KubernetesRole::ClusterInit, &["n"]);
        assert_ne!(Part::of(&alone, None), part, "nobody else asks it for the reboot lock");
    }
}
