//! Makes Kubernetes out of Debian's source package, once.
//!
//! The steps: fetch packages and source, unpack them, generate the one file that the source
//! package lacks, compile, put what is needed together. Each step writes beside its place and is
//! renamed there, so a build that was killed carries on where it was; the compiler keeps its own
//! cache for the long step. The result is renamed to its final name last of all ([`crate::cache`]).
//!
//! Nothing is installed on the machine and nothing needs root. It fails with the next step to
//! take: [`BuildError`]. It leaves out: other releases than bookworm as source (only the
//! packages must come from there, the machine may be newer).

mod apt;
mod compile;
mod progress;
mod unpack;

pub use progress::Progress;

use crate::cache::{Built, Cache};
use crate::recipe;
use apt::Apt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a build needs on the disk while it lasts, in MiB; about 400 MiB of it stay.
const DISK_MIB: u64 = 3800;

/// Why Kubernetes could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not a Debian.
    #[error(
        "there is no apt-get here: Kubernetes, and the registry and the images of the tests, are made from Debian's packages; make them on a Debian machine, copy the folder and name it with {}",
        crate::cache::BUILD_VARIABLE
    )]
    NoApt,
    /// apt knows other releases only.
    #[error(
        "none of this machine's package sources is Debian {}: add one to /etc/apt/sources.list.d, for example a copy of the present one with `{}` as suite",
        recipe::SUITE,
        recipe::SUITE
    )]
    NoSuite,
    /// The mirror cannot be reached, or does not have it any more.
    #[error(
        "the packages cannot be fetched: {why}; run it again when the mirror answers, what was fetched is kept"
    )]
    Download {
        /// apt's own words.
        why: String,
    },
    /// The disk is too full.
    #[error("{} has {free_mib} MiB free, the build needs {DISK_MIB}; make room, or put the cache elsewhere with XDG_CACHE_HOME", path.display())]
    Disk {
        /// The cache folder.
        path: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
    },
    /// A file cannot be handled.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write the build down")]
    Write(#[from] holdfast_durable::WriteError),
    /// A program is missing.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: &'static str,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {said}; the log is {}", log.display())]
    Failed {
        /// The program.
        program: &'static str,
        /// The last line that it wrote.
        said: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// The sources are not those that the recipe was made for.
    #[error(
        "{file} of the sources is not as the recipe knows it, so `{why}` cannot be changed; the recipe has to be brought up to date"
    )]
    Changed {
        /// The file.
        file: &'static str,
        /// What the change is for.
        why: &'static str,
    },
    /// There is no cache folder.
    #[error("there is no folder for the cache")]
    NoCache(#[source] io::Error),
}

impl BuildError {
    fn file(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { attempt, path, source }
    }

    /// Nothing is wrong but this machine or its mirror; tests are skipped for it.
    pub fn skips(&self) -> bool {
        matches!(self, Self::NoApt | Self::NoSuite | Self::Download { .. } | Self::Disk { .. })
    }

    /// Trying again later can help, with nothing changed on this machine.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Download { .. })
    }
}

/// The build of this recipe, made now when it is not there. `say` hears what goes on.
///
/// # Errors
/// [`BuildError`] with the next step.
pub fn build(cache: &Cache, say: &mut dyn FnMut(&Progress)) -> Result<Built, BuildError> {
    if let Some(built) = cache.find() {
        return Ok(built);
    }
    let _lock =
        cache.lock(|| say(&Progress::Waiting)).map_err(BuildError::file("lock", cache.root()))?;
    // Whoever had the lock may have built it.
    if let Some(built) = cache.find() {
        return Ok(built);
    }
    let work = cache.work();
    std::fs::create_dir_all(&work).map_err(BuildError::file("make", &work))?;
    enough_room(&work)?;
    Build { work, started: Instant::now() }.run(&cache.complete(), say)
}

fn enough_room(work: &Path) -> Result<(), BuildError> {
    let stat = nix::sys::statvfs::statvfs(work)
        .map_err(|errno| BuildError::file("look at", work)(errno.into()))?;
    let free_mib = stat.blocks_available() * stat.fragment_size() / (1 << 20);
    // What an earlier attempt left counts as room.
    let there_mib = tree_bytes(work) / (1 << 20);
    if free_mib + there_mib < DISK_MIB {
        return Err(BuildError::Disk { path: work.to_path_buf(), free_mib });
    }
    Ok(())
}

fn tree_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => tree_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// One attempt.
struct Build {
    work: PathBuf,
    started: Instant,
}

impl Build {
    fn run(&self, complete: &Path, say: &mut dyn FnMut(&Progress)) -> Result<Built, BuildError> {
        say(&Progress::Begins { estimate: progress::estimate() });
        self.step("packages", "fetching packages and sources", say, |dir| self.fetch(dir))?;
        self.step("go", "unpacking the compiler", say, |dir| unpack::compiler(self, dir))?;
        self.step("gopath", "unpacking Kubernetes", say, |dir| unpack::sources(self, dir))?;
        self.step("generated", "generating what the sources lack", say, |dir| {
            compile::generate(self, dir)
        })?;
        compile::programs(self, say)?;
        let out =
            self.step("out", "putting it together", say, |dir| unpack::assemble(self, dir))?;
        if complete.exists() {
            // Without its record, so left behind by a power cut.
            std::fs::remove_dir_all(complete).map_err(BuildError::file("remove", complete))?;
        }
        std::fs::rename(&out, complete).map_err(BuildError::file("make", complete))?;
        // The build is complete whatever becomes of this.
        let _kept = std::fs::remove_dir_all(&self.work);
        say(&Progress::Done { took: self.started.elapsed() });
        Ok(Built::at(complete.to_path_buf()))
    }

    /// Runs `make` for the folder `name` unless an earlier attempt finished it.
    fn step(
        &self,
        name: &str,
        what: &'static str,
        say: &mut dyn FnMut(&Progress),
        make: impl FnOnce(&Path) -> Result<(), BuildError>,
    ) -> Result<PathBuf, BuildError> {
        let done = self.dir(name);
        if done.exists() {
            return Ok(done);
        }
        say(&Progress::Step { what });
        let unfinished = self.dir(&format!("{name}.unfinished"));
        // Packages that were fetched are not fetched again; anything else begins afresh.
        if name != "packages" && unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)
                .map_err(BuildError::file("remove", &unfinished))?;
        }
        std::fs::create_dir_all(&unfinished).map_err(BuildError::file("make", &unfinished))?;
        make(&unfinished)?;
        std::fs::rename(&unfinished, &done).map_err(BuildError::file("make", &done))?;
        Ok(done)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Everything that the mirror has to give.
    fn fetch(&self, dir: &Path) -> Result<(), BuildError> {
        let apt = Apt::prepare(&self.dir("apt"))?;
        apt.get(dir, &["update", "-q"])?;
        let packages: Vec<&str> = ["download", "-q"]
            .into_iter()
            .chain(recipe::BUILD_PACKAGES.iter().copied())
            .chain(recipe::RUN_PACKAGES.iter().copied())
            .collect();
        apt.get(dir, &packages)?;
        let source = format!("{}={}", recipe::SOURCE, recipe::SOURCE_VERSION);
        apt.get(dir, &["source", "-q", "--download-only", &source])
    }
}
