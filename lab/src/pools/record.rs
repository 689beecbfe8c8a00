//! One note for the whole machine of its huge page pools, and of the worlds that may change them.
//!
//! ```text
//! /run/holdfast-lab-pools/    gone when the last of these worlds is; also the lock (flock(2))
//!   before.json               the pools before the first of these worlds
//!   worlds.json               their directories, at whatever base
//! ```
//!
//! Worlds of several bases share the machine, so none of them can keep the note alone: the last to
//! go would put back what another had made. A world whose directory is gone without a word is no
//! reason to wait; the pools are put back with the next one that goes.

use super::{PoolError, Pools, observe, restore};
use holdfast_durable::WriteError;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the note cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file or directory cannot be handled.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot note the machine's huge page pools")]
    Write(#[source] WriteError),
    /// It does not read as what it should be.
    #[error("{} is damaged; nobody knows the pools as they were", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// The note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    dir: PathBuf,
    sys: PathBuf,
}

type Lock = Flock<File>;

impl Record {
    /// The machine's.
    pub fn of_machine() -> Self {
        Self::at("/run/holdfast-lab-pools", "/sys")
    }

    /// One in `dir`, of the pools below `sys`.
    pub fn at(dir: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Record { dir: dir.into(), sys: sys.into() }
    }

    /// Notes the pools as they are, unless another world has done so, and that the world in `world`
    /// may change them.
    ///
    /// # Errors
    /// The note cannot be read or written.
    pub fn remember(&self, world: &Path) -> Result<(), RecordError> {
        let _lock = loop {
            fs::create_dir_all(&self.dir).map_err(self.io("make"))?;
            if let Some(lock) = self.lock()? {
                break lock;
            }
        };
        let mut worlds = self.worlds()?;
        worlds.insert(absolute(world)?);
        if !self.before().exists() {
            write(&self.before(), &observe(&self.sys))?;
        }
        write(&self.list(), &worlds)
    }

    /// The world in `world` is gone. With the last one the pools are put back as they were; those
    /// that cannot be are given.
    ///
    /// # Errors
    /// The note cannot be read or changed.
    pub fn forget(&self, world: &Path) -> Result<Vec<PoolError>, RecordError> {
        let Some(_lock) = self.lock()? else { return Ok(Vec::new()) };
        let mut worlds = self.worlds()?;
        worlds.remove(&absolute(world)?);
        if !worlds.is_empty() {
            write(&self.list(), &worlds)?;
            return Ok(Vec::new());
        }
        let before: Option<Pools> = read(&self.before())?;
        let problems = before.map(|before| restore(&before)).unwrap_or_default();
        // With whatever a writer that was killed left in it.
        fs::remove_dir_all(&self.dir).map_err(self.io("remove"))?;
        Ok(problems)
    }

    fn before(&self) -> PathBuf {
        self.dir.join("before.json")
    }

    fn list(&self) -> PathBuf {
        self.dir.join("worlds.json")
    }

    /// Those that are still there.
    fn worlds(&self) -> Result<BTreeSet<PathBuf>, RecordError> {
        let mut worlds: BTreeSet<PathBuf> = read(&self.list())?.unwrap_or_default();
        worlds.retain(|world| world.exists());
        Ok(worlds)
    }

    /// Nothing when there is no note, also when it went while the lock was waited for.
    fn lock(&self) -> Result<Option<Lock>, RecordError> {
        let dir = match File::open(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir.map_err(self.io("open"))?,
        };
        let locked = Flock::lock(dir, FlockArg::LockExclusive);
        let lock = locked.map_err(|(_, errno)| self.io("lock")(errno.into()))?;
        let held = lock.metadata().map_err(self.io("look at"))?;
        let is_it = fs::metadata(&self.dir)
            .is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()));
        Ok(is_it.then_some(lock))
    }

    fn io(&self, attempt: &'static str) -> impl FnOnce(io::Error) -> RecordError {
        let path = self.dir.clone();
        move |source| RecordError::Io { attempt, path, source }
    }
}

