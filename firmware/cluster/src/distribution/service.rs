//! What the manager sees: it says what is wanted, reads what is, and gives three helpers. The
//! work is done by a task of its own (`task`).

use super::binary::Fetch;
use super::diagnose::Diagnosis;
use super::launch::How;
use super::model::NodeWants;
use super::probe::Probe;
use super::task::Task;
use super::upgrade::{Failed, Service, Version};
use crate::paths::ClusterPaths;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesRole};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Wish {
    /// The manager does not know yet: whatever runs goes on, and nothing is touched.
    #[default]
    Unknown,
    /// It shall not run; our files are removed.
    Off,
    /// It shall run so.
    Run(Box<NodeWants>),
}

/// What does not change while the task runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Places.
    pub paths: ClusterPaths,
    /// How it is started.
    pub how: How,
    /// The machine's own program, for a machine that never ran one that the controller named.
    pub program: PathBuf,
    /// More arguments, behind `server` or `agent`.
    pub arguments: Vec<String>,
    /// More environment. A second `k3s` beside another needs some; production has none.
    pub environment: Vec<(String, String)>,
    /// A new version of the program that is not ready by then is given up.
    pub upgrade_window: Duration,
}

impl Settings {
    /// For production: ten minutes for a new version, as a slow box takes to start twice.
    pub fn new(paths: ClusterPaths, program: PathBuf) -> Self {
        Settings {
            paths,
            how: How::Auto,
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            upgrade_window: Duration::from_secs(600),
        }
    }
}

/// An answer later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Moves workloads away from this node before its program is replaced. The manager implements it.
pub trait Workloads: Send + Sync + 'static {
    /// Takes the node out of service, and whatever else comes before its program becomes `to`.
    /// Fails with what it waits for, and is asked again soon. May be dropped at any time, and is
    /// followed by [`Workloads::uncordon`] then.
    fn drain(&self, to: &Version) -> Later<'_, Result<(), Diagnosis>>;
    /// Tells the other nodes of the site which versions failed on this one: before its turn is asked
    /// for, and before it is given back.
    fn note<'a>(&'a self, failed: &'a [Failed]) -> Later<'a, Result<(), Diagnosis>>;
    /// Waits for the node's turn to be restarted; otherwise as [`Workloads::drain`].
    fn step_aside(&self) -> Later<'_, Result<(), Diagnosis>>;
    /// Puts it back into service; also a node that was never taken out of it.
    fn uncordon(&self) -> Later<'_, Result<(), Diagnosis>>;
}

/// Nobody to move.
#[derive(Debug, Clone, Copy, Default)]
pub struct StayThere;

impl Workloads for StayThere {
    fn drain(&self, _to: &Version) -> Later<'_, Result<(), Diagnosis>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn note<'a>(&'a self, _failed: &'a [Failed]) -> Later<'a, Result<(), Diagnosis>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn step_aside(&self) -> Later<'_, Result<(), Diagnosis>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn uncordon(&self) -> Later<'_, Result<(), Diagnosis>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What the manager lends.
#[derive(Clone)]
pub struct Helpers {
    /// Whether the node is ready.
    pub probe: Arc<dyn Probe>,
    /// Fetches programs from `https://`.
    pub fetch: Arc<dyn Fetch>,
    /// Moves workloads.
    pub workloads: Arc<dyn Workloads>,
}

/// What the distribution does, for `KubernetesState`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DistributionState {
    /// Where it is in its life.
    pub phase: KubernetesPhase,
    /// How the node takes part.
    pub role: KubernetesRole,
    /// Why it is not ready, or what else is wrong.
    pub reason: Option<Reason>,
    /// In detail, for people.
    pub message: String,
    /// Version of the program that runs; empty while none is known.
    pub version: String,
    /// From start to ready, last time; none while it was never started and ready.
    pub ready_after: Option<Duration>,
    /// Times that it was started since this task was.
    pub starts: u32,
    /// Times in that while that it ended by itself.
    pub ends: u32,
    /// Its process.
    pub pid: Option<u32>,
    /// The program that is run, or would be; it also makes and restores snapshots.
    pub program: PathBuf,
    /// Whether the node serves workloads; another version of the program may come.
    pub service: Service,
}

/// The task that was addressed does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Kubernetes is not supervised any more")]
pub struct Gone;

/// The distribution of this node.
#[derive(Debug)]
pub struct Distribution;

impl Distribution {
    /// Starts the task; what already runs is found and adopted by it as soon as a wish is known.
    /// It ends with the handle or with `wishes`, and then leaves the distribution running.
    pub fn start(settings: Settings, helpers: Helpers, wishes: watch::Receiver<Wish>) -> Handle {
        // Commands are rare, and whoever gives one waits for it.
        let (commands, inbox) = mpsc::channel(4);
        let (tell, state) = watch::channel(DistributionState::default());
        let task = tokio::spawn(Task::new(settings, helpers, wishes, inbox, tell).run());
        Handle { state, commands, task }
    }
}

pub(super) enum Command {
    Pause { stopped: oneshot::Sender<()>, until: oneshot::Receiver<()> },
    Restart,
}

/// The handle. Dropping it ends the task and leaves the distribution running, as the death of
/// the manager does.
#[derive(Debug)]
pub struct Handle {
    state: watch::Receiver<DistributionState>,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    /// What it does, and each change of that.
    pub fn state(&self) -> watch::Receiver<DistributionState> {
        self.state.clone()
    }

    /// Stops the distribution and keeps it stopped as long as the answer lives, for whoever works
    /// on its datastore. Answers when its process has ended, by force if need be.
    ///
    /// # Errors
    /// The task ended.
    pub async fn pause(&self) -> Result<Pause, Gone> {
        let (stopped, has_stopped) = oneshot::channel();
        let (alive, until) = oneshot::channel();
        self.commands.send(Command::Pause { stopped, until }).await.map_err(|_| Gone)?;
        has_stopped.await.map_err(|_| Gone)?;
        Ok(Pause { _alive: alive })
    }

    /// Restarts it now, whatever others do.
    ///
    /// # Errors
    /// The task ended.
    pub async fn restart(&self) -> Result<(), Gone> {
        self.commands.send(Command::Restart).await.map_err(|_| Gone)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The distribution is stopped while this lives.
#[derive(Debug)]
#[must_use = "the distribution is started again when this is dropped"]
pub struct Pause {
    _alive: oneshot::Sender<()>,
}
