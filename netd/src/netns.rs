//! Network namespaces by name, as ip-netns(8) keeps them: a file below `/run/netns` that is a
//! bind mount of the namespace.
//!
//! Work inside one is done on a thread of its own, so that the caller's namespace never
//! changes, whatever happens inside. Removing is the owner's affair: a [`NetNs`] that was
//! created is deleted when it is dropped, one that was only opened stays.

use holdfast_api::Reason;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/netns";

/// Why a namespace could not be made, opened, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} the network namespace {}", path.display())]
pub struct NetNsError {
    /// "create", "open", "enter", "delete".
    pub attempt: &'static str,
    /// Its file.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetNsError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => Reason::NetPermission,
            io::ErrorKind::AlreadyExists => Reason::NetConflict,
            _ => Reason::NetApplyFailed,
        }
    }
}

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    path: PathBuf,
    file: File,
    delete_on_drop: bool,
}

impl NetNs {
    /// Makes the namespace `/run/netns/<name>`, with its loopback link still down. It is
    /// deleted on drop unless [`NetNs::keep`] says otherwise; what runs in it keeps it alive,
    /// nameless, until it ends.
    ///
    /// # Errors
    /// The name is taken or no file name, or the rights are missing (CAP_SYS_ADMIN).
    pub fn create(name: &str) -> Result<Self, NetNsError> {
        let path = path_of("create", name)?;
        let fail = |source| NetNsError { attempt: "create", path: path.clone(), source };
        share_directory().map_err(fail)?;
        OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
        let made = on_thread(&path, "create", || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // The thread's own entry, not the process': the rest of the process stays outside.
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)?;
            Ok(())
        });
        match made.and_then(|made| made.map_err(fail)).and_then(|()| Self::open_at(&path)) {
            Ok(mut namespace) => {
                namespace.delete_on_drop = true;
                Ok(namespace)
            }
            Err(error) => {
                // The first failure is the one to report.
                let _ = remove(&path);
                Err(error)
            }
        }
    }

    /// Opens the namespace `/run/netns/<name>`, which stays when this is dropped.
    ///
    /// # Errors
    /// It is not there, or the rights are missing.
    pub fn open(name: &str) -> Result<Self, NetNsError> {
        Self::open_at(&path_of("open", name)?)
    }

    /// Opens a namespace by its file, for example `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// As [`NetNs::open`].
    pub fn open_at(path: &Path) -> Result<Self, NetNsError> {
        let file = File::open(path).map_err(|source| NetNsError {
            attempt: "open",
            path: path.to_path_buf(),
            source,
        })?;
        Ok(NetNs { path: path.to_path_buf(), file, delete_on_drop: false })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the namespace where it is when this is dropped.
    pub fn keep(mut self) {
        self.delete_on_drop = false;
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets and files that it
    /// opens stay in the namespace; processes that it starts run in it.
    ///
    /// # Errors
    /// The namespace cannot be entered. What `work` answers is handed on as it is.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        on_thread(&self.path, "enter", || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work())
        })?
        .map_err(|errno| self.fail("enter", errno.into()))
    }

    /// Deletes it now, and says when that fails.
    ///
    /// # Errors
    /// The mount or the file cannot be removed.
    pub fn delete(mut self) -> Result<(), NetNsError> {
        self.delete_on_drop = false;
        remove(&self.path).map_err(|source| self.fail("delete", source))
    }

    fn fail(&self, attempt: &'static str, source: io::Error) -> NetNsError {
        NetNsError { attempt, path: self.path.clone(), source }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.delete_on_drop
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "network namespace left behind");
        }
    }
}

fn path_of(attempt: &'static str, name: &str) -> Result<PathBuf, NetNsError> {
    let path = Path::new(DIRECTORY).join(name);
    if name.is_empty() || name.starts_with('.') || name.contains('/') || name.len() > 255 {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "its name is no file name");
        return Err(NetNsError { attempt, path, source });
    }
    Ok(path)
}

/// Makes `/run/netns` a shared mount, as ip-netns(8) does, so that a namespace that is deleted
/// here vanishes from other mount namespaces as well and does not stay alive in them.
fn share_directory() -> io::Result<()> {
    let none: Option<&str> = None;
    fs::create_dir_all(DIRECTORY)?;
    // Two of us at once would mount twice, and the second mount would hide the first's
    // namespaces. The lock is that of the directory below, which a bind mount does not change.
    let _alone = Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))?;
    let share = || mount(none, DIRECTORY, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if share().is_err() {
        // It is no mount point yet.
        mount(Some(DIRECTORY), DIRECTORY, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        share()?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    // EINVAL: it was never mounted, or is not any more.
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn on_thread<T: Send>(
    path: &Path,
    attempt: &'static str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetNsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|source| NetNsError { attempt, path: path.to_path_buf(), source })?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
