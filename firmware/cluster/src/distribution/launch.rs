//! Starting the distribution so that it outlives us, and finding it again.
//!
//! Where systemd is PID 1 it is a unit (`unit`), else a process of its own session
//! (`child`). Either leaves a [`Record`] of what it was started with.

use super::child::ChildLauncher;
use super::plan::Aspects;
use super::process::{Ending, Identity, Process};
use super::unit::UnitLauncher;
use crate::paths::ClusterPaths;
use holdfast_api::Reason;
use holdfast_durable::WriteError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Behind it.
    pub arguments: Vec<String>,
    /// Over our own environment.
    pub environment: Vec<(String, String)>,
    /// What it is started with, for whoever finds it.
    pub aspects: Aspects,
}

/// What is known of a started distribution; written before it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// With what it was started.
    pub aspects: Aspects,
    /// Which process it is; nothing while it is being started.
    pub process: Option<Identity>,
    /// How long its logs were before the start.
    pub logs: BTreeMap<PathBuf, u64>,
}

/// Why it cannot be started or found.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no program.
    #[error("there is no program at {}", .0.display())]
    Absent(PathBuf),
    /// A file of ours cannot be written.
    #[error("cannot keep the record of Kubernetes' process")]
    Record(#[from] WriteError),
    /// Something cannot be done with a file or program.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What.
        attempt: &'static str,
        /// With which.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// systemd refuses.
    #[error("systemctl {words} failed: {said}")]
    Systemd {
        /// What it was asked.
        words: String,
        /// What it said.
        said: String,
    },
    /// It ended before we could look at it.
    #[error("it ended at once")]
    Gone,
}

impl LaunchError {
    pub(super) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| LaunchError::Io { attempt, path, source }
    }

    /// The code for it.
    pub fn reason(&self) -> Reason {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            LaunchError::Absent(_) => Reason::KubernetesAbsent,
            LaunchError::Record(error) if error.disk_full() => Reason::KubernetesDiskFull,
            LaunchError::Io { source, .. } if full(source.kind()) => Reason::KubernetesDiskFull,
            LaunchError::Record(_) => Reason::StateUnwritable,
            LaunchError::Io { .. } | LaunchError::Systemd { .. } | LaunchError::Gone => {
                Reason::KubernetesExited
            }
        }
    }
}

/// How to start it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum How {
    /// A unit where systemd is PID 1, else a child.
    #[default]
    Auto,
    /// Always as a unit.
    Systemd,
    /// Always as a process of its own session. Not for a manager that is a unit itself: systemd
    /// ends a unit's processes with it, whatever their session (systemd.kill(5)).
    Child,
}

/// Starts and finds it.
#[derive(Debug)]
pub enum Launcher {
    /// As a process of its own.
    Child(ChildLauncher),
    /// As a unit.
    Unit(UnitLauncher),
}

impl Launcher {
    /// The one that fits the machine (sd_booted(3)).
    pub fn new(how: How, paths: &ClusterPaths) -> Self {
        let places = Places::new(paths);
        let booted = || Path::new("/run/systemd/system").is_dir();
        match how {
            How::Systemd => Launcher::Unit(UnitLauncher::new(places)),
            How::Auto if booted() => Launcher::Unit(UnitLauncher::new(places)),
            How::Auto | How::Child => Launcher::Child(ChildLauncher::new(places)),
        }
    }

    /// Where logs and record are.
    pub fn places(&self) -> &Places {
        match self {
            Launcher::Child(child) => child.places(),
            Launcher::Unit(unit) => unit.places(),
        }
    }

    /// Starts it. Call only when none runs.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub async fn start(&self, launch: &Launch) -> Result<Process, LaunchError> {
        match self {
            Launcher::Child(child) => child.start(launch),
            Launcher::Unit(unit) => unit.start(launch).await,
        }
    }

    /// The one that runs, and with what it was started.
    ///
    /// # Errors
    /// [`LaunchError`]; then it must not be started either.
    pub async fn find(&self) -> Result<Option<(Process, Record)>, LaunchError> {
        match self {
            Launcher::Child(child) => child.find(),
            Launcher::Unit(unit) => unit.find().await,
        }
    }

    /// How it ended.
    pub async fn ending(&self, process: &Process) -> Ending {
        match self {
            Launcher::Child(_) => process.ending(),
            Launcher::Unit(unit) => unit.ending().await,
        }
    }
}

