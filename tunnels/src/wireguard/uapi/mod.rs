//! The configuration protocol of userspace WireGuard, so that wg(8) works on a [`Device`]
//! (wireguard.com/xplatform).
//!
//! [`Listener`] is the Unix socket `<dir>/<link>.sock` with mode 0600 in a directory that only
//! root enters: whoever may connect can read the private key. Requests are `get=1` and
//! `set=1`, ended by an empty line. An answer ends with `errno=-N`.
//!
//! Fails: making the socket, for the caller to report; a request that makes no sense changes
//! nothing and is answered with its error number. A device that ends or falls silent while it is
//! asked is an error as well, never a shorter list.

mod apply;
mod conversation;
mod limits;
mod request;
mod secret;
mod serve;
mod show;
mod socket;

pub(super) use apply::apply_peers as apply_to;
pub use request::{Change, Request, parse};

use super::device::Device;
use limits::Limits;
use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

/// The device ended while it was asked, or does not answer.
const GONE: Errno = Errno::ENODEV;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot offer the WireGuard device at {}", path.display())]
pub struct ListenError {
    /// The socket.
    pub path: PathBuf,
    /// The kernel's answer, or that another device answers there.
    #[source]
    pub source: io::Error,
}

/// A device that wg(8) can see. When this is dropped the socket is removed.
#[derive(Debug)]
pub struct Listener {
    bound: socket::Bound,
    task: JoinHandle<()>,
}

impl Listener {
    /// Offers `device` as `<dir>/<link>.sock`; a socket that is left of an earlier process is
    /// replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// The directory or the socket cannot be made, or another device of this name answers there.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ListenError> {
        let path = dir.join(format!("{}.sock", device.name()));
        let (listener, bound) = socket::bind(dir, &path)
            .map_err(|source| ListenError { path: path.clone(), source })?;
        let door = serve::Door::new(listener).map_err(|source| {
            bound.remove();
            ListenError { path, source }
        })?;
        let task = tokio::spawn(serve::serve(door, device.downgrade(), Limits::default()));
        Ok(Listener { bound, task })
    }

    /// Waits until somebody removes the socket, which is a way to end a device
    /// (wireguard.com/xplatform). Where the kernel does not tell it waits for ever.
    pub async fn removed(&self) {
        if let Err(error) = self.bound.removed().await {
            tracing::warn!(%error, "nobody would notice that the socket was removed");
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // As long as it listens, nobody else's file has the same inode.
        self.bound.remove();
        self.task.abort();
    }
}
