//! The file of the socket: in a directory that only root enters, never taken away from a device that
//! answers there, and in the end removed by nobody but who has made it.
//!
//! All network namespaces share the directory, so that two devices of one name may want the same.

use crate::wireguard::sys::register;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::Permissions;
use std::io::{
    self,
    ErrorKind::{AddrInUse, AlreadyExists, ConnectionRefused, NotFound, WouldBlock},
};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// How often the directory may be taken away under us.
const MOST_ATTEMPTS: u32 = 100;
/// What is to be done about a name that another one has.
const IN_USE: &str = "a device of this name answers there, perhaps one in another network namespace: \
                      end it, or choose another name or another directory";

/// A file that was made here.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    /// Device and inode. The listener keeps them from being used again.
    inode: (u64, u64),
}

/// Listens at `path` in `dir`; what an earlier process has left there is replaced.
///
/// # Errors
/// The kernel's, and `AddrInUse` where somebody answers.
pub(super) fn bind(dir: &Path, path: &Path) -> io::Result<(UnixListener, Bound)> {
    again(|| {
        make(dir)?;
        listen(path)
    })
}

impl Bound {
    /// Whether the file is still the one that was made.
    fn is_there(&self) -> bool {
        inode(&self.path).is_ok_and(|inode| inode == self.inode)
    }

    /// Removes the file, unless it is somebody else's by now.
    pub(super) fn remove(&self) {
        let path = self.path.display();
        if !self.is_there() {
            tracing::debug!(%path, "the socket was taken away");
        } else if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%path, %error, "socket left behind");
        }
    }

    /// Waits until the file is gone, or is another one.
    ///
    /// # Errors
    /// The kernel does not say so (inotify(7)).
    pub(super) async fn removed(&self) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // The inode lives as long as we listen; what changes when a name of it goes is its count.
        let changes = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        match inotify.add_watch(&self.path, changes) {
            Err(nix::errno::Errno::ENOENT) => return Ok(()),
            watch => watch?,
        };
        let events = register(OwnedFd::from(inotify))?;
        while self.is_there() {
            let mut ready = events.readable().await?;
            // What they are does not matter.
            let read = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut [0; 1024])?));
            if let Ok(read) = read {
                read?;
            }
        }
        Ok(())
    }
}

/// Whoever leaves the directory last may take it away, also just after it was made.
fn again<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..MOST_ATTEMPTS {
        match attempt() {
            Err(error) if matches!(error.kind(), NotFound | AlreadyExists) => {}
            done => return done,
        }
    }
    attempt()
}

/// 0700: the socket is not reachable for others in the moment before its mode is set.
fn make(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn listen(path: &Path) -> io::Result<(UnixListener, Bound)> {
    if answers(path)? {
        return Err(io::Error::new(AddrInUse, IN_USE));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let bound = Bound { path: path.to_path_buf(), inode: inode(path)? };
    Ok((listener, bound))
}

/// Whether somebody listens there.
fn answers(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // So many call that one more would have to wait.
        Err(error) if error.kind() == WouldBlock => Ok(true),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(false),
        Err(error) => Err(error),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// Binds while the directory is taken away `thefts` times, each between making it and
    /// using it.
    fn bind_among_thieves(thefts: u32) -> io::Result<(UnixListener, Bound)> {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("wireguard");
        let runtime = runtime();
        let _entered = runtime.enter();
        let mut left = thefts;
        again(|| {
            make(&dir)?;
            if let Some(fewer) = left.checked_sub(1) {
                left = fewer;
                std::fs::remove_dir(&dir)?;
            }
            listen(&dir.join("wg0.sock"))
        })
    }

    #[test]
    fn a_directory_that_others_take_away_is_made_again() {
        bind_among_thieves(0).unwrap();
        bind_among_thieves(MOST_ATTEMPTS - 1).unwrap();
    }

    #[test]
    fn a_directory_that_never_stays_is_an_error() {
        assert_eq!(bind_among_thieves(MOST_ATTEMPTS).unwrap_err().kind(), NotFound);
    }

    #[test]
    fn a_socket_that_answers_is_not_taken_away_and_one_that_was_left_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wg0.sock");
        let runtime = runtime();
        let _entered = runtime.enter();
        let (listener, first) = bind(dir.path(), &path).unwrap();
        for _ in 0..2 {
            let error = bind(dir.path(), &path).unwrap_err();
            assert_eq!(error.kind(), AddrInUse);
            assert!(error.to_string().contains("another name"), "{error}");
        }
        assert!(first.is_there());
        // As when it was killed.
        drop(listener);
        let (_listening, second) = bind(dir.path(), &path).unwrap();
        // As an earlier release took it.
        std::fs::remove_file(&path).unwrap();
        let (_listener, third) = bind(dir.path(), &path).unwrap();
        second.remove();
        assert!(third.is_there(), "it was not the second one's any more");
        third.remove();
        assert!(!path.exists());
    }

    #[test]
    fn who_waits_for_the_end_of_the_file_learns_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wg0.sock");
        runtime().block_on(async {
            for by_another_one in [false, true] {
                let (_listener, bound) = bind(dir.path(), &path).unwrap();
                let mut waiting = Box::pin(bound.removed());
                let soon = tokio::time::timeout(Duration::from_millis(1), &mut waiting).await;
                assert!(soon.is_err(), "it is there");
                // A change of another kind.
                std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                if by_another_one {
                    let other = dir.path().join("other");
                    drop(UnixListener::bind(&other).unwrap());
                    std::fs::rename(other, &path).unwrap();
                } else {
                    std::fs::remove_file(&path).unwrap();
                }
                let end = tokio::time::timeout(Duration::from_secs(10), waiting).await;
                end.unwrap().unwrap();
                bound.removed().await.unwrap();
            }
        });
    }
}
