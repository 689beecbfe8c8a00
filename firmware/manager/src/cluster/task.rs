//! The task: starts the services, tells each what is wanted, brings together what they say.
//!
//! What needs the cluster (releases, what is seen of it) starts when it is ready for the first time
//! and goes on when it is not: each service waits by itself for an API server that is away.

use super::lent::Https;
use super::moving::Moving;
use super::releases::{self, Releasing};
use super::restore;
use super::state::{Parts, state};
use super::stopped::Stopped;
use super::{Ask, Wanted};
use crate::settings::{KubernetesStart, Settings};
use holdfast_api::kubernetes::{
    KubernetesIntent, KubernetesPhase, KubernetesState, SnapshotsState,
};
use holdfast_api::local::Problem;
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::{
    self, ApiProbe, Distribution, DistributionState, Handle, Helpers, How, Wish,
};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::labels::{self, Marks};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::snapshots;
use holdfast_cluster::snapshots::restore::Phase;
use holdfast_cluster::snapshots::supervised::Supervised;
use holdfast_cluster::status::{self, Seen};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How often a ready cluster is looked at: what `holdfast kube status` shows is at most this old.
const LOOK: Duration = Duration::from_secs(15);
/// While something is not as it should be: somebody may be watching.
const LOOK_SOON: Duration = Duration::from_secs(3);
/// Patience for the answers of one look; each question has its own within.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
/// Between two attempts to put a damaged datastore back; the decision itself is the service's.
const DAMAGED_AGAIN: Duration = Duration::from_secs(60);

/// Patience with the reboot lock before Kubernetes is stopped all the same.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// Until the service of snapshots carries on what was cut off, and until it has stopped the
/// distribution by itself then.
const CARRIED_ON: Duration = Duration::from_secs(60);
const TAKEN_OVER: Duration = Duration::from_secs(5);

/// Everything that the task owns.
pub(super) struct Task {
    paths: ClusterPaths,
    settings: Arc<Settings>,
    wanted: watch::Receiver<Wanted>,
    asks: mpsc::Receiver<Ask>,
    told: watch::Sender<Option<KubernetesState>>,
    wishes: watch::Sender<Wish>,
    distribution: Arc<Handle>,
    fixed: distribution::Settings,
    running: watch::Receiver<DistributionState>,
    moving: Arc<Moving>,
    snapshots: Option<Snapshots>,
    /// The same, for others.
    lent: watch::Sender<Option<snapshots::Handle>>,
    releasing: Option<Releasing>,
    seen: Option<Seen>,
    /// At most one look.
    looking: JoinSet<Result<Seen, String>>,
    next_look: Instant,
    damaged: Option<Instant>,
    looked_for_restore: bool,
    stopped: Stopped,
}

/// The service of snapshots, which ends with this value.
struct Snapshots {
    handle: snapshots::Handle,
    state: watch::Receiver<SnapshotsState>,
    restoring: watch::Receiver<bool>,
    _task: snapshots::service::Task,
}

impl Snapshots {
    /// Waits for something to show. Cancel safe: it only watches.
    async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.state) => {}
            () = changed(&mut self.restoring) => {}
        }
    }
}

impl Task {
    /// Starts the distribution's task; it does nothing until something is wanted.
    pub(super) fn new(
        paths: ClusterPaths,
        settings: Arc<Settings>,
        wanted: watch::Receiver<Wanted>,
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
        let (lent, borrowed) = watch::channel(None);
        let moving = Moving::new(&paths, wanted.clone(), borrowed, settings.kubernetes.fleet_lock);
        let helpers = Helpers {
            probe: Arc::new(ApiProbe::new(&paths)),
            fetch: Arc::new(Https),
            workloads: moving.clone(),
        };
        let distribution = Arc::new(Distribution::start(fixed.clone(), helpers, wish));
        Task {
            stopped: Stopped::new(&paths),
            running: distribution.state(),
            distribution,
            fixed,
            paths,
            settings,
            wanted,
            asks,
            told,
            wishes,
            moving,
            snapshots: None,
            lent,
            releasing: None,
            seen: None,
            looking: JoinSet::new(),
            next_look: Instant::now(),
            damaged: None,
            looked_for_restore: false,
        }
    }

