//! Kubernetes stopped by an operator, as when the datastore is restored on another server. It stays
//! so until it is started by the same hand: a file tells the next manager, and the next boot.
//!
//! A server that comes back after a restore elsewhere must not bring its old datastore along. Two of
//! three would agree that theirs is the one in force. So `start` can put it aside; the server then
//! joins as a new one (k3s documentation, "etcd-snapshot", "Restoring snapshots").

use holdfast_api::local::{Problem, StartInput};
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::Handle;
use holdfast_cluster::paths::ClusterPaths;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Until it has ended: its own way to end takes 45 s at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether it is stopped by an operator.
#[derive(Debug)]
pub(super) struct Stopped {
    mark: PathBuf,
    datastore: PathBuf,
    pause: Option<Paused>,
}

/// It is stopped while this lives.
#[derive(Debug)]
struct Paused {
    task: JoinHandle<()>,
    has_ended: watch::Receiver<bool>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stopped {
    pub(super) fn new(paths: &ClusterPaths) -> Self {
        Stopped {
            mark: paths.state_dir().join("stopped"),
            datastore: paths.data_dir().join("server/db/etcd"),
            pause: None,
        }
    }

    pub(super) fn is_so(&self) -> bool {
        self.pause.is_some()
    }

    /// As an operator left it; before anything starts.
    pub(super) async fn hold(&mut self, distribution: &Arc<Handle>) {
        if self.pause.is_some() || !self.mark.exists() {
            return;
        }
        tracing::warn!("Kubernetes stays stopped, as an operator left it");
        let (tell, mut has_ended) = watch::channel(false);
        let distribution = Arc::clone(distribution);
        let task = tokio::spawn(async move {
            let Ok(_pause) = distribution.pause().await else { return };
            tell.send_replace(true);
            std::future::pending::<()>().await;
        });
        // A process that a failing disk holds may take for ever.
        let _in_time =
            tokio::time::timeout(PATIENCE, has_ended.wait_for(|ended| *ended)).await.is_ok();
        self.pause = Some(Paused { task, has_ended });
    }

    /// Stops it. Done when it has ended, or was waited for long enough.
    pub(super) async fn stop(&mut self, distribution: &Arc<Handle>) -> Result<(), Problem> {
        holdfast_durable::write(&self.mark, b"", 0o600)
            .map_err(|error| Problem::new(Reason::Internal, chain(&error)))?;
        self.hold(distribution).await;
        if self.pause.as_ref().is_some_and(|pause| *pause.has_ended.borrow()) {
            return Ok(());
        }
        let text = "it has not ended yet; it is ended as soon as the kernel lets it";
        Err(Problem::new(Reason::KubernetesStopped, text))
    }

    /// Lets it start.
    pub(super) fn start(&mut self, input: StartInput, joins: bool) -> Result<(), Problem> {
        if input.rejoin {
            self.put_aside(joins)?;
        }
        holdfast_durable::remove(&self.mark)
            .map_err(|error| Problem::new(Reason::Internal, chain(&error)))?;
        self.pause = None;
        Ok(())
    }

    fn put_aside(&self, joins: bool) -> Result<(), Problem> {
        let refused = |text: &str| Err(Problem::new(Reason::SnapshotRestoreFailed, text));
        if !joins {
            return refused("this is no server that joins others; restore here");
        }
        if !self.pause.as_ref().is_some_and(|pause| *pause.has_ended.borrow()) {
            return refused("stop Kubernetes on this node first: holdfast kube stop");
        }
        let aside = self.datastore.with_file_name("etcd.before-rejoin");
        let moved = match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::rename(&self.datastore, &aside).and_then(|()| {
                // Before the mark goes: after a power cut it would bring the old one along.
                let folder = self.datastore.parent().unwrap_or(&self.datastore);
                fs::File::open(folder)?.sync_all()
            }),
        };
        match moved {
            // It has joined nobody yet.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            moved => moved.map_err(|error| failed("put the old datastore aside", &error)),
        }
    }
}

fn failed(attempt: &str, error: &io::Error) -> Problem {
    Problem::new(Reason::Internal, format!("cannot {attempt}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::lent::Https;
    use super::*;
    use holdfast_api::paths::Root;
    use holdfast_cluster::distribution::service::StayThere;
    use holdfast_cluster::distribution::{ApiProbe, Distribution, Helpers, Settings, Wish};

    fn distribution(paths: &ClusterPaths, wish: watch::Receiver<Wish>) -> Arc<Handle> {
        let helpers = Helpers {
            probe: Arc::new(ApiProbe::new(paths)),
            fetch: Arc::new(Https),
            workloads: Arc::new(StayThere),
        };
        let settings = Settings::new(paths.clone(), "/nowhere/k3s".into());
        Arc::new(Distribution::start(settings, helpers, wish))
    }

    #[tokio::test]
    async fn what_was_stopped_stays_so_for_the_next_manager_and_may_join_anew() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(dir.path()));
        let database = paths.data_dir().join("server/db/etcd/member/snap/db");
        holdfast_durable::write(&database, b"old", 0o600).unwrap();
        let (_wishes, wish) = watch::channel(Wish::Unknown);
        let handle = distribution(&paths, wish.clone());
        let rejoin = StartInput { rejoin: true };

        let mut stopped = Stopped::new(&paths);
        stopped.hold(&handle).await;
        assert!(!stopped.is_so());
        assert!(stopped.start(rejoin, true).is_err(), "it runs");
        stopped.stop(&handle).await.unwrap();
        assert!(stopped.is_so());
        drop((stopped, handle));

        let handle = distribution(&paths, wish);
        let mut stopped = Stopped::new(&paths);
        stopped.hold(&handle).await;
        assert!(stopped.is_so(), "the next manager knows");
        assert!(stopped.start(rejoin, false).is_err(), "it joins nobody");
        assert!(database.exists() && stopped.is_so());
        for _ in 0..2 {
            stopped.start(rejoin, true).unwrap();
            assert!(!database.exists() && !stopped.is_so());
            stopped.stop(&handle).await.unwrap();
        }
        stopped.start(StartInput::default(), true).unwrap();
        stopped.hold(&handle).await;
        assert!(!stopped.is_so(), "it is forgotten");
    }
}
