//! The task: starts the services, tells each what is wanted, brings together what they say.
//!
//! What needs the cluster (releases, what is seen of it) starts when it is ready for the first time
//! and goes on when it is not: each service waits by itself for an API server that is away.

use super::lent::Https;
use super::releases::{self, Releasing};
use super::restore;
use super::state::{Parts, state};
use super::{Ask, Wanted};
use crate::settings::{KubernetesStart, Settings};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState};
use holdfast_api::local::Problem;
use holdfast_cluster::distribution::service::StayThere;
use holdfast_cluster::distribution::{
    self, ApiProbe, Distribution, DistributionState, Handle, Helpers, How, Wish,
};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::snapshots;
use holdfast_cluster::snapshots::supervised::Supervised;
use holdfast_cluster::status::{self, Seen};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// How often a ready cluster is looked at: what `holdfast kube status` shows is at most this old.
const LOOK: Duration = Duration::from_secs(15);
/// While something is not as it should be: somebody may be watching.
const LOOK_SOON: Duration = Duration::from_secs(3);
/// Between two attempts to put a damaged datastore back; the decision itself is the service's.
const DAMAGED_AGAIN: Duration = Duration::from_secs(60);

/// Until the service of snapshots carries on what was cut off, and until it has stopped the
/// distribution by itself then.
const CARRIED_ON: Duration = Duration::from_secs(60);
const TAKEN_OVER: Duration = Duration::from_secs(5);

/// Everything that the task owns.
pub(super) struct Task {
    paths: ClusterPaths,
    settings: Arc<Settings>,
    wanted: watch::Receiver<Option<Wanted>>,
    asks: mpsc::Receiver<Ask>,
    told: watch::Sender<Option<KubernetesState>>,
    wishes: watch::Sender<Wish>,
    distribution: Arc<Handle>,
    fixed: distribution::Settings,
    running: watch::Receiver<DistributionState>,
    snapshots: Option<(snapshots::Handle, snapshots::service::Task)>,
    releasing: Option<Releasing>,
    seen: Option<Seen>,
    next_look: Instant,
    damaged: Option<Instant>,
    looked_for_restore: bool,
}

impl Task {
    /// Starts the distribution's task; it does nothing until something is wanted.
    pub(super) fn new(
        paths: ClusterPaths,
        settings: Arc<Settings>,
        wanted: watch::Receiver<Option<Wanted>>,
        asks: mpsc::Receiver<Ask>,
        told: watch::Sender<Option<KubernetesState>>,
    ) -> Self {
        let (wishes, wish) = watch::channel(Wish::Unknown);
        let how = match settings.kubernetes.start {
            KubernetesStart::Auto | KubernetesStart::Off => How::Auto,
            KubernetesStart::Systemd => How::Systemd,
            KubernetesStart::Child => How::Child,
        };
        let program = settings.kubernetes.program.clone();
        let fixed =
            distribution::Settings { how, ..distribution::Settings::new(paths.clone(), program) };
        let helpers = Helpers {
            probe: Arc::new(ApiProbe::new(&paths)),
            fetch: Arc::new(Https),
            workloads: Arc::new(StayThere),
        };
        let distribution = Arc::new(Distribution::start(fixed.clone(), helpers, wish));
        Task {
            running: distribution.state(),
            distribution,
            fixed,
            paths,
            settings,
            wanted,
            asks,
            told,
            wishes,
            snapshots: None,
            releasing: None,
            seen: None,
            next_look: Instant::now(),
            damaged: None,
            looked_for_restore: false,
        }
    }

