//! What people are told of the machine.

use super::{Machine, Wanted};
use crate::release::journal::{Cause, Direction};
use crate::release::target::MESSAGE_BYTES;
use holdfast_api::kubernetes::{FailedRelease, ReleasePhase, ReleaseRef, ReleaseState};
use holdfast_api::{Reason, brief};

impl Machine {
    /// Where it is, for people; without `since`, which is the driver's.
    pub fn state(&self) -> ReleaseState {
        let (phase, reason, message) = self.standing();
        let (done, steps) = match &self.run {
            Some(run) => (run.at, run.plan.len()),
            None => (0, 0),
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        ReleaseState {
            wanted: self.wanted.as_ref().map(|w| w.reference().clone()).unwrap_or_default(),
            good: self.record.good.as_ref().map(|good| good.release.clone()),
            phase,
            done: count(done),
            steps: count(steps),
            message: brief(&message, MESSAGE_BYTES),
            reason,
            failed: self.record.failed.clone(),
            since: None,
        }
    }

    /// Why the attempt is taken back.
    pub fn cause(&self) -> Option<&Cause> {
        self.record.attempt.as_ref()?.cause.as_ref()
    }

    /// Whether this version failed and is not tried again.
    pub fn refuses(&self, reference: &ReleaseRef) -> bool {
        self.refusal(reference).is_some()
    }

    /// The failure for which this version is not tried.
    pub(super) fn refusal(&self, reference: &ReleaseRef) -> Option<&FailedRelease> {
        if self.is_good(reference) {
            return None;
        }
        refusal(&self.record.failed, reference)
    }

    fn standing(&self) -> (ReleasePhase, Option<Reason>, String) {
        if let Some(run) = &self.run {
            let cause = self.cause();
            let trouble = run.flaw.as_ref().or(run.trouble.as_ref());
            let step = || run.step().to_string();
            return match run.direction {
                Direction::Forward => {
                    let message = trouble.map_or_else(step, |trouble| trouble.message.clone());
                    (run.step().phase(), trouble.map(|trouble| trouble.reason), message)
                }
                Direction::Back if let Some(flaw) = &run.flaw => {
                    let reason = match flaw.reason {
                        // Nothing was put back, which needs something else of people.
                        Reason::ReleaseRecordUnreadable => Reason::ReleaseRecordUnreadable,
                        _ => Reason::ReleaseRollbackFailed,
                    };
                    (ReleasePhase::RollingBack, Some(reason), flaw.message.clone())
                }
                Direction::Back => {
                    let why = cause.map(|cause| cause.message.clone());
                    let (reason, message) = match (trouble, why) {
                        (Some(trouble), None) => (Some(trouble.reason), trouble.message.clone()),
                        (Some(trouble), Some(why)) => (
                            Some(trouble.reason),
                            format!("{} (taken back: {why})", trouble.message),
                        ),
                        (None, why) => (cause.map(|cause| cause.reason), why.unwrap_or_else(step)),
                    };
                    (ReleasePhase::RollingBack, reason, message)
                }
            };
        }
        let ended = self.ended.as_ref().and_then(|(digest, phase)| {
            let wanted = self.wanted.as_ref()?.reference();
            (wanted.digest == *digest).then_some(*phase)
        });
        match &self.wanted {
            Some(Wanted::Unusable(_, cause)) => {
                (ReleasePhase::Refused, Some(cause.reason), cause.message.clone())
            }
            Some(Wanted::Release(release)) => match (self.refusal(&release.reference), ended) {
                (Some(failed), Some(phase)) => (phase, Some(failed.reason), failed.message.clone()),
                (Some(failed), None) => {
                    let message = format!("{}: {}", failed.reason, failed.message);
                    (ReleasePhase::Refused, Some(Reason::ReleaseRefused), message)
                }
                (None, _) if self.is_good(&release.reference) => self.in_force(),
                (None, _) => (ReleasePhase::Waiting, None, String::new()),
            },
            None if self.record.good.is_some() => self.in_force(),
            None => (ReleasePhase::None, None, String::new()),
        }
    }

    fn in_force(&self) -> (ReleasePhase, Option<Reason>, String) {
        let left: Vec<String> = self.record.leftovers.iter().map(ToString::to_string).collect();
        if left.is_empty() {
            return (ReleasePhase::Committed, None, String::new());
        }
        let message =
            format!("still there, and removed with the next release: {}", left.join(", "));
        (ReleasePhase::Committed, Some(Reason::ReleaseLeftover), message)
    }
}

/// The failure among these for which this version is not tried.
pub fn refusal<'a>(failed: &'a [FailedRelease], release: &ReleaseRef) -> Option<&'a FailedRelease> {
    failed.iter().rev().find(|failed| {
        failed.release.digest == release.digest && release.force <= failed.release.force
    })
}
