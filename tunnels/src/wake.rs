//! Waiting for file descriptors until an [`Instant`], and waking a thread that does.

use nix::errno::Errno;
use nix::poll::{PollFd, ppoll};
use nix::sys::time::TimeSpec;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
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
    is_pending: AtomicBool,
    here: UnixStream,
    there: UnixStream,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        Ok(Wake { is_pending: AtomicBool::new(false), here, there })
    }

    pub(crate) fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            // Full means that it is awake anyway.
            let _ = (&self.there).write(&[1]);
        }
    }

    /// Whether it was woken since the last time. `is_ready` is what poll said of it, false where it
    /// was not asked; then this costs no system call.
    pub(crate) fn take(&self, is_ready: bool) -> bool {
        // Before the flag: who wakes after that writes again. Who is late to write wakes once more
        // for nothing, and that is taken away here, too.
        if is_ready {
            let mut sink = [0; 64];
            while matches!((&self.here).read(&mut sink), Ok(n) if n == sink.len()) {}
        }
        self.is_pending.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::PollFlags;

    fn is_ready(wake: &Wake) -> bool {
        let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        wait(&mut fds, Deadline::at(Some(Instant::now()))).unwrap();
        fds[0].any().unwrap()
    }

    #[test]
    fn who_is_late_to_write_wakes_once_and_not_for_ever() {
        let wake = Wake::new().unwrap();
        // Between the two halves of `wake`, the other side looks.
        assert!(!wake.is_pending.swap(true, Ordering::AcqRel));
        assert!(wake.take(is_ready(&wake)));
        let _ = (&wake.there).write(&[1]).unwrap();
        assert!(is_ready(&wake));
        assert!(!wake.take(true), "nothing new");
        assert!(!is_ready(&wake), "and it is over");
    }

    #[test]
    fn whoever_wakes_is_noticed() {
        let wake = std::sync::Arc::new(Wake::new().unwrap());
        let count = 2000;
        let woken = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let thread = {
            let (wake, woken) = (wake.clone(), woken.clone());
            std::thread::spawn(move || {
                for _ in 0..count {
                    woken.fetch_add(1, Ordering::Release);
                    wake.wake();
                }
            })
        };
        let mut seen = 0;
        while seen < count {
            let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            let end = Instant::now() + Duration::from_secs(10);
            wait(&mut fds, Deadline::at(Some(end))).unwrap();
            assert!(Instant::now() < end, "asleep at {seen}");
            let ready = fds[0].any().unwrap();
            wake.take(ready);
            seen = woken.load(Ordering::Acquire);
        }
        thread.join().unwrap();
    }
}
