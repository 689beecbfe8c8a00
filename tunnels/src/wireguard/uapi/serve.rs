//! Who may talk: connections are taken as they come, as many at a time as may be.

use super::conversation::{Common, Conversation};
use super::limits::Limits;
use crate::wireguard::device::WeakDevice;
use futures_util::FutureExt;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// After an error the next connection waits so long, and twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A listener that can also send away callers for whom there is no descriptor: while they wait, the
/// kernel wakes us for nothing, and they would wait for ever.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// Of no use but to be closed for a caller. None where somebody else was faster to take it.
    reserve: Option<OwnedFd>,
}

impl Door {
    /// Has a descriptor in reserve.
    ///
    /// # Errors
    /// There is none left.
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        let reserve = Some(another(&listener)?);
        Ok(Door { listener, reserve })
    }

    /// The next caller; none when it was sent away, or was none.
    ///
    /// # Errors
    /// accept(2)'s.
    async fn open(&mut self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept().await {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if is_out_of_descriptors(&error) => {
                let had_one = self.reserve.take().is_some();
                // Hung up on before the reserve is taken again, which needs its descriptor.
                // Without one the kernel does not even look whether somebody calls.
                let caller = self.listener.accept().now_or_never().map(|caller| caller.map(drop));
                self.reserve = another(&self.listener).ok();
                if !had_one {
                    return Err(error);
                }
                if caller.transpose()?.is_some() {
                    tracing::warn!(%error, "UAPI connection refused");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn another(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.as_fd().try_clone_to_owned()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Answers whoever connects, until it is aborted.
pub(super) async fn serve(mut door: Door, device: WeakDevice, limits: Limits) {
    let common = Arc::new(Common::new(device, limits));
    // Connections end with this task.
    let mut connections = JoinSet::new();
    let mut pause = PAUSE;
    loop {
        match door.open().await {
            Ok(stream) => {
                pause = PAUSE;
                while connections.try_join_next().is_some() {}
                let Some(stream) = stream else { continue };
                if connections.len() < limits.connections {
                    connections.spawn(converse(stream, Arc::clone(&common)));
                } else {
                    tracing::warn!("UAPI connection refused: there are too many");
                }
            }
            // Whoever called is gone, or somebody takes all descriptors as soon as they are free.
            Err(error) => {
                tracing::warn!(%error, "UAPI socket");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn converse(stream: UnixStream, common: Arc<Common>) {
    if let Err(error) = Conversation::new(stream, common).run().await {
        tracing::debug!(%error, "UAPI connection");
    }
}

#[cfg(test)]
mod tests;
