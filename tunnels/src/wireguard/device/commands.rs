//! What others want of a device's thread.
//!
//! A change is sent and done between two turns; whoever wants an answer waits for it. A thread that
//! does not answer in time is silent, and nobody waits for a silent one; what it was sent it does
//! when it goes on.

use super::worker::Worker;
use super::{DeviceStatus, Shared, WeakDevice};
use crate::wireguard::engine::Engine;
use crate::wireguard::peer::PeerStatus;
use holdfast_api::tunnel::PublicKey;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the thread has for an answer. It does commands between turns, so that this is only
/// passed when something keeps it from running at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for whoever has other things to do.
const GLANCE: Duration = Duration::from_millis(50);
/// Peers that are changed or told by one command: packets wait no longer than for those.
pub(in crate::wireguard) const PEERS_AT_ONCE: usize = 64;

/// What the thread is to do with what it has.
pub(super) type Command = Box<dyn FnOnce(&mut Worker<'_>, Instant) + Send>;

/// As many as one command may be about at a time.
pub(super) fn chunks<T>(all: impl IntoIterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let mut all = all.into_iter();
    std::iter::from_fn(move || {
        let some: Vec<T> = all.by_ref().take(PEERS_AT_ONCE).collect();
        (!some.is_empty()).then_some(some)
    })
}

impl Shared {
    pub(super) fn tell(&self, command: Command) {
        // When the thread has ended nobody needs it any more.
        let _ = self.commands.send(command);
        self.wake.wake();
    }

    /// Has it done soon.
    pub(super) fn change(&self, work: impl FnOnce(&mut Engine, Instant) + Send + 'static) {
        self.tell(Box::new(move |worker, now| work(&mut worker.engine, now)));
    }

    /// None when the thread has ended, or does not come to it.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.ask_for(work)?.recv_timeout(PATIENCE);
        if matches!(answer, Err(mpsc::RecvTimeoutError::Timeout)) {
            self.fall_silent();
        }
        answer.ok()
    }

    /// The same without patience; a thread that is only slow is not silent.
    pub(super) fn glance<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask_for(work)?.recv_timeout(GLANCE).ok()
    }

    /// Where the answer comes; none from a silent thread.
    fn ask_for<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<mpsc::Receiver<T>> {
        if self.is_silent() {
            return None;
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.tell(Box::new(move |worker, now| {
            // Who asked may have lost patience.
            let _ = answer.send(work(&mut worker.engine, now));
        }));
        Some(answered)
    }

    fn is_silent(&self) -> bool {
        let is_silent = self.is_silent.load(Ordering::Acquire);
        if is_silent {
            // If it goes on it says so.
            self.wake.wake();
        }
        is_silent
    }

    fn fall_silent(&self) {
        tracing::warn!(link = self.name, "a WireGuard device does not answer");
        self.is_silent.store(true, Ordering::Release);
    }

    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let mut all: Vec<PeerStatus> = Vec::new();
        loop {
            let after = all.last().map(|last| last.public_key);
            match self.ask(move |engine, now| some_behind(engine, after, now)) {
                Some(some) if !some.is_empty() => all.extend(some),
                _ => return all,
            }
        }
    }
}

impl WeakDevice {
    /// Has the thread run `work` with the engine; none when it is gone or does not answer. Whoever
    /// calls does other things meanwhile. Needs a tokio runtime.
    pub(in crate::wireguard) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = self.0.upgrade()?;
        if shared.is_silent() {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        shared.tell(Box::new(move |worker, now| {
            let _ = answer.send(work(&mut worker.engine, now));
        }));
        let answer = tokio::time::timeout(PATIENCE, answered).await;
        answer.inspect_err(|_| shared.fall_silent()).ok()?.ok()
    }

    /// What can be said about some peers behind `after`, none for the first ones; nobody is behind
    /// the last. None when it is gone or does not answer.
    pub(in crate::wireguard) async fn peers_behind(
        &self,
        after: Option<PublicKey>,
    ) -> Option<Vec<PeerStatus>> {
        self.ask(move |engine, now| some_behind(engine, after, now)).await
    }

    /// Tells about the peers behind those that are known, and then `told`.
    pub(super) fn gather(
        self,
        mut peers: Vec<PeerStatus>,
        told: Box<dyn FnOnce(DeviceStatus) + Send>,
    ) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.tell(Box::new(move |worker, now| {
            let after = peers.last().map(|last| last.public_key);
            let before = peers.len();
            peers.extend(worker.engine.statuses(after, now).take(PEERS_AT_ONCE));
            if peers.len() - before == PEERS_AT_ONCE {
                return self.gather(peers, told);
            }
            told(DeviceStatus { peers, handshakes: worker.engine.handshakes() });
        }));
    }
}

/// All at once: what is moved to grow leaves keys behind.
fn some_behind(engine: &Engine, after: Option<PublicKey>, now: Instant) -> Vec<PeerStatus> {
    let mut some = Vec::with_capacity(PEERS_AT_ONCE);
    some.extend(engine.statuses(after, now).take(PEERS_AT_ONCE));
    some
}
