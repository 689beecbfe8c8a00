//! Where builds are kept, who may build, and what a build has.
//!
//! `$XDG_CACHE_HOME/holdfast-lab/kubernetes/` (else below `~/.cache`) has one folder for each
//! recipe. A folder with the key's name is complete: it is renamed there when everything is
//! written. What is being built is in `work-<key>`, where the next attempt carries on; the lock
//! is on `lock`, and the kernel gives it back when its holder dies.

use crate::recipe;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Names the folder of a complete build.
pub const BUILD_VARIABLE: &str = "HOLDFAST_LAB_KUBERNETES";

/// The folder of all builds.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A complete build.
#[derive(Debug, Clone)]
pub struct Built {
    root: PathBuf,
}

/// Held while building.
pub struct BuildLock {
    _lock: Flock<File>,
}

impl Cache {
    /// The user's.
    ///
    /// # Errors
    /// Neither `XDG_CACHE_HOME` nor `HOME` is an absolute path.
    pub fn of_user() -> io::Result<Self> {
        let absolute = |name| {
            std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|cache| Self::at(cache.join("holdfast-lab/kubernetes")))
            .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))
    }

    /// Another one, for tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The complete build of this recipe, when there is one.
    pub fn find(&self) -> Option<Built> {
        let root = self.complete();
        root.join(Built::RECORD).is_file().then_some(Built { root })
    }

    /// Where the complete build goes.
    pub fn complete(&self) -> PathBuf {
        self.root.join(recipe::key())
    }

    /// Where it is made.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join(format!("work-{}", recipe::key()))
    }

    /// Takes the lock; `waiting` is called once when somebody else has it.
    ///
    /// # Errors
    /// The folder cannot be made or the lock file not opened.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> io::Result<BuildLock> {
        std::fs::create_dir_all(&self.root)?;
        let path = self.root.join("lock");
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(BuildLock { _lock: lock }),
            Err(_) => {
                waiting();
                Flock::lock(open()?, FlockArg::LockExclusive)
                    .map(|lock| BuildLock { _lock: lock })
                    .map_err(|(_, errno)| errno.into())
            }
        }
    }
}

impl Built {
    /// The last file that is written; it says what the build was made of.
    pub(crate) const RECORD: &str = "built.json";

    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The one that [`BUILD_VARIABLE`] names, for programs without a home.
    pub fn of_environment() -> Option<Self> {
        Self::open(Path::new(&std::env::var_os(BUILD_VARIABLE)?))
    }

    /// The one in `root`, when it is whole.
    pub fn open(root: &Path) -> Option<Self> {
        root.join(Self::RECORD).is_file().then(|| Self { root: root.into() })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A program of ours: `hyperkube`, `pause`, `web`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// The packages' `/usr`.
    pub fn usr(&self) -> PathBuf {
        self.root.join("usr")
    }

    /// Environment with which the packages' programs find each other and their libraries, wherever
    /// they lie: nothing of the machine is shadowed by a mount.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let usr = self.usr();
        let library = usr.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
        let bin = self.root.join("bin");
        let own = ["sbin", "bin"].map(|dir| usr.join(dir).display().to_string()).join(":");
        vec![
            (
                "PATH",
                format!(
                    "{}:{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    bin.display()
                ),
            ),
            ("LD_LIBRARY_PATH", library.display().to_string()),
            ("XTABLES_LIBDIR", library.join("xtables").display().to_string()),
        ]
    }

    /// Where the network plugins are.
    pub fn cni_plugins(&self) -> PathBuf {
        self.usr().join("lib/cni")
    }
}
