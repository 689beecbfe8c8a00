//! Where a world keeps its state, and what is written down before it is made.
//!
//! ```text
//! /run/holdfast-lab/             the base; HOLDFAST_LAB_DIR moves it
//!   <world>/
//!     world.json                 the world's spec and stages, written before anything is made
//!     services/<name>.json       how to start a daemon, written before it is started
//!     records/<name>             identity of a daemon, written by itself before its first instruction
//!     logs/<name>.log
//!     roots/<host>/              what its daemons see as `/`
//!     emulator.sock, links.json
//! ```
//!
//! So whoever takes a world down knows of everything, wherever the one who made it was stopped.
//! Two commands never work on one world at once: the directory is locked (flock(2)) meanwhile, and the
//! lock ends with the process.

use super::error::WorldError;
use super::spec::{WorldName, WorldSpec};
use super::topology::Host;
use crate::exec::Daemon;
use crate::process::ProcessId;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where worlds are kept when nothing else is said.
pub const BASE: &str = "/run/holdfast-lab";

/// The place of one world's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    base: PathBuf,
    world: WorldName,
}

/// What a world is and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldFile {
    /// What was asked for.
    pub spec: WorldSpec,
    /// Where its programs are.
    pub bin_dir: PathBuf,
    /// Stages so far.
    pub stages: Vec<StageTime>,
    /// Whether everything was brought up.
    pub complete: bool,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageTime {
    /// What was done.
    pub stage: String,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// A daemon of a world, and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique in the world, such as `node-1.tunneld`.
    pub name: String,
    /// Its host; none for what runs on the machine itself.
    pub host: Option<String>,
    /// How to start it.
    pub daemon: Daemon,
}

/// A lock on a world, until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Home {
    /// The place of this world below `base`.
    pub fn new(base: impl Into<PathBuf>, world: WorldName) -> Self {
        Home { base: base.into(), world }
    }

    /// The world's name.
    pub fn world(&self) -> &WorldName {
        &self.world
    }

    /// Where all worlds are.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The world's directory.
    pub fn dir(&self) -> PathBuf {
        self.base.join(self.world.as_str())
    }

    /// The root directory of a host's daemons.
    pub fn root(&self, host: Host) -> PathBuf {
        self.dir().join("roots").join(host.to_string())
    }

    /// The emulator's control socket.
    pub fn emulator_socket(&self) -> PathBuf {
        self.dir().join("emulator.sock")
    }

    /// The links that the emulator starts with.
    pub fn links_file(&self) -> PathBuf {
        self.dir().join("links.json")
    }

    /// The log of a service.
    pub fn log(&self, service: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{service}.log"))
    }

    /// Where a service tells who it is.
    pub fn record(&self, service: &str) -> PathBuf {
        self.records_dir().join(service)
    }

    pub(super) fn records_dir(&self) -> PathBuf {
        self.dir().join("records")
    }

    fn services_dir(&self) -> PathBuf {
        self.dir().join("services")
    }

    /// Whether there is a world here, whole or not.
    pub fn exists(&self) -> bool {
        self.dir().exists()
    }

    /// Locks the world; fails at once when another command works on it.
    ///
    /// # Errors
    /// [`WorldError::Busy`] when it is locked, [`WorldError::State`] when there is none.
    pub fn lock(&self) -> Result<Lock, WorldError> {
        let dir = File::open(self.dir()).map_err(|source| WorldError::State {
            attempt: "open",
            path: self.dir(),
            source,
        })?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(WorldError::Busy(self.world.clone())),
            Err((_, errno)) => {
                Err(WorldError::State { attempt: "lock", path: self.dir(), source: errno.into() })
            }
        }
    }

    /// What the world is; none when there is none.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn load(&self) -> Result<Option<WorldFile>, WorldError> {
        read_json(&self.dir().join("world.json"))
    }

    /// Writes down what the world is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, world: &WorldFile) -> Result<(), WorldError> {
        write_json(&self.dir().join("world.json"), world)
    }

    /// Writes down how to start a service.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store_service(&self, service: &Service) -> Result<(), WorldError> {
        write_json(&self.services_dir().join(format!("{}.json", service.name)), service)
    }

    /// Every service with the identity of its process, when it was ever started.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn services(&self) -> Result<BTreeMap<String, (Service, Option<ProcessId>)>, WorldError> {
        let entries = std::fs::read_dir(self.services_dir()).into_iter().flatten().flatten();
        let files = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"));
        files
            .filter_map(|path| read_json::<Service>(&path).transpose())
            .map(|service| {
                let service = service?;
                let process = crate::exec::recorded(&self.record(&service.name));
                Ok((service.name.clone(), (service, process)))
            })
            .collect()
    }

    /// Names of all worlds at this base, this one included when it is there.
    pub fn siblings(&self) -> Vec<WorldName> {
        let entries = std::fs::read_dir(&self.base).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<WorldName> =
            dirs.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        names
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, WorldError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(WorldError::State { attempt: "read", path: path.into(), source });
        }
        Ok(text) => text,
    };
    let damaged = |source| WorldError::Damaged { path: path.into(), source };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), WorldError> {
    let encoded = |source| WorldError::Damaged { path: path.into(), source };
    let mut text = serde_json::to_vec_pretty(value).map_err(encoded)?;
    text.push(b'\n');
    // Commands of a service may hold a token.
    holdfast_durable::write(path, &text, 0o600).map_err(WorldError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_reads_back_and_a_damaged_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), "w1".parse().unwrap());
        assert_eq!(home.load().unwrap(), None);
        let file = WorldFile {
            spec: WorldSpec::default(),
            bin_dir: "/bin".into(),
            stages: vec![],
            complete: false,
        };
        home.store(&file).unwrap();
        assert_eq!(home.load().unwrap(), Some(file));
        assert_eq!(home.siblings(), ["w1".parse().unwrap()]);
        holdfast_durable::write(&home.dir().join("world.json"), b"{", 0o600).unwrap();
        assert!(matches!(home.load(), Err(WorldError::Damaged { .. })));
    }

    #[test]
    fn one_command_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), "w1".parse().unwrap());
        assert!(matches!(home.lock(), Err(WorldError::State { attempt: "open", .. })));
        std::fs::create_dir(home.dir()).unwrap();
        let held = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(WorldError::Busy(_))));
        drop(held);
        home.lock().unwrap();
    }
}
