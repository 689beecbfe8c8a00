//! The task that keeps the snapshots: takes them in time, sends them away, restores and drills.
//!
//! One task owns everything and does one thing at a time, so a restore never meets a snapshot that
//! is being taken. What can take long and can be done later (drills, and all that speaks to the
//! storage) gives way to whatever is asked: a release waits for its snapshot, and must not wait for
//! a slow uplink. Others hold a [`Handle`]: requests over a bounded queue (a full one makes the
//! asker wait), the state over a watch. It looks at the disk and the storage again at every pass;
//! a missed moment costs ten minutes at most ([`LOOK_AGAIN`]). When it is dropped, programs that it
//! started are killed, and a restore is carried on at the next start.

mod keep;
mod others;
mod work;

use super::automatic::Leave;
use super::distribution::Distribution;
use super::error::SnapshotError;
use super::model::Why;
use super::restore::{Restored, Source};
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::{DrillResult, SnapshotInfo, SnapshotPolicy, SnapshotsState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How long the task sleeps at most: a clock that jumps is noticed after this.
pub const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Requests that wait; askers beyond this wait for a place.
const QUEUE: usize = 16;

/// What the task needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Places of the distribution.
    pub paths: ClusterPaths,
    /// Name of the site: a folder of the storage.
    pub site: String,
    /// Name of the node: a folder below it.
    pub node: String,
    /// The site has no other server. Only then is a damaged datastore restored unasked.
    pub single_server: bool,
    /// Where the site's other servers answer while they hold the datastore.
    pub other_servers: Vec<SocketAddr>,
    /// When and where.
    pub policy: SnapshotPolicy,
}

/// What came of a damaged datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Automatic {
    /// A snapshot was restored and Kubernetes is ready.
    Restored(Restored),
    /// Nothing was done.
    Left(Leave),
}

/// What the task is asked.
enum Request {
    Take(Why, oneshot::Sender<Result<SnapshotInfo, SnapshotError>>),
    Restore(Source, Others, oneshot::Sender<Result<Restored, SnapshotError>>),
    Drill(oneshot::Sender<Result<DrillResult, SnapshotError>>),
    Damaged(oneshot::Sender<Result<Automatic, SnapshotError>>),
}

/// What a restore does about other servers of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// While one of them answers nothing is touched.
    MustBeStopped,
    /// It is known that they do not count any more.
    DoNotCount,
}

/// How others speak to the task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    settings: watch::Sender<Settings>,
    state: watch::Receiver<SnapshotsState>,
    restoring: watch::Receiver<bool>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Request::Take(..) => "Take",
            Request::Restore(..) => "Restore",
            Request::Drill(_) => "Drill",
            Request::Damaged(_) => "Damaged",
        })
    }
}

impl Handle {
    /// A snapshot now, before something that could go wrong. Done when it is whole on this node;
    /// it goes to the storage afterwards.
    ///
    /// # Errors
    /// [`SnapshotError`] says why there is none.
    pub async fn take_now(&self, why: Why) -> Result<SnapshotInfo, SnapshotError> {
        self.ask(|answer| Request::Take(why, answer)).await
    }

    /// The datastore is put back. Done when Kubernetes is ready on it.
    ///
    /// # Errors
    /// What is wrong with the source, nothing having been touched; or
    /// [`SnapshotError::PutBack`], the old datastore being in force again.
    pub async fn restore(&self, source: Source) -> Result<Restored, SnapshotError> {
        self.restore_with(source, Others::MustBeStopped).await
    }

    /// The same, by somebody who knows about the other servers.
    ///
    /// # Errors
    /// As [`Handle::restore`].
    pub async fn restore_with(
        &self,
        source: Source,
        others: Others,
    ) -> Result<Restored, SnapshotError> {
        self.ask(|answer| Request::Restore(source, others, answer)).await
    }

    /// A drill now.
    ///
    /// # Errors
    /// It could not be made; a drill that was made and failed is a [`DrillResult`].
    pub async fn drill_now(&self) -> Result<DrillResult, SnapshotError> {
        self.ask(Request::Drill).await
    }

    /// The distribution does not start because its datastore is damaged: what can be done is done.
    ///
    /// # Errors
    /// The restore failed.
    pub async fn datastore_damaged(&self) -> Result<Automatic, SnapshotError> {
        self.ask(Request::Damaged).await
    }

    /// What the storage has of the whole site, newest first; names are `<node>/<name>`, as
    /// [`Source::Stored`] wants them.
    ///
    /// # Errors
    /// The storage is not set up or does not answer.
    pub async fn stored(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        // To look needs neither a key nor the task.
        let settings = self.settings.borrow().clone();
        let found = work::reach(&settings)?.list_site().await?;
        Ok(found.into_iter().map(|(object, one)| work::info(object, &one)).collect())
    }

    /// Other settings, from the next pass on, which is now.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        self.settings.send_modify(change);
    }

    /// What there is, for others to see; changes are seen at once.
    pub fn state(&self) -> watch::Receiver<SnapshotsState> {
        self.state.clone()
    }

    /// Whether a restore is on its way.
    pub fn restoring(&self) -> watch::Receiver<bool> {
        self.restoring.clone()
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, SnapshotError>>) -> Request,
    ) -> Result<T, SnapshotError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| SnapshotError::Ended)?;
        answered.await.unwrap_or(Err(SnapshotError::Ended))
    }
}

/// The running task; it is aborted when this is dropped.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts the task. Its first act is to carry on with a restore that was interrupted
/// ([`super::restore::pending`]); the distribution must not be running then.
pub fn start(settings: Settings, distribution: Arc<dyn Distribution>) -> (Handle, Task) {
    let (requests, asked) = mpsc::channel(QUEUE);
    let (settings, configured) = watch::channel(settings);
    let (publish, state) = watch::channel(SnapshotsState::default());
    let (set_restoring, restoring) = watch::channel(false);
    let worker = work::Worker::new(configured, distribution, publish, set_restoring);
    let task = tokio::spawn(worker.run(asked));
    (Handle { requests, settings, state, restoring }, Task(task))
}
