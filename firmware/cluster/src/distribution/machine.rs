//! When the distribution is started, stopped and started again. Pure: it is told what happened
//! and when, and answers what to do.
//!
//! ```text
//!            Wanted              Probe: ready
//!  Off ─────────────▶ Starting ───────────────▶ Ready ◀──────────────┐
//!   ▲     Adopted        │  ▲                    │ two probes fail   │ Probe: ready
//!   │                    │  │ Tick: pause over   ▼                   │
//!   │             Exited │  └───────── Backoff ◀─Exited── NotReady ──┘
//!   │                    └─────────────▶ ▲
//!   │ Exited                             │ Exited, after Doomed
//!   └──────────────── Stopping ◀── Unwanted, Restart (from whatever runs), Doomed (from Starting)
//!                        └──▶ Starting: Exited, after Restart
//! ```
//!
//! A process that runs and is not ready is left alone, for k3s ends by itself when a part of it
//! fails, and a slow disk is no reason to begin anew; the exception is one that never was ready and
//! whose log says that it will not be ([`Event::Doomed`]). What was ready had its ports, its
//! configuration and its datastore, and ends by itself when it loses one.
//! Left out: why it failed ([`super::diagnose`]) and what has to be done ([`super::service`]).

use holdfast_api::kubernetes::KubernetesPhase;
use std::time::{Duration, Instant};

/// The pause after the first failure. Long enough that ports and mounts are free again.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: an operator who has mended something waits no longer than this.
pub const LAST_PAUSE: Duration = Duration::from_secs(60);
/// So long ready, and what failed before counts no more.
pub const GOOD_STRETCH: Duration = Duration::from_secs(300);
/// The time it has to end by itself; k3s' own unit gives systemd's usual 90 s, and etcd is done
/// within a few.
pub const GRACE: Duration = Duration::from_secs(45);
/// Between two attempts to end it by force: a process in uninterruptible sleep takes its time.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// Probes that must fail in a row: one may be lost when the machine is busy.
const MISSES: u32 = 2;

/// Where the distribution is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// None runs and none is wanted.
    #[default]
    Off,
    /// It runs, or is about to, and was not ready yet.
    Starting {
        /// Of the start.
        since: Instant,
        /// In a row, before this start.
        failures: u32,
    },
    /// It runs and is ready.
    Ready {
        /// Of being ready.
        since: Instant,
        /// In a row, before this start.
        failures: u32,
        /// Probes that failed in a row.
        misses: u32,
    },
    /// It runs and is not ready any more.
    NotReady {
        /// Of that.
        since: Instant,
        /// In a row, before this start.
        failures: u32,
    },
    /// It ended; the next start waits.
    Backoff {
        /// The next start.
        until: Instant,
        /// In a row.
        failures: u32,
    },
    /// It was told to end.
    Stopping {
        /// When it is ended by force.
        kill_at: Instant,
        /// What comes then.
        then: Then,
    },
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Off,
    /// A start at once.
    Start,
    /// A start after a pause.
    Pause {
        /// In a row, before this one.
        failures: u32,
    },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// It shall run.
    Wanted,
    /// It shall not run.
    Unwanted,
    /// It shall run with something else than it does.
    Restart,
    /// A process of an earlier manager was found running.
    Adopted,
    /// Its process ended, or could not be started.
    Exited {
        /// 0 to 1, at random: nodes of a site must not all start at once.
        jitter: f64,
    },
    /// It runs and says that it will never be ready.
    Doomed,
    /// It was asked whether it is ready.
    Probe {
        /// Its answer.
        ready: bool,
    },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Start,
    /// Ask it to end (SIGTERM).
    Stop,
    /// End it (SIGKILL).
    Kill,
}

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    state: State,
}

