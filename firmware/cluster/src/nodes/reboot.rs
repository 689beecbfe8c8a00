//! A node's own way through a reboot, or an upgrade of its Kubernetes: lock, drain, work, back.
//!
//! ```text
//!  Idle ─want─► Asking ─granted─► Going ─booted, or done─► Returning ─granted─► Idle
//!                 │ ▲                │ begun anew by another process, same boot
//!                 │ └────────────────┘
//!                 └─ cancelled, or the deadline is over ─► Returning (with why)
//! ```
//!
//! In `Asking`, `pre-reboot` is asked until it is granted; in `Going` the caller does what the
//! lock was wanted for; in `Returning`, `steady-state` is asked until it is granted. The server
//! drains and uncordons ([`super::service`]).
//!
//! [`Reboot`] is pure; [`Journal`] keeps its state on disk, written before what follows from it is
//! done. So a process killed anywhere, and a power cut, end in the same place: whether the machine
//! rebooted is told by its boot id, a grant is asked for again before it is used by another
//! process, and each request may be repeated. No time is kept on disk, so no clock can spoil it;
//! the deadline begins anew with the process. A journal that cannot be read counts as `Returning`:
//! saying once too often that all is well costs nothing, keeping the lock would stop the site.

use super::refusal::{Kind, Refusal};
use holdfast_api::Reason;
use holdfast_durable::{Loaded, SlotError, Slots};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the lock is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purpose {
    /// The machine reboots. It is over when the boot id is another one.
    Reboot,
    /// The distribution is replaced and started again. It is over when the caller says so.
    Upgrade,
}

/// Where it is. This is what the journal holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum State {
    /// Nothing is wanted.
    #[default]
    Idle,
    /// The lock is asked for; also while the node is drained.
    Asking {
        /// What for.
        purpose: Purpose,
        /// The boot in which it began.
        boot: String,
    },
    /// The lock is held and the node drained: the caller goes ahead.
    Going {
        /// With what.
        purpose: Purpose,
        /// The boot in which it began.
        boot: String,
    },
    /// The node says that it is steady.
    Returning {
        /// Why it came to nothing, if it did.
        failed: Option<Reason>,
    },
}

/// How patient a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebootSettings {
    /// How long the lock is asked for. Long: others may be before us, each with drain and boot.
    pub deadline: Duration,
    /// The longest pause between two requests.
    pub pause_most: Duration,
}

