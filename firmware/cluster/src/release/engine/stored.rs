//! What the journal has, and whether it has to have more before the next step.
//!
//! Storing is two files synced; a release of ten workloads has some forty steps. Of nothing but
//! progress within a phase the journal may know less than is so: those steps are carried out once
//! more after a crash. At the end of a phase it knows everything, so that what is undone after one
//! phase and not after another stays told apart.

use crate::release::journal::Record;
use holdfast_api::kubernetes::ReleasePhase;
use std::time::{Duration, Instant};

/// How often progress within a phase is stored.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// What was stored last.
#[derive(Debug)]
pub(super) struct Stored {
    record: Record,
    phase: Option<ReleasePhase>,
    at: Instant,
}

impl Stored {
    /// `record` was stored now, before a step of `phase`.
    pub(super) fn now(record: &Record, phase: Option<ReleasePhase>) -> Self {
        Stored { record: record.clone(), phase, at: Instant::now() }
    }

    /// Whether `record` has to be stored before a step of `phase`.
    pub(super) fn is_stale(&self, record: &Record, phase: Option<ReleasePhase>) -> bool {
        self.is_stale_after(self.at.elapsed(), record, phase)
    }

    fn is_stale_after(
        &self,
        passed: Duration,
        record: &Record,
        phase: Option<ReleasePhase>,
    ) -> bool {
        if self.phase != phase || passed >= STORE_EVERY {
            return self.record != *record;
        }
        let (Some(before), Some(_)) = (&self.record.attempt, &record.attempt) else {
            return self.record != *record;
        };
        let mut same = record.clone();
        if let Some(attempt) = &mut same.attempt
            && attempt.done > before.done
        {
            attempt.done = before.done;
        }
        same != self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::journal::Attempt;

    fn record(done: usize, touched: bool) -> Record {
        let attempt = Some(Attempt { done, ..Attempt::default() });
        Record { attempt, touched, ..Record::default() }
    }

    #[test]
    fn only_progress_within_a_phase_waits_and_not_for_long() {
        let applying = Some(ReleasePhase::Applying);
        let stored = Stored::now(&record(3, true), applying);
        let soon = Duration::ZERO;
        assert!(!stored.is_stale_after(STORE_EVERY, &record(3, true), applying), "it is there");
        assert!(!stored.is_stale_after(soon, &record(4, true), applying));
        assert!(stored.is_stale_after(STORE_EVERY, &record(4, true), applying));
        assert!(stored.is_stale_after(soon, &record(4, true), Some(ReleasePhase::Verifying)));
        assert!(stored.is_stale_after(soon, &record(4, false), applying), "something else is new");
        assert!(stored.is_stale_after(soon, &record(2, true), applying), "it went back");
        assert!(stored.is_stale_after(soon, &Record::default(), applying), "it is over");
    }
}