impl Machine {
    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What happened, and what to do about it.
    pub fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        use Event::{Adopted, Doomed, Exited, Probe, Restart, Tick, Unwanted, Wanted};
        let starting = |failures| State::Starting { since: now, failures };
        let stopping = |then| State::Stopping { kill_at: now + GRACE, then };
        let (next, action) = match (self.state, event) {
            (State::Off, Wanted) => (starting(0), Some(Action::Start)),
            (State::Off, Adopted) => (starting(0), None),
            (State::Off, Unwanted | Restart | Exited { .. } | Doomed | Probe { .. } | Tick) => {
                (State::Off, None)
            }

            (State::Starting { .. } | State::Ready { .. } | State::NotReady { .. }, Unwanted) => {
                (stopping(Then::Off), Some(Action::Stop))
            }
            (State::Starting { .. } | State::Ready { .. } | State::NotReady { .. }, Restart) => {
                (stopping(Then::Start), Some(Action::Stop))
            }
            (
                State::Starting { failures, .. } | State::NotReady { failures, .. },
                Exited { jitter },
            ) => (backoff(failures, jitter, now), None),
            (State::Ready { since, failures, .. }, Exited { jitter }) => {
                let earlier = if now.duration_since(since) >= GOOD_STRETCH { 0 } else { failures };
                (backoff(earlier, jitter, now), None)
            }
            (State::Starting { failures, .. }, Doomed) => {
                (stopping(Then::Pause { failures }), Some(Action::Stop))
            }
            (same @ State::NotReady { .. }, Doomed) => (same, None),
            (
                State::Starting { failures, .. } | State::NotReady { failures, .. },
                Probe { ready: true },
            ) => (State::Ready { since: now, failures, misses: 0 }, None),
            (
                same @ (State::Starting { .. } | State::NotReady { .. }),
                Probe { ready: false } | Wanted | Adopted | Tick,
            ) => (same, None),
            (State::Ready { since, failures, .. }, Probe { ready: true }) => {
                (State::Ready { since, failures, misses: 0 }, None)
            }
            (State::Ready { failures, misses, .. }, Probe { ready: false })
                if misses + 1 >= MISSES =>
            {
                (State::NotReady { since: now, failures }, None)
            }
            (State::Ready { since, failures, misses }, Probe { ready: false }) => {
                (State::Ready { since, failures, misses: misses + 1 }, None)
            }
            // What an old log says counts less than an API server that answers.
            (same @ State::Ready { .. }, Wanted | Adopted | Doomed | Tick) => (same, None),

            (State::Backoff { .. }, Unwanted) => (State::Off, None),
            // What is new may be what was missing.
            (State::Backoff { failures, .. }, Restart) => (starting(failures), Some(Action::Start)),
            (State::Backoff { failures, .. }, Adopted) => (starting(failures), None),
            (State::Backoff { until, failures }, Tick) if now >= until => {
                (starting(failures), Some(Action::Start))
            }
            (
                same @ State::Backoff { .. },
                Tick | Wanted | Exited { .. } | Doomed | Probe { .. },
            ) => (same, None),

            (State::Stopping { then: Then::Off, .. }, Exited { .. }) => (State::Off, None),
            (State::Stopping { then: Then::Start, .. }, Exited { .. }) => {
                (starting(0), Some(Action::Start))
            }
            (State::Stopping { then: Then::Pause { failures }, .. }, Exited { jitter }) => {
                (backoff(failures, jitter, now), None)
            }
            (State::Stopping { kill_at, .. }, Unwanted) => {
                (State::Stopping { kill_at, then: Then::Off }, None)
            }
            (State::Stopping { kill_at, then: Then::Off }, Wanted)
            | (State::Stopping { kill_at, then: Then::Pause { .. } }, Restart) => {
                (State::Stopping { kill_at, then: Then::Start }, None)
            }
            (State::Stopping { kill_at, then }, Tick) if now >= kill_at => {
                (State::Stopping { kill_at: now + KILL_AGAIN, then }, Some(Action::Kill))
            }
            (
                same @ State::Stopping { .. },
                Wanted | Restart | Adopted | Doomed | Probe { .. } | Tick,
            ) => (same, None),
        };
        self.state = next;
        action
    }

    /// When [`Event::Tick`] could change anything.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Backoff { until, .. } => Some(until),
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::Off | State::Starting { .. } | State::Ready { .. } | State::NotReady { .. } => {
                None
            }
        }
    }

    /// Whether a process is there, as far as is known.
    pub fn runs(&self) -> bool {
        match self.state {
            State::Starting { .. }
            | State::Ready { .. }
            | State::NotReady { .. }
            | State::Stopping { .. } => true,
            State::Off | State::Backoff { .. } => false,
        }
    }

    /// In the words of the report.
    pub fn phase(&self) -> KubernetesPhase {
        match self.state {
            State::Off => KubernetesPhase::Off,
            State::Starting { .. } => KubernetesPhase::Starting,
            State::Ready { .. } => KubernetesPhase::Ready,
            State::NotReady { .. } | State::Stopping { .. } => KubernetesPhase::NotReady,
            State::Backoff { .. } => KubernetesPhase::Backoff,
        }
    }
}

/// Twice as long each time, less up to a half by chance.
fn backoff(earlier: u32, jitter: f64, now: Instant) -> State {
    let longest = FIRST_PAUSE.saturating_mul(1 << earlier.min(16)).min(LAST_PAUSE);
    let pause = longest.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
    State::Backoff { until: now + pause, failures: earlier.saturating_add(1) }
}

#[cfg(test)]
mod tests;