    /// Works until the manager's handle is gone. Every arm may be cancelled: each only receives.
    pub(super) async fn run(mut self) {
        loop {
            self.publish();
            let look = self.next_look;
            let ready = self.phase() == KubernetesPhase::Ready;
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted().await,
                    Err(_) => return,
                },
                changed = self.running.changed() => match changed {
                    Ok(()) => self.look_at_distribution(),
                    Err(_) => return warn!("the supervision of Kubernetes ended"),
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                () = changed(self.releasing.as_mut().map(|releasing| &mut releasing.report)) => {}
                () = tokio::time::sleep_until(look.into()), if ready => self.look().await,
            }
        }
    }

    fn phase(&self) -> KubernetesPhase {
        self.running.borrow().phase
    }

    fn current(&self) -> Option<Wanted> {
        self.wanted.borrow().clone()
    }

    /// A restore that was cut off is carried on before anything starts: k3s would make an empty
    /// datastore in the middle of it. Stopped by us until the service of snapshots has stopped it.
    async fn hold_for_restore(&mut self, wanted: &Wanted) {
        let server = wanted.intent.as_ref().is_some_and(|intent| intent.role.is_server());
        if !server || std::mem::replace(&mut self.looked_for_restore, true) {
            return;
        }
        // A journal that cannot be read is the service's to judge; nothing starts before it did.
        if matches!(snapshots::restore::pending(&self.paths), Ok(None)) {
            return;
        }
        warn!("a restore was cut off and is carried on");
        let Ok(pause) = self.distribution.pause().await else { return };
        self.configure_snapshots(wanted);
        let Some((handle, _)) = &self.snapshots else { return };
        let mut restoring = handle.restoring();
        tokio::spawn(async move {
            let begun = async { restoring.wait_for(|is| *is).await.is_ok() };
            let _late = tokio::time::timeout(CARRIED_ON, begun).await;
            tokio::time::sleep(TAKEN_OVER).await;
            drop(pause);
        });
    }

    async fn take_wanted(&mut self) {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        self.hold_for_restore(&wanted).await;
        let wish = match &wanted.node {
            Some(node) => Wish::Run(Box::new(node.clone())),
            None => Wish::Off,
        };
        self.wishes.send_if_modified(|now| {
            let news = *now != wish;
            *now = wish;
            news
        });
        match wanted.node {
            Some(_) => self.configure_snapshots(&wanted),
            None => self.snapshots = None,
        }
        match &self.releasing {
            Some(releasing) if wanted.node.is_some() => releasing.want(&wanted),
            _ => self.start_releasing(),
        }
        if wanted.node.is_none() {
            (self.releasing, self.seen) = (None, None);
        }
    }

    /// Servers have a datastore; agents have nothing to keep.
    fn configure_snapshots(&mut self, wanted: &Wanted) {
        let Some(intent) = wanted.intent.as_ref().filter(|intent| intent.role.is_server()) else {
            self.snapshots = None;
            return;
        };
        let settings = snapshots::Settings {
            paths: self.paths.clone(),
            site: wanted.site.clone(),
            node: wanted.node_name.clone(),
            single_server: wanted.single_server,
            policy: intent.snapshots.clone(),
        };
        match &self.snapshots {
            Some((handle, _)) => handle.configure(|now| *now = settings),
            None => {
                let distribution = Supervised::new(self.distribution.clone(), &self.fixed);
                self.snapshots = Some(snapshots::start(settings, Arc::new(distribution)));
            }
        }
    }

    fn look_at_distribution(&mut self) {
        let (phase, reason) = {
            let now = self.running.borrow_and_update();
            (now.phase, now.reason)
        };
        if phase == KubernetesPhase::Ready {
            self.next_look = Instant::now();
            self.start_releasing();
        }
        let due = self.damaged.is_none_or(|at| at.elapsed() >= DAMAGED_AGAIN);
        if reason == Some(Reason::KubernetesDatastoreDamaged)
            && due
            && let Some((snapshots, _)) = &self.snapshots
        {
            self.damaged = Some(Instant::now());
            restore::damaged(snapshots.clone());
        }
    }

    /// Once there is a cluster and somebody wants a release.
    fn start_releasing(&mut self) {
        let Some(wanted) = self.current().filter(|wanted| wanted.node.is_some()) else { return };
        if self.releasing.is_some() || self.phase() != KubernetesPhase::Ready {
            return;
        }
        let snapshots = self.snapshots.as_ref().map(|(handle, _)| handle.clone());
        let fleet_lock = self.settings.kubernetes.fleet_lock;
        match releases::start(&self.paths, &wanted, snapshots, self.wanted.clone(), fleet_lock) {
            Ok(releasing) => {
                releasing.want(&wanted);
                self.releasing = Some(releasing);
            }
            // The kubeconfig is written in a moment; the next look tries again.
            Err(problem) => {
                info!(reason = %problem.reason, message = problem.message, "releases wait")
            }
        }
    }

    async fn look(&mut self) {
        self.start_releasing();
        let Some(wanted) = self.current() else { return };
        // Why there is no answer the distribution's own probe finds out, and says so.
        self.seen = match self.api(&wanted) {
            Ok(api) => status::observe(&api, &wanted.node_name).await.ok(),
            Err(_) => None,
        };
        let calm = self.seen.as_ref().is_some_and(|seen| {
            seen.is_ready() && seen.pods.in_progress == 0 && seen.pods.failed == 0
        });
        self.next_look = Instant::now() + if calm { LOOK } else { LOOK_SOON };
    }

    /// With the rights that this node has.
    fn api(&self, wanted: &Wanted) -> Result<Api, Problem> {
        if let Some(releasing) = &self.releasing {
            return Ok(releasing.api.clone());
        }
        releases::connect(&self.paths, wanted)
    }

    fn answer(&mut self, ask: Ask) {
        let absent = || {
            let text = "this node holds no datastore of Kubernetes";
            Problem::new(Reason::KubernetesAbsent, text)
        };
        let snapshots = self.snapshots.as_ref().map(|(handle, _)| handle.clone());
        // Whoever asked may have gone; nobody misses the answer then.
        match ask {
            Ask::Plan(input, answer) => {
                let plan = match (&self.releasing, self.current()) {
                    (Some(releasing), Some(wanted)) => releasing.plan(input, &wanted),
                    _ => Err(Problem::new(
                        Reason::KubernetesNotReady,
                        "there is no cluster that a release could be compared with",
                    )),
                };
                let _ = answer.send(plan);
            }
            Ask::Snapshot(answer) => {
                let _ = answer.send(snapshots.ok_or_else(absent).map(restore::snapshot));
            }
            Ask::Drill(answer) => {
                let _ = answer.send(snapshots.ok_or_else(absent).map(restore::drill));
            }
            Ask::Restore(input, answer) => {
                let begun =
                    snapshots.ok_or_else(absent).map(|handle| restore::begin(handle, input));
                let _ = answer.send(begun);
            }
        }
    }

    fn publish(&self) {
        let wanted = self.current();
        let state = wanted.as_ref().filter(|wanted| wanted.intent.is_some()).map(|wanted| {
            let report = self.releasing.as_ref().map(|releasing| releasing.report.borrow().clone());
            let snapshots =
                self.snapshots.as_ref().map(|(handle, _)| handle.state().borrow().clone());
            let restoring =
                self.snapshots.as_ref().is_some_and(|(handle, _)| *handle.restoring().borrow());
            let none = std::collections::BTreeMap::new();
            state(&Parts {
                wanted,
                distribution: &self.running.borrow(),
                seen: self.seen.as_ref(),
                release: report.as_ref().map(|report| &report.state),
                release_ms: report.as_ref().map_or(&none, |report| &report.took_ms),
                snapshots: snapshots.as_ref(),
                restoring,
            })
        });
        self.told.send_if_modified(|now| {
            let news = *now != state;
            *now = state;
            news
        });
    }
}

/// Waits for the next change; forever when there is nothing to watch.
async fn changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    let ended = match watched {
        Some(watched) => watched.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending().await
    }
}
