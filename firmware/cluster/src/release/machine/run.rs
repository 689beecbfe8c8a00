//! A walk through a plan: where it is, how often the present step failed, when it is tried again.

use super::super::journal::Direction;
use super::super::model::Release;
use super::super::plan::Step;
use super::super::target::{Failure, Retry};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first pause before a step is tried again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one: a registry that comes back is noticed within it.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The first pause between two rounds of a rollback, or of putting a site right.
const FIRST_ROUND_PAUSE: Duration = Duration::from_secs(5);
/// The longest one; every round writes to the API server.
pub const LONGEST_ROUND_PAUSE: Duration = Duration::from_secs(300);

/// When something happened.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For pauses.
    pub now: Instant,
    /// For people.
    pub wall: Timestamp,
    /// Shortens a pause, in thousandths of its half: 0 not at all, 1000 by half.
    pub jitter: u16,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) direction: Direction,
    /// The release that is tried; none when going back.
    pub(super) release: Option<Arc<Release>>,
    pub(super) plan: Vec<Step>,
    pub(super) at: usize,
    pub(super) pause: Option<Instant>,
    /// When the step was begun first.
    pub(super) began: Option<Instant>,
    /// How often the step failed.
    pub(super) failed: u32,
    /// Since when it fails in a way that is not waited for without end.
    pub(super) failing: Option<Instant>,
    /// What it waits for.
    pub(super) trouble: Option<Failure>,
    /// A step of this round failed for good (only when going back or putting right).
    pub(super) flaw: Option<Failure>,
    /// Rounds that had a flaw.
    pub(super) rounds: u32,
}

impl Run {
    pub(super) fn new(
        direction: Direction,
        release: Option<Arc<Release>>,
        plan: Vec<Step>,
    ) -> Self {
        Run {
            direction,
            release,
            plan,
            at: 0,
            pause: None,
            began: None,
            failed: 0,
            failing: None,
            trouble: None,
            flaw: None,
            rounds: 0,
        }
    }

    pub(super) fn step(&self) -> &Step {
        &self.plan[self.at]
    }

    /// What is removed does not come back, so from the first removal on there is one way only;
    /// but a commit that is refused may be so for ever.
    pub(super) fn is_past_return(&self) -> bool {
        let is_refused =
            self.trouble.as_ref().is_some_and(|trouble| trouble.retry != Retry::Always);
        match self.step() {
            Step::Prune(_) => true,
            Step::Commit => !is_refused,
            Step::Preflight(_)
            | Step::DryRun(_)
            | Step::PrePull(_)
            | Step::Record
            | Step::Apply(_)
            | Step::Wait(..)
            | Step::Verify
            | Step::Rehearse
            | Step::Settle => false,
        }
    }

    /// Whether something was removed for good.
    pub(super) fn has_pruned(&self) -> bool {
        self.plan[..self.at].iter().any(|step| matches!(step, Step::Prune(_)))
    }

    /// Begins the plan again after a pause.
    pub(super) fn again(&mut self, moment: &Moment) {
        self.rounds += 1;
        self.at = 0;
        self.failed = 0;
        self.failing = None;
        self.began = None;
        let longest = LONGEST_ROUND_PAUSE;
        self.pause = Some(moment.now + pause(FIRST_ROUND_PAUSE, longest, self.rounds, moment));
    }
}

pub(super) fn pause(first: Duration, longest: Duration, times: u32, moment: &Moment) -> Duration {
    let doublings = times.saturating_sub(1).min(16);
    let full = first.saturating_mul(1 << doublings).min(longest);
    full - full / 2 * u32::from(moment.jitter.min(1000)) / 1000
}
