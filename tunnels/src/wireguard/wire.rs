//! What is sent when the kernel does not take it: once more, another way, one by one, or not at all.
//!
//! What cannot be sent is dropped, as IP may, and told at debug level. A datagram is never sent twice,
//! and those of one place stay in their order.

use super::outbox::{Fragments, Network, Run, Way};
use super::port::Port;
use super::unsplit::Unsplit;
use nix::errno::Errno;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the sending queue may take to have room again, before what does not fit is dropped.
const QUEUE_PATIENCE: Duration = Duration::from_millis(5);

/// What takes datagrams.
pub(super) trait Sender {
    /// Takes some of these runs, the first ones, each as one message that the kernel is to split;
    /// gives how many, at least one.
    ///
    /// # Errors
    /// What sendmmsg(2) says of the first.
    fn send_some(&self, memory: &[u8], runs: &[Run]) -> io::Result<usize>;

    /// Whether datagrams may be cut that are larger than the way is known to take; all from now on
    /// of the family of `to`.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    fn set_fragments(&self, to: IpAddr, allowed: bool) -> io::Result<()>;

    /// Waits until it takes more; false when it does not in this time.
    fn has_room(&self, patience: Duration) -> bool;
}

/// Sends runs of datagrams through a port.
#[derive(Debug)]
pub(super) struct Wire<P = Port> {
    pub(super) port: Arc<P>,
    /// To where the kernel takes no runs: the way has a smaller MTU, or no checksums of its own.
    unsplit: Unsplit,
    /// When this turn began.
    now: Instant,
    /// Whoever sends may wait for room once in a turn.
    has_waited: bool,
}

impl<P: Sender> Wire<P> {
    pub(super) fn new(port: Arc<P>) -> Self {
        Wire { port, unsplit: Unsplit::default(), now: Instant::now(), has_waited: false }
    }

    /// Called before each turn.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        self.has_waited = false;
    }

    /// Sends runs of which none is known to be refused.
    fn send_runs(&mut self, memory: &[u8], runs: &[Run]) {
        let mut rest = runs;
        while let Some(first) = rest.first() {
            let taken = match self.port.send_some(memory, rest) {
                Ok(taken) => {
                    for run in rest.iter().take(taken).filter(|run| is_run(run)) {
                        self.unsplit.passed(&run.way.to, run.segment);
                    }
                    taken.max(1)
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => 0,
                    Some(Errno::EAGAIN) if self.wait_for_room() => 0,
                    // To older kernels also what is larger than the way's MTU is invalid: what
                    // it is the first datagram shows.
                    Some(Errno::EINVAL)
                        if first.way.from.is_some()
                            && is_run(first)
                            && self.takes_first(memory, first) =>
                    {
                        tracing::debug!(to = %first.way.to, "a run is sent one by one");
                        self.unsplit.refused(first.way.to, first.segment, self.now);
                        let others: Vec<Run> = first.singles().skip(1).collect();
                        self.send_runs(memory, &others);
                        1
                    }
                    // Our address that the peer knows is gone, as after a new lease. It learns
                    // the next one by this very datagram.
                    Some(Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ENETUNREACH)
                        if first.way.from.is_some() =>
                    {
                        let way = Way { from: None, ..first.way };
                        self.send_runs(memory, &[first.by(way)]);
                        1
                    }
                    // Larger than the way's MTU as the kernel has learned it, or a way out that
                    // sums nothing up. One by one they may pass, if need be in fragments.
                    Some(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP)
                        if is_run(first) =>
                    {
                        tracing::debug!(to = %first.way.to, %error, "a run is sent one by one");
                        self.unsplit.refused(first.way.to, first.segment, self.now);
                        let singles: Vec<Run> = first.singles().collect();
                        self.send_runs(memory, &singles);
                        1
                    }
                    _ => {
                        let (to, bytes) = (first.way.to, first.range.len());
                        tracing::debug!(%to, bytes, %error, "datagrams not sent");
                        1
                    }
                },
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Sends the first datagram of a run alone.
    fn takes_first(&self, memory: &[u8], run: &Run) -> bool {
        let first: Vec<Run> = run.singles().take(1).collect();
        self.port.send_some(memory, &first).is_ok()
    }

    /// Sends a datagram that must not be cut, whatever the kernel has learned of the way; one that
    /// the way out itself does not take is lost. The socket has no such mark for a single datagram
    /// of IPv4, so it has it for the moment.
    fn send_whole(&mut self, memory: &[u8], run: &Run) {
        let to = run.way.to.ip();
        let sent = self
            .port
            .set_fragments(to, false)
            .and_then(|()| self.port.send_some(memory, std::slice::from_ref(run)));
        if let Err(error) = sent {
            tracing::debug!(to = %run.way.to, bytes = run.range.len(), %error, "not sent whole");
        }
        if let Err(error) = self.port.set_fragments(to, true) {
            tracing::warn!(%error, "datagrams stay whole from now on");
        }
    }

    /// Waits until the queue takes more, once in a turn: whoever else has something to do must not
    /// wait for a way out that stands still.
    fn wait_for_room(&mut self) -> bool {
        !std::mem::replace(&mut self.has_waited, true) && self.port.has_room(QUEUE_PATIENCE)
    }
}

impl<P: Sender> Network for Wire<P> {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        if runs.iter().any(|run| run.fragments == Fragments::Forbidden) {
            let (whole, others): (Vec<Run>, Vec<Run>) =
                runs.iter().cloned().partition(|run| run.fragments == Fragments::Forbidden);
            whole.iter().flat_map(Run::singles).for_each(|run| self.send_whole(memory, &run));
            return self.send(memory, &others);
        }
        if runs.iter().any(|run| self.unsplit.has(&run.way.to, self.now)) {
            let singles = |run: &Run| -> Vec<Run> {
                let known = self.unsplit.has(&run.way.to, self.now);
                if known { run.singles().collect() } else { vec![run.clone()] }
            };
            let runs: Vec<Run> = runs.iter().flat_map(singles).collect();
            self.send_runs(memory, &runs);
        } else {
            self.send_runs(memory, runs);
        }
    }
}

/// Whether the kernel is to split it.
fn is_run(run: &Run) -> bool {
    run.range.len() > run.segment
}

#[cfg(test)]
mod tests;