impl Default for RebootSettings {
    fn default() -> Self {
        RebootSettings {
            deadline: Duration::from_secs(2 * 3600),
            pause_most: Duration::from_secs(60),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants the lock. Ignored while it is wanted already.
    Want(Purpose),
    /// It is not wanted any more. What is under way ([`State::Going`]) is given up as well.
    Cancel,
    /// The answer to [`Next::PreReboot`].
    PreReboot(Result<(), Refusal>),
    /// The caller is done with an upgrade, or could not reboot.
    Done,
    /// The answer to [`Next::SteadyState`].
    SteadyState(Result<(), Refusal>),
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Nothing before this moment.
    Wait(Instant),
    /// Ask `pre-reboot` and tell the answer.
    PreReboot,
    /// Go ahead. Said until the machine has rebooted, or the caller is done.
    Go(Purpose),
    /// Ask `steady-state` and tell the answer.
    SteadyState,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Reboot {
    state: State,
    boot: String,
    settings: RebootSettings,
    again: Instant,
    pause: Duration,
    until: Instant,
    refusal: Option<Refusal>,
}

/// The first pause between two requests; doubles. Short, for a drain is mostly over in seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

impl Reboot {
    /// The machine as an earlier process left it, in the boot `boot`
    /// (`/proc/sys/kernel/random/boot_id`).
    pub fn resume(state: State, boot: &str, settings: RebootSettings, now: Instant) -> Self {
        let state = match state {
            State::Asking { boot: then, .. } | State::Going { boot: then, .. } if then != boot => {
                State::Returning { failed: None }
            }
            State::Going { purpose, boot } => State::Asking { purpose, boot },
            same @ (State::Idle | State::Asking { .. } | State::Returning { .. }) => same,
        };
        Reboot {
            state,
            boot: boot.into(),
            settings,
            again: now,
            pause: FIRST_PAUSE,
            until: now + settings.deadline,
            refusal: None,
        }
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the lock said last, while it refuses: that another node has it, that a budget holds a
    /// pod, that the API server is away.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Takes an event. What does not fit the state (an answer that comes late) changes nothing.
    pub fn on(&mut self, event: Event, now: Instant) {
        let next = match (&self.state, event) {
            (State::Idle, Event::Want(purpose)) => {
                self.until = now + self.settings.deadline;
                Some(State::Asking { purpose, boot: self.boot.clone() })
            }
            (State::Asking { purpose, boot }, Event::PreReboot(Ok(()))) => {
                Some(State::Going { purpose: *purpose, boot: boot.clone() })
            }
            (State::Asking { .. }, Event::PreReboot(Err(refusal))) => {
                let given_up = now >= self.until;
                let reason = refusal.reason();
                self.refused(refusal, now);
                given_up.then_some(State::Returning { failed: Some(reason) })
            }
            (State::Returning { .. }, Event::SteadyState(Ok(()))) => Some(State::Idle),
            (State::Returning { .. }, Event::SteadyState(Err(refusal))) => {
                self.refused(refusal, now);
                None
            }
            (State::Asking { .. } | State::Going { .. }, Event::Cancel)
            | (State::Going { .. }, Event::Done) => Some(State::Returning { failed: None }),
            (State::Idle, Event::Cancel | Event::PreReboot(_))
            | (State::Idle | State::Asking { .. } | State::Returning { .. }, Event::Done)
            | (State::Idle | State::Asking { .. } | State::Going { .. }, Event::SteadyState(_))
            | (State::Going { .. } | State::Returning { .. }, Event::PreReboot(_))
            | (
                State::Asking { .. } | State::Going { .. } | State::Returning { .. },
                Event::Want(_),
            )
            | (State::Returning { .. }, Event::Cancel) => None,
        };
        if let Some(next) = next {
            self.state = next;
            (self.again, self.pause, self.refusal) = (now, FIRST_PAUSE, None);
        }
    }

    /// What to do now.
    pub fn next(&self, now: Instant) -> Next {
        match &self.state {
            State::Idle => Next::Rest,
            State::Going { purpose, .. } => Next::Go(*purpose),
            State::Asking { .. } | State::Returning { .. } if now < self.again => {
                Next::Wait(self.again)
            }
            State::Asking { .. } => Next::PreReboot,
            State::Returning { .. } => Next::SteadyState,
        }
    }

    /// Asks again after a pause that doubles up to what the kind of refusal asks for: a lock that
    /// is free is to be found so soon, for each turn of a site costs that once more. What asking
    /// cannot change (no such group) is asked at the longest pause, for it can be corrected.
    fn refused(&mut self, refusal: Refusal, now: Instant) {
        let most = self.settings.pause_most;
        let pause = match (refusal.kind, refusal.kind.retry_after()) {
            (Kind::Draining, _) => FIRST_PAUSE,
            (_, Some(asked_for)) => self.pause.min(asked_for),
            (_, None) => most,
        };
        self.pause = (self.pause * 2).min(most);
        self.again = now + pause.min(most);
        self.refusal = Some(refusal);
    }
}

/// Why the journal could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the journal of the reboot")]
pub struct JournalError(#[source] SlotError);

impl JournalError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match &self.0 {
            SlotError::Write { source, .. } if source.disk_full() => Reason::StateDiskFull,
            _ => Reason::StateUnwritable,
        }
    }

    /// Trying again can help.
    pub fn retryable(&self) -> bool {
        true
    }
}

/// The machine with its state on disk.
#[derive(Debug)]
pub struct Journal {
    slots: Slots,
    machine: Reboot,
}

impl Journal {
    /// Reads the journal at `path`; a complaint when it was damaged.
    pub fn open(
        path: impl Into<PathBuf>,
        boot: &str,
        settings: RebootSettings,
        now: Instant,
    ) -> (Self, Option<String>) {
        let slots = Slots::new(path, 0o600);
        let unknown = State::Returning { failed: None };
        let (state, complaint) = match slots.load() {
            Ok(Loaded::Newest(state)) => (state, None),
            Ok(Loaded::Empty) => (unknown, None),
            // The step before is not good enough: it may be one in which the lock was not held.
            Ok(Loaded::LastGood::<State>(_, why)) => (unknown, Some(why)),
            Err(error) => (unknown, Some(error.to_string())),
        };
        (Journal { slots, machine: Reboot::resume(state, boot, settings, now) }, complaint)
    }

    /// The machine.
    pub fn machine(&self) -> &Reboot {
        &self.machine
    }

    /// Takes an event: stored first, in force afterwards.
    ///
    /// # Errors
    /// The disk refuses; nothing has changed then, and the event is told again later.
    pub fn on(&mut self, event: Event, now: Instant) -> Result<(), JournalError> {
        let mut next = self.machine.clone();
        next.on(event, now);
        if next.state != self.machine.state {
            self.slots.store(&next.state).map_err(JournalError)?;
            tracing::info!(state = ?next.state, "reboot");
        }
        self.machine = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
