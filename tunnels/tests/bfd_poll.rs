//! The kernel cannot wait for the sockets of BFD for a while. The limit is of the whole process, so
//! this is a program of its own.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tunnels::bfd::{Change, Follower, Service};

const PATIENCE: Duration = Duration::from_secs(20);

/// Tells of each turn.
struct Turns(Sender<Instant>);

impl Follower<()> for Turns {
    fn changed(&mut self, (): &(), _change: Change, _now: Instant) {}

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let _ = self.0.send(now);
        None
    }
}

/// Waits for a turn that began after this call.
fn takes_a_turn(service: &Service<()>, turns: &Receiver<Instant>) {
    let since = Instant::now();
    service.wake();
    while turns.recv_timeout(PATIENCE).unwrap() < since {}
}

#[test]
fn the_thread_goes_on_when_the_kernel_cannot_wait_for_its_sockets() {
    let (tell, turns) = channel();
    let service = Service::start(1, Turns(tell)).unwrap();
    takes_a_turn(&service, &turns);

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // EINVAL for more descriptors than the limit, ppoll(2); open ones stay.
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let input = std::io::stdin();
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Err(Errno::EINVAL));
    for _ in 0..3 {
        takes_a_turn(&service, &turns);
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    takes_a_turn(&service, &turns);
}
