//! Kubernetes on this node: the services of `holdfast-cluster`, put together.
//!
//! A task of its own, beside the pass: bringing a release onto a site takes minutes, and the pass
//! must not wait. The manager's loop says what is wanted ([`Wanted`]) and shows what is
//! ([`KubernetesState`]); local clients ask through [`Ask`]. The task ends with its handle and takes
//! nothing down: the distribution goes on, and the next manager finds it, its journals and its
//! cluster as they are.

mod checks;
mod fleet_lock;
mod lent;
mod moving;
mod releases;
mod restore;
mod state;
mod stopped;
mod task;
mod wanted;

pub(crate) use state::item;
pub use wanted::{Look, Tunnels, Usable, Wanted, WantedRelease};

use crate::settings::Settings;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesState, SnapshotInfo};
use holdfast_api::local::{PlanReport, Problem, ReleaseInput, RestoreInput, StartInput};
use holdfast_api::paths::Root;
use holdfast_cluster::paths::ClusterPaths;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// What a local client may ask.
#[derive(Debug)]
pub enum Ask {
    /// What bringing a release onto the site would do.
    Plan(ReleaseInput, oneshot::Sender<Result<PlanReport, Problem>>),
    /// A snapshot now.
    Snapshot(oneshot::Sender<Result<(), Problem>>),
    /// A restore drill now.
    Drill(oneshot::Sender<Result<(), Problem>>),
    /// A snapshot is put back.
    Restore(RestoreInput, oneshot::Sender<Result<(), Problem>>),
    /// What the site's storage has.
    Stored(oneshot::Sender<Result<Vec<SnapshotInfo>, Problem>>),
    /// Kubernetes is stopped on this node.
    Stop(oneshot::Sender<Result<(), Problem>>),
    /// It runs again.
    Start(StartInput, oneshot::Sender<Result<(), Problem>>),
}

/// Questions that wait; more wait at the socket.
const ASKS: usize = 4;

/// The manager's end of the task.
#[derive(Debug)]
pub struct Cluster {
    wanted: watch::Sender<Wanted>,
    client: Client,
    task: JoinHandle<()>,
}

impl Cluster {
    /// Starts the task below `root`; it does nothing until something is wanted.
    pub fn start(root: &Root, settings: Arc<Settings>) -> Self {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (asks, asked) = mpsc::channel(ASKS);
        let (told, state) = watch::channel(None);
        let paths = ClusterPaths::new(root);
        let task = tokio::spawn(task::Task::new(paths, settings, wants, asked, told).run());
        Cluster { wanted, client: Client { asks, state }, task }
    }

    /// What is wanted now, made of what was wanted before.
    pub fn want(&self, next: impl FnOnce(&Wanted) -> Wanted) {
        let wanted = {
            let before = self.wanted.borrow();
            next(&before)
        };
        self.wanted.send_if_modified(|now| news(now, wanted));
    }

    /// So many tunnels pass data.
    pub fn tunnels(&self, up: usize) {
        self.wanted.send_if_modified(|now| news(&mut now.tunnels.up, up));
    }

    /// For local clients.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// How Kubernetes is; none when nobody asks for it.
    pub fn state(&self) -> Option<KubernetesState> {
        self.client.state()
    }

    /// Waits until that changes. Cancel safe: it only watches.
    pub async fn changed(&mut self) {
        if self.client.state.changed().await.is_err() {
            // The task ended, which it says in the log; the loop must not spin.
            std::future::pending().await
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts a value in the place of another; whether it is another one.
fn news<T: PartialEq>(now: &mut T, next: T) -> bool {
    let news = *now != next;
    *now = next;
    news
}

/// What local clients hold of the task.
#[derive(Debug, Clone)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    state: watch::Receiver<Option<KubernetesState>>,
}

impl Client {
    /// How Kubernetes is; none when nobody asks for it.
    pub fn state(&self) -> Option<KubernetesState> {
        self.state.borrow().clone()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the task answers, or that it is ending.
    pub async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Ask,
    ) -> Result<T, Problem> {
        let ending = || Problem::new(Reason::ManagerUnreachable, "the manager is ending");
        let (answer, wait) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| ending())?;
        wait.await.map_err(|_| ending())?
    }
}