    /// Works until the manager's handle is gone. Every arm may be cancelled: each only receives.
    pub(super) async fn run(mut self) {
        loop {
            if let Some(releasing) = &self.releasing {
                releasing.restoring(self.is_restoring());
            }
            self.publish();
            let look = self.next_look;
            let looks = self.looks();
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
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                () = told(self.releasing.as_mut()) => {}
                () = shown(self.snapshots.as_mut()) => {}
                Some(seen) = self.looking.join_next() => {
                    self.saw(seen.unwrap_or_else(|error| Err(error.to_string())));
                }
                () = tokio::time::sleep_until(look.into()), if looks && self.looking.is_empty() => {
                    self.look();
                }
            }
        }
    }

    /// Whether there is a cluster to look at: one that is not ready is looked at all the more.
    fn looks(&self) -> bool {
        match self.phase() {
            KubernetesPhase::Ready | KubernetesPhase::NotReady => true,
            KubernetesPhase::Starting => self.seen.is_some(),
            KubernetesPhase::Off
            | KubernetesPhase::Preparing
            | KubernetesPhase::Backoff
            | KubernetesPhase::Restoring => false,
        }
    }

    fn phase(&self) -> KubernetesPhase {
        self.running.borrow().phase
    }

    fn is_restoring(&self) -> bool {
        self.snapshots.as_ref().is_some_and(|snapshots| *snapshots.restoring.borrow())
    }

    fn snapshots(&self) -> Option<snapshots::Handle> {
        self.snapshots.as_ref().map(|snapshots| snapshots.handle.clone())
    }

    /// A restore that was cut off is carried on before anything starts: k3s would make an empty
    /// datastore in the middle of it. Stopped by us until the service of snapshots has stopped it.
    async fn hold_for_restore(&mut self, wanted: &Wanted) {
        if wanted.server().is_none() || std::mem::replace(&mut self.looked_for_restore, true) {
            return;
        }
        // A journal that cannot be read is the service's to judge; nothing starts before it did.
        match snapshots::restore::pending(&self.paths) {
            Ok(None) => return,
            // The restored datastore is in force; what is left to do is done while it runs.
            Ok(Some(journal)) if matches!(journal.phase, Phase::Keeping | Phase::Forgetting) => {
                return self.configure_snapshots(wanted);
            }
            Ok(Some(_)) | Err(_) => {}
        }
        warn!("a restore was cut off and is carried on");
        let Ok(pause) = self.distribution.pause().await else { return };
        self.configure_snapshots(wanted);
        let Some(snapshots) = &self.snapshots else { return };
        let mut restoring = snapshots.restoring.clone();
        tokio::spawn(async move {
            let begun = async { restoring.wait_for(|is| *is).await.is_ok() };
            let _late = tokio::time::timeout(CARRIED_ON, begun).await;
            tokio::time::sleep(TAKEN_OVER).await;
            drop(pause);
        });
    }

    async fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.hold_for_restore(&wanted).await;
        self.stopped.hold(&self.distribution).await;
        self.wishes.send_if_modified(|now| super::news(now, wanted.wish.clone()));
        self.configure_snapshots(&wanted);
        if wanted.runs() {
            self.moving.turn();
        } else {
            (self.releasing, self.seen) = (None, None);
        }
        let fleet_lock = self.settings.kubernetes.fleet_lock;
        self.releasing.take_if(|releasing| !releasing.fits(&wanted, fleet_lock));
        match &self.releasing {
            Some(releasing) => releasing.want(&wanted),
            None => self.start_releasing(),
        }
    }

    /// Servers have a datastore; agents have nothing to keep.
    fn configure_snapshots(&mut self, wanted: &Wanted) {
        let Some(intent) = wanted.server() else {
            self.lent.send_replace(None);
            self.snapshots = None;
            return;
        };
        let settings = snapshots::Settings {
            paths: self.paths.clone(),
            site: wanted.site.clone(),
            node: wanted.node_name.clone(),
            single_server: intent.single_server,
            other_servers: others(intent),
            policy: intent.snapshots.clone(),
        };
        match &self.snapshots {
            Some(running) => running.handle.configure(|now| *now = settings),
            None => {
                let distribution = Supervised::new(self.distribution.clone(), &self.fixed);
                let (handle, task) = snapshots::start(settings, Arc::new(distribution));
                let (state, restoring) = (handle.state(), handle.restoring());
                self.lent.send_replace(Some(handle.clone()));
                self.snapshots = Some(Snapshots { handle, state, restoring, _task: task });
            }
        }
    }

    fn look_at_distribution(&mut self) {
        let (phase, reason) = {
            let now = self.running.borrow_and_update();
            (now.phase, now.reason)
        };
        if self.looks() {
            self.next_look = Instant::now();
        }
        if phase == KubernetesPhase::Ready {
            self.start_releasing();
        }
        let due = self.damaged.is_none_or(|at| at.elapsed() >= DAMAGED_AGAIN);
        if reason == Some(Reason::KubernetesDatastoreDamaged)
            && due
            && let Some(snapshots) = self.snapshots()
        {
            self.damaged = Some(Instant::now());
            restore::damaged(snapshots);
        }
    }

    /// Once there is a cluster.
    fn start_releasing(&mut self) {
        let wanted = self.wanted.borrow().clone();
        if !wanted.runs() || self.releasing.is_some() || self.phase() != KubernetesPhase::Ready {
            return;
        }
        let fleet_lock = self.settings.kubernetes.fleet_lock;
        let (snapshots, wants) = (self.snapshots(), self.wanted.clone());
        match releases::start(&self.paths, &wanted, snapshots, wants, fleet_lock) {
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

    /// Sends off a look at the cluster. Why there is no answer the distribution's own probe finds
    /// out, and says so; here it is a part that is not well.
    fn look(&mut self) {
        self.next_look = Instant::now() + LOOK;
        self.start_releasing();
        let wanted = self.wanted.borrow();
        let (api, node) = (self.api(&wanted), wanted.node_name.clone());
        let marks = match &wanted.wish {
            Wish::Run(wants) => Marks::of(wants),
            Wish::Unknown | Wish::Off => return,
        };
        drop(wanted);
        let look = async move {
            let api = api.map_err(|problem| problem.message)?;
            let seen = status::observe(&api, &node).await.map_err(|error| chain(&error))?;
            match labels::keep(&api, &node, &marks).await {
                Ok(true) => info!(node, "labels and taints of the node are as they are wanted"),
                Ok(false) => {}
                Err(error) => warn!(reason = %error.reason(), error = chain(&error), "node labels"),
            }
            Ok(seen)
        };
        let late = |_| Err("no answer in time".to_owned());
        self.looking.spawn(async move {
            tokio::time::timeout(LOOK_WITHIN, look).await.unwrap_or_else(late)
        });
    }

    fn saw(&mut self, seen: Result<Seen, String>) {
        let before = self.seen.take().unwrap_or_default();
        let seen = seen.unwrap_or_else(|why| before.unanswered(&why));
        let calm = seen.is_ready() && seen.pods.in_progress == 0 && seen.pods.failed == 0;
        self.seen = Some(seen).filter(|_| self.wanted.borrow().runs());
        self.next_look = Instant::now() + if calm { LOOK } else { LOOK_SOON };
    }

    /// With the rights that this node has.
    fn api(&self, wanted: &Wanted) -> Result<Api, Problem> {
        if let Some(releasing) = &self.releasing {
            return Ok(releasing.api.clone());
        }
        releases::connect(&self.paths, wanted)
    }

    async fn answer(&mut self, ask: Ask) {
        let absent = || {
            let text = "this node holds no datastore of Kubernetes";
            Err(Problem::new(Reason::KubernetesAbsent, text))
        };
        let snapshots = self.snapshots();
        // Whoever asked may have gone; nobody misses the answer then.
        match ask {
            Ask::Plan(input, answer) => match &self.releasing {
                Some(releasing) => releasing.plan(input, &self.wanted.borrow(), answer),
                None => {
                    let text = "there is no cluster that a release could be compared with";
                    let _ = answer.send(Err(Problem::new(Reason::KubernetesNotReady, text)));
                }
            },
            Ask::Snapshot(answer) => match snapshots {
                Some(handle) => restore::snapshot(handle, answer),
                None => drop(answer.send(absent())),
            },
            Ask::Drill(answer) => match snapshots {
                Some(handle) => restore::drill(handle, answer),
                None => drop(answer.send(absent())),
            },
            Ask::Restore(_, answer) if self.stopped.is_so() => {
                let text = "start Kubernetes on this node before its datastore is restored";
                drop(answer.send(Err(Problem::new(Reason::KubernetesStopped, text))));
            }
            Ask::Stored(answer) => match snapshots {
                Some(handle) => restore::stored(handle, answer),
                None => drop(answer.send(absent().map(|()| Vec::new()))),
            },
            Ask::Stop(answer) if self.is_restoring() => {
                let text = "the datastore is being restored; stop Kubernetes when that is over";
                let _ = answer.send(Err(Problem::new(Reason::KubernetesNotReady, text)));
            }
            Ask::Stop(answer) => {
                if self.wanted.borrow().runs() {
                    // A turn that nobody takes any more would keep others from theirs.
                    let _late = self.moving.turn().give_back(GIVEN_BACK).await;
                }
                let stopped = self.stopped.stop(&self.distribution).await;
                let _ = answer.send(stopped);
            }
            Ask::Start(input, answer) => {
                let joins = self.wanted.borrow().server().is_some_and(|own| own.server.is_some());
                let _ = answer.send(self.stopped.start(input, joins));
            }
            Ask::Restore(input, answer) => match snapshots {
                Some(handle) => {
                    restore::begin(handle, input, &self.wanted.borrow().node_name, answer);
                }
                None => drop(answer.send(absent())),
            },
        }
    }

    fn publish(&self) {
        let state = {
            let wanted = self.wanted.borrow();
            let report = self.releasing.as_ref().map(|releasing| releasing.report.borrow());
            let snapshots = self.snapshots.as_ref().map(|snapshots| snapshots.state.borrow());
            wanted.intent.is_some().then(|| {
                state(&Parts {
                    wanted: &wanted,
                    distribution: &self.running.borrow(),
                    seen: self.seen.as_ref(),
                    release: report.as_deref(),
                    snapshots: snapshots.as_deref(),
                    stopped: self.stopped.is_so(),
                    restoring: self.is_restoring(),
                })
            })
        };
        self.told.send_if_modified(|now| super::news(now, state));
    }
}

/// Where the site's other servers answer while they run: the API server and etcd (k3s
/// documentation, "Requirements", "Networking").
fn others(intent: &KubernetesIntent) -> Vec<SocketAddr> {
    let others = intent.servers.iter().filter(|address| Some(**address) != intent.node_ip);
    others.flat_map(|address| [6443, 2380].map(|port| SocketAddr::new(*address, port))).collect()
}

/// Waits until the engine tells something; forever where there is none.
async fn told(releasing: Option<&mut Releasing>) {
    match releasing {
        Some(releasing) => changed(&mut releasing.report).await,
        None => std::future::pending().await,
    }
}

/// Waits until the service of snapshots shows something; forever where there is none.
async fn shown(snapshots: Option<&mut Snapshots>) {
    match snapshots {
        Some(snapshots) => snapshots.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next change; forever when whoever tells has ended.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending().await
    }
}
