//! From "this tunnel is down" to the kernel's new nexthop group, in one thread and under one
//! lock: the BFD thread calls [`Liveness`], which runs the failover machine and sends the one
//! message. Nothing else writes the group's member.

use super::kernel::KernelNetwork;
use super::tunnel::TunnelId;
use crate::bfd::{Change, Follower, State};
use crate::failover::{Failover, Switch, Why};
use crate::names::{GROUP, NOWHERE, nexthop};
use netd::Nexthop;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A switch that was carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Switched {
    /// From where to where, and why.
    pub(super) switch: Switch<TunnelId>,
    /// From the decision to the kernel's confirmation.
    pub(super) took: Duration,
    /// When.
    pub(super) at: Instant,
}

/// What the BFD thread tells the rest of the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A session changed its state.
    Session(TunnelId, Change),
    /// Packets up to so many bytes pass; none: as many as usual.
    PathMtu(TunnelId, Option<u16>),
    /// Traffic moved.
    Switched(Switched),
    /// The kernel did not take a switch; the network has to be looked at.
    Refused,
}

struct Inner {
    failover: Failover<TunnelId>,
    kernel: Box<dyn KernelNetwork>,
    switches: u64,
    /// Times that a session changed its state.
    changes: u64,
    /// Times that the kernel took a member of the group.
    writes: u64,
    last: Option<Switched>,
    events: UnboundedSender<Event>,
}

/// What became of the group at [`Liveness::assert_group`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// It had the member that it should have.
    Right,
    /// It had another one, and was put right.
    Mended,
    /// It was written since it was seen: what was seen says nothing.
    Stale,
}

/// The failover machine with its hand on the kernel.
#[derive(Clone)]
pub(super) struct Liveness(Arc<Mutex<Inner>>);

impl Liveness {
    /// Over a conversation with the kernel of its own, so that a long dump never delays it.
    pub(super) fn new(kernel: Box<dyn KernelNetwork>, events: UnboundedSender<Event>) -> Self {
        let failover = Failover::default();
        let inner =
            Inner { failover, kernel, switches: 0, changes: 0, writes: 0, last: None, events };
        Liveness(Arc::new(Mutex::new(inner)))
    }

    /// Says which tunnels there are, the preferred first. Traffic has left those that are gone
    /// when this returns.
    pub(super) fn set(&self, preferred: &[TunnelId], now: Instant) {
        let mut inner = self.lock();
        let switch = inner.failover.set(preferred, now);
        inner.carry_out(switch);
    }

    /// Says whether a tunnel is up.
    pub(super) fn report(&self, tunnel: TunnelId, up: bool, now: Instant) {
        let mut inner = self.lock();
        let switch = inner.failover.report(tunnel, up, now);
        inner.carry_out(switch);
    }

    /// How often a session changed so far: for [`Liveness::repeat`], asked before the sessions are.
    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Says once more which tunnels are up, as it was seen after so many `changes`. Nothing is done,
    /// and the answer is no, when a session changed since.
    pub(super) fn repeat(&self, seen: &[(TunnelId, bool)], changes: u64, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.changes != changes {
            return false;
        }
        for (tunnel, up) in seen {
            let switch = inner.failover.report(*tunnel, *up, now);
            inner.carry_out(switch);
        }
        true
    }

    /// Where traffic goes.
    pub(super) fn active(&self) -> Option<TunnelId> {
        self.lock().failover.active()
    }

    /// Switches so far, and the last one.
    pub(super) fn switches(&self) -> (u64, Option<Switched>) {
        let inner = self.lock();
        (inner.switches, inner.last)
    }

    /// How often the group was written: for [`Liveness::assert_group`], asked before the look.
    pub(super) fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Puts the group right when the kernel had another member, `seen` by a look that began after
    /// so many `writes`.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn assert_group(
        &self,
        seen: Option<&Nexthop>,
        writes: u64,
    ) -> Result<Group, netd::TalkError> {
        let mut inner = self.lock();
        if inner.writes != writes {
            return Ok(Group::Stale);
        }
        let to = inner.failover.active();
        if seen == Some(&Nexthop::active(GROUP, member(to))) {
            return Ok(Group::Right);
        }
        inner.write(to).map(|()| Group::Mended)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn member(tunnel: Option<TunnelId>) -> u32 {
    tunnel.map_or(NOWHERE, |tunnel| nexthop(tunnel.slot))
}

impl Inner {
    fn write(&mut self, to: Option<TunnelId>) -> Result<(), netd::TalkError> {
        self.kernel.replace_nexthop(&Nexthop::active(GROUP, member(to)))?;
        self.writes += 1;
        Ok(())
    }

    /// Carries a switch out; a tunnel that the kernel does not take counts as down, and the
    /// next one is tried.
    fn carry_out(&mut self, mut switch: Option<Switch<TunnelId>>) {
        while let Some(now) = switch {
            let start = Instant::now();
            let result = self.write(now.to);
            let took = start.elapsed();
            // Where traffic settles at the start is nothing that failed over.
            self.switches += u64::from(now.from.is_some() && now.why != Why::Preferred);
            match result {
                Ok(()) => {
                    let switched = Switched { switch: now, took, at: start };
                    self.last = Some(switched);
                    let _ = self.events.send(Event::Switched(switched));
                    return;
                }
                Err(error) => {
                    tracing::error!(to = ?now.to, %error, "the kernel did not move traffic");
                    let _ = self.events.send(Event::Refused);
                    switch = now.to.and_then(|to| self.failover.report(to, false, start));
                }
            }
        }
    }
}

impl Follower<TunnelId> for Liveness {
    fn changed(&mut self, key: &TunnelId, change: Change, now: Instant) {
        let mut inner = self.lock();
        inner.changes += 1;
        let switch = inner.failover.report(*key, change.to == State::Up, now);
        inner.carry_out(switch);
        let _ = inner.events.send(Event::Session(*key, change));
    }

    fn path_mtu(&mut self, key: &TunnelId, mtu: Option<u16>) {
        let _ = self.lock().events.send(Event::PathMtu(*key, mtu));
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let switch = inner.failover.tick(now);
        inner.carry_out(switch);
        inner.failover.wake_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bfd::Diag;
    use crate::daemon::fake::FakeKernel;
    use tokio::sync::mpsc::unbounded_channel;

    const ONE: TunnelId = TunnelId { serial: 1, slot: 0 };
    const UP: Change = Change { from: State::Init, to: State::Up, diag: Diag::NONE };

    /// Whoever read the sessions before one of them changed knows less than liveness does.
    #[test]
    fn what_was_seen_before_a_change_is_not_repeated_after_it() {
        let kernel = FakeKernel::default();
        for member in [nexthop(ONE.slot), NOWHERE] {
            let member = Nexthop::dev(member, netd::Family::V4, "hf-wg0".parse().unwrap());
            kernel.lock().have.ours.nexthops.insert(member);
        }
        let (tell, _events) = unbounded_channel();
        let mut liveness = Liveness::new(Box::new(kernel), tell);
        let now = Instant::now();
        liveness.set(&[ONE], now);
        let before = liveness.changes();
        liveness.changed(&ONE, UP, now);
        assert!(!liveness.repeat(&[(ONE, false)], before, now));
        assert_eq!(liveness.active(), Some(ONE));
        assert!(liveness.repeat(&[(ONE, false)], liveness.changes(), now));
        assert_eq!(liveness.active(), None);
        assert!(liveness.repeat(&[(ONE, true)], liveness.changes(), now));
        assert_eq!(liveness.active(), Some(ONE));
    }
}