/// The next command may be typed elsewhere.
fn absolute(world: &Path) -> Result<PathBuf, RecordError> {
    std::path::absolute(world).map_err(|source| RecordError::Io {
        attempt: "find",
        path: world.into(),
        source,
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(RecordError::Io { attempt: "read", path: path.into(), source });
        }
        Ok(text) => text,
    };
    let damaged = |source| RecordError::Damaged { path: path.into(), source };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    let damaged = |source| RecordError::Damaged { path: path.into(), source };
    let text = serde_json::to_vec(value).map_err(damaged)?;
    holdfast_durable::write(path, &text, 0o600).map_err(RecordError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A machine with one pool, and places for worlds.
    struct Machine {
        dir: TempDir,
        record: Record,
    }

    impl Machine {
        fn new(pages: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let record = Record::at(dir.path().join("note"), dir.path().join("sys"));
            let machine = Machine { dir, record };
            machine.set(pages);
            machine
        }

        fn pool(&self) -> PathBuf {
            self.dir.path().join("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
        }

        fn set(&self, pages: u64) {
            holdfast_durable::write(&self.pool(), pages.to_string().as_bytes(), 0o644).unwrap();
        }

        fn pages(&self) -> String {
            fs::read_to_string(self.pool()).unwrap()
        }

        /// A world at a base of its own that comes, and changes the pool.
        fn up(&self, name: &str, pages: u64) -> PathBuf {
            let world = self.dir.path().join(name).join("default");
            fs::create_dir_all(&world).unwrap();
            self.record.remember(&world).unwrap();
            self.set(pages);
            world
        }

        fn down(&self, world: &Path) {
            fs::remove_dir_all(world).unwrap();
            assert!(self.record.forget(world).unwrap().is_empty());
        }
    }

    proptest::proptest! {
        // Each writes and syncs dozens of files.
        #![proptest_config(proptest::test_runner::Config::with_cases(12))]
        #[test]
        fn after_the_last_world_the_pools_are_as_before_the_first(
            before in 0u64..100,
            made in proptest::collection::vec(0u64..100, 1..5),
            order in proptest::prelude::any::<proptest::sample::Index>(),
        ) {
            let machine = Machine::new(before);
            let mut worlds: Vec<PathBuf> =
                (0..).zip(&made).map(|(n, pages)| machine.up(&format!("base-{n}"), *pages)).collect();
            while let Some(last) = made.last().filter(|_| worlds.len() > 1) {
                machine.down(&worlds.remove(order.index(worlds.len())));
                proptest::prop_assert_eq!(machine.pages(), last.to_string());
            }
            machine.down(&worlds.remove(0));
            proptest::prop_assert_eq!(machine.pages(), before.to_string());
            proptest::prop_assert!(!machine.record.dir.exists());
        }
    }

    #[test]
    fn a_world_that_vanished_keeps_nobody_waiting() {
        let machine = Machine::new(3);
        let (first, second) = (machine.up("a", 700), machine.up("b", 800));
        fs::remove_dir_all(&first).unwrap();
        machine.down(&second);
        assert_eq!(machine.pages(), "3");
    }

    #[test]
    fn who_never_came_puts_nothing_back() {
        let machine = Machine::new(3);
        assert!(machine.record.forget(Path::new("/nowhere")).unwrap().is_empty());
        assert!(!machine.record.dir.exists());
        let world = machine.up("a", 700);
        assert!(machine.record.forget(Path::new("/nowhere")).unwrap().is_empty());
        assert_eq!(machine.pages(), "700");
        machine.down(&world);
    }

    #[test]
    fn a_damaged_note_is_told_and_kept() {
        let machine = Machine::new(3);
        let world = machine.up("a", 700);
        holdfast_durable::write(&machine.record.before(), b"{", 0o600).unwrap();
        assert!(matches!(machine.record.forget(&world), Err(RecordError::Damaged { .. })));
        assert!(machine.record.before().exists());
    }
}