/// Where we keep what belongs to the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    folder: PathBuf,
    data: PathBuf,
}

/// A log longer than this is cut while it is written; the part before is kept beside it.
const LONGEST_LOG: u64 = 16 << 20;

impl Places {
    /// Below the root of `paths`.
    pub fn new(paths: &ClusterPaths) -> Self {
        Places { folder: paths.state_dir().join("distribution"), data: paths.data_dir() }
    }

    /// The folder of all of it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it keeps its data.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it writes.
    pub fn log(&self) -> PathBuf {
        self.folder.join("k3s.log")
    }

    /// What the one before wrote.
    pub fn old_log(&self) -> PathBuf {
        self.folder.join("k3s.log.1")
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("process.json")
    }

    /// The record; an empty one when there is none, or none that can be read.
    pub fn record(&self) -> Record {
        let text = std::fs::read(self.record_path()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn keep(&self, record: &Record) -> Result<(), LaunchError> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|source| LaunchError::io("write", &self.record_path())(source.into()))?;
        Ok(holdfast_durable::write(&self.record_path(), &text, 0o600)?)
    }

    /// Makes room for a new log and gives it; the old one is kept beside it.
    pub(super) fn fresh_log(&self) -> Result<std::fs::File, LaunchError> {
        use std::os::unix::fs::OpenOptionsExt;
        let (log, old) = (self.log(), self.old_log());
        std::fs::create_dir_all(&self.folder).map_err(LaunchError::io("make", &self.folder))?;
        match std::fs::rename(&log, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LaunchError::io("rotate", &log)(error));
            }
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let options = options.create(true).append(true).mode(0o600);
        options.open(&log).map_err(LaunchError::io("make", &log))
    }

    /// Keeps the log of a running process within bounds. Its writer appends, so that it goes on
    /// at the new end.
    ///
    /// # Errors
    /// The log cannot be copied, and is cut nevertheless; or it cannot be cut.
    pub fn bound_log(&self) -> io::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(self.log())?;
        if file.metadata()?.len() <= LONGEST_LOG {
            return Ok(());
        }
        let copied = std::fs::copy(self.log(), self.old_log());
        file.set_len(0)?;
        copied.map(drop).inspect_err(|_| {
            // On a full disk a part of the old log only takes room.
            let _gone = std::fs::remove_file(self.old_log());
        })
    }

    /// What containerd writes, also below k3s.
    pub fn containerd_log(&self) -> PathBuf {
        self.data.join("agent/containerd/containerd.log")
    }

    /// Every log that can tell why it does not come up: its own, and those of its parts.
    pub fn logs(&self) -> Vec<PathBuf> {
        let mut parts: Vec<PathBuf> = std::fs::read_dir(self.data.join("log"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        parts.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        parts.push(self.containerd_log());
        parts.sort();
        parts.push(self.log());
        parts
    }

    /// How long the logs of its parts are; its own begins anew with each start.
    pub(super) fn log_lengths(&self) -> BTreeMap<PathBuf, u64> {
        let own = self.log();
        let others = self.logs().into_iter().filter(|path| *path != own);
        others.filter_map(|path| Some((path.clone(), path.metadata().ok()?.len()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    /// As on a full disk: etcd is on the same one.
    #[test]
    fn a_long_log_is_cut_also_when_it_cannot_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(&ClusterPaths::new(&Root::new(folder.path())));
        std::fs::create_dir_all(places.old_log()).unwrap();
        let log = std::fs::File::create(places.log()).unwrap();
        log.set_len(LONGEST_LOG + 1).unwrap();
        places.bound_log().unwrap_err();
        assert_eq!(places.log().metadata().unwrap().len(), 0);
    }
}
