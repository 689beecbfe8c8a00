//! Waiting for file descriptors until an [`Instant`], and waking a thread that does.

use nix::errno::Errno;
use nix::poll::{PollFd, ppoll};
use nix::sys::time::TimeSpec;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Until when to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn at(instant: Option<Instant>) -> Self {
        Deadline(instant)
    }

    fn timeout(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// Waits until one of `fds` is ready or the deadline has passed. ppoll(2) and not poll(2): a
/// millisecond is too coarse for sessions of 10 ms.
pub(crate) fn wait(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<()> {
    match ppoll(fds, deadline.timeout().map(TimeSpec::from_duration), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Wakes a thread that waits for it; waking twice is waking once.
#[derive(Debug)]
pub(crate) struct Wake {
    here: UnixStream,
    there: UnixStream,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        Ok(Wake { here, there })
    }

    pub(crate) fn wake(&self) {
        // Full means that it is awake anyway.
        let _ = (&self.there).write(&[1]);
    }

    pub(crate) fn clear(&self) {
        let mut sink = [0; 64];
        while matches!((&self.here).read(&mut sink), Ok(n) if n == sink.len()) {}
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }
}
