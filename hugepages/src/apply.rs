//! One step against the kernel. Makes no choices.
//!
//! [`Sysfs`] is the kernel's own interface (admin-guide/mm/hugetlbpage): per node under
//! `/sys/devices/system/node/nodeN/hugepages`, without NUMA under `/sys/kernel/mm/hugepages`.
//! A pool is read back after the write; that the kernel gave fewer pages is no error here, since
//! whoever decides looks at what is there.

use crate::model::{Have, Mount, NodeId, PageSize};
use crate::mounts;
use crate::observe::{ObserveError, observe};
use crate::plan::Step;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Whether a step changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something is there that was not.
    Created,
    /// Something is different.
    Changed,
    /// It was so already, or the kernel did not move.
    Unchanged,
}

/// Which attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file of the kernel could not be written.
    #[error("cannot write {value} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A pool could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A hugetlbfs could not be mounted.
    #[error("cannot mount hugetlbfs at {}", path.display())]
    Mount {
        /// The place.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A hugetlbfs could not be unmounted.
    #[error("cannot unmount {} (is it in use?)", path.display())]
    Unmount {
        /// The place.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ApplyError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            ApplyError::Write { .. } | ApplyError::Read { .. } => Reason::HugepagesFailed,
            ApplyError::Mount { .. } | ApplyError::Unmount { .. } => Reason::HugepagesMount,
        }
    }

    /// The kernel answers EINVAL to a gigantic pool when it was built without the means to make
    /// one at run time (`gigantic_page_runtime_supported`).
    pub fn not_at_run_time(&self) -> bool {
        matches!(self, ApplyError::Write { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
    }
}

/// The kernel as this crate needs it; a fake one stands beside it in tests.
pub trait Kernel {
    /// What there is.
    ///
    /// # Errors
    /// What could not be read.
    fn observe(&self) -> Result<Have, ObserveError>;
    /// Asks for this many persistent pages; the kernel may give another number.
    ///
    /// # Errors
    /// [`ApplyError::Write`], [`ApplyError::Read`].
    fn set_pool(&mut self, node: NodeId, size: PageSize, pages: u64)
    -> Result<Outcome, ApplyError>;
    /// Splits up to this many free pages.
    ///
    /// # Errors
    /// [`ApplyError::Write`], [`ApplyError::Read`].
    fn demote(&mut self, node: NodeId, size: PageSize, pages: u64) -> Result<Outcome, ApplyError>;
    /// Forgets clean caches.
    ///
    /// # Errors
    /// [`ApplyError::Write`].
    fn drop_caches(&mut self) -> Result<Outcome, ApplyError>;
    /// Moves memory together.
    ///
    /// # Errors
    /// [`ApplyError::Write`], also when the kernel has no compaction.
    fn compact(&mut self, node: NodeId) -> Result<Outcome, ApplyError>;
    /// Mounts a hugetlbfs, unless it is there.
    ///
    /// # Errors
    /// [`ApplyError::Mount`].
    fn mount(&mut self, mount: &Mount) -> Result<Outcome, ApplyError>;
    /// Unmounts a hugetlbfs, unless it is gone.
    ///
    /// # Errors
    /// [`ApplyError::Unmount`].
    fn unmount(&mut self, path: &Path) -> Result<Outcome, ApplyError>;
}

/// Carries out one step.
///
/// # Errors
/// What the kernel refused.
pub fn apply(kernel: &mut impl Kernel, step: &Step) -> Result<Outcome, ApplyError> {
    match step {
        Step::SetPool { node, size, to, .. } => kernel.set_pool(*node, *size, *to),
        Step::Demote { node, from, pages, .. } => kernel.demote(*node, *from, *pages),
        Step::DropCaches => kernel.drop_caches(),
        Step::Compact { node } => kernel.compact(*node),
        Step::Mount(mount) => kernel.mount(mount),
        Step::Unmount { path } => kernel.unmount(path),
    }
}

/// The running kernel, by the `/sys` and `/proc` below a root.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: Root,
}

impl Sysfs {
    /// The kernel whose `/sys` and `/proc` are below `root`.
    pub fn new(root: Root) -> Self {
        Sysfs { root }
    }

    fn pool(&self, node: NodeId, size: PageSize) -> PathBuf {
        let numa = self.root.join(format!("sys/devices/system/node/node{}/hugepages", node.0));
        let pools = if numa.is_dir() { numa } else { self.root.join("sys/kernel/mm/hugepages") };
        pools.join(size.directory())
    }
}

impl Kernel for Sysfs {
    fn observe(&self) -> Result<Have, ObserveError> {
        observe(&self.root)
    }

    fn set_pool(
        &mut self,
        node: NodeId,
        size: PageSize,
        pages: u64,
    ) -> Result<Outcome, ApplyError> {
        let path = self.pool(node, size).join("nr_hugepages");
        watching(&path, || write(&path, &pages.to_string()))
    }

    fn demote(&mut self, node: NodeId, size: PageSize, pages: u64) -> Result<Outcome, ApplyError> {
        let pool = self.pool(node, size);
        watching(&pool.join("nr_hugepages"), || write(&pool.join("demote"), &pages.to_string()))
    }

    fn drop_caches(&mut self) -> Result<Outcome, ApplyError> {
        // Only clean caches can be dropped (admin-guide/sysctl/vm).
        nix::unistd::sync();
        write(&self.root.join("proc/sys/vm/drop_caches"), "3").map(|()| Outcome::Changed)
    }

    fn compact(&mut self, node: NodeId) -> Result<Outcome, ApplyError> {
        let one = self.root.join(format!("sys/devices/system/node/node{}/compact", node.0));
        let all = self.root.join("proc/sys/vm/compact_memory");
        write(if one.exists() { &one } else { &all }, "1").map(|()| Outcome::Changed)
    }

    fn mount(&mut self, mount: &Mount) -> Result<Outcome, ApplyError> {
        let path = self.root.join(&mount.path);
        let fail = |source| ApplyError::Mount { path: path.clone(), source };
        if !mounts::is_usable(&mount.path) {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path")));
        }
        let there = self.observe().map_err(|error| fail(io::Error::other(error)))?.mounts;
        if mounts::plan(std::slice::from_ref(mount), &there).0.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        std::fs::create_dir_all(&path).map_err(fail)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = mounts::options(mount);
        nix::mount::mount(
            Some("hugetlbfs"),
            &path,
            Some("hugetlbfs"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|errno| fail(errno.into()))?;
        Ok(Outcome::Created)
    }

    fn unmount(&mut self, path: &Path) -> Result<Outcome, ApplyError> {
        let path = self.root.join(path);
        match nix::mount::umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(Outcome::Changed),
            // Not a mount point, or not there.
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(Outcome::Unchanged),
            Err(errno) => Err(ApplyError::Unmount { path, source: errno.into() }),
        }
    }
}

fn watching(
    path: &Path,
    act: impl FnOnce() -> Result<(), ApplyError>,
) -> Result<Outcome, ApplyError> {
    let read = || {
        std::fs::read_to_string(path)
            .map_err(|source| ApplyError::Read { path: path.to_path_buf(), source })
    };
    let before = read()?;
    act()?;
    Ok(if read()? == before { Outcome::Unchanged } else { Outcome::Changed })
}

/// One write(2), as the kernel's files want it.
fn write(path: &Path, value: &str) -> Result<(), ApplyError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file: File| file.write_all(value.as_bytes()))
        .map_err(|source| ApplyError::Write {
            path: path.to_path_buf(),
            value: value.to_string(),
            source,
        })
}
