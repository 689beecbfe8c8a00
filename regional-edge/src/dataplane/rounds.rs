//! When everything is looked at: when it is asked for, soon after somebody touched the kernel's
//! network, once a minute; and after a failure again and again, more and more seldom. Pure.

use super::error::EndsError;
use holdfast_client::{Backoff, backoff};
use std::time::{Duration, Instant};

/// After somebody touched the kernel's network; our own changes count too, so not at once.
const AFTER_DRIFT: Duration = Duration::from_secs(5);
/// Whatever happens.
const AT_LEAST: Duration = Duration::from_secs(60);
/// What failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// When the next look is due, and what was wrong with the last one.
#[derive(Debug)]
pub(super) struct Rounds {
    at: Instant,
    looked_at: Instant,
    backoff: Backoff,
    trouble: Option<EndsError>,
}

impl Rounds {
    /// The first look is due `now`.
    pub(super) fn new(now: Instant) -> Self {
        let backoff = Backoff::new(AGAIN.0, AGAIN.1);
        Rounds { at: now, looked_at: now, backoff, trouble: None }
    }

    /// How long until a look is due; zero when it is.
    pub(super) fn due_in(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// There is a reason to look at once.
    pub(super) fn ask(&mut self, now: Instant) {
        self.at = now;
    }

    /// Somebody, perhaps we, touched the kernel's network.
    pub(super) fn drifted(&mut self, now: Instant) {
        self.at = self.at.min(self.looked_at.max(now) + AFTER_DRIFT);
    }

    /// What came of a look: how much was changed, or why it failed.
    pub(super) fn done(&mut self, done: Result<usize, EndsError>, now: Instant) {
        self.looked_at = now;
        match done {
            Ok(changed) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the data plane is as it should be");
                }
                self.backoff.succeeded();
                self.at = now + AT_LEAST;
                tracing::debug!(changed, "looked at everything");
            }
            Err(error) => {
                let chain = holdfast_api::chain(&error);
                tracing::warn!(reason = %error.reason(), error = chain, "data plane");
                self.trouble = Some(error);
                self.at = now + self.backoff.failed(backoff::seed());
            }
        }
    }

    /// What was wrong with the last look.
    pub(super) fn trouble(&self) -> Option<&EndsError> {
        self.trouble.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Reason;
    use netd::{ApplyError, BatchError, KernelAnswer, Step, TalkError};
    use nix::errno::Errno;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn busy() -> EndsError {
        let source = TalkError::Refused(KernelAnswer { errno: Errno::EBUSY, text: None });
        let step = Box::new(Step::SetUp { link: "hf-wg0".parse().unwrap(), up: true });
        let source = Box::new(ApplyError::Refused { step, hint: "something holds it", source });
        let (undo_failures, kept) = (Vec::new(), Vec::new());
        EndsError::Apply(Box::new(BatchError { at: 0, total: 1, source, undo_failures, kept }))
    }

    #[test]
    fn a_link_that_is_busy_is_tried_again_and_more_and_more_seldom() {
        let mut now = Instant::now();
        let mut rounds = Rounds::new(now);
        assert!(rounds.due_in(now).is_zero());
        for most in [1, 2, 4, 8, 15, 15] {
            rounds.done(Err(busy()), now);
            let trouble = rounds.trouble().unwrap();
            assert_eq!(trouble.reason(), Reason::NetApplyFailed);
            let text = holdfast_api::chain(trouble);
            assert!(text.contains("something holds it") && text.contains("EBUSY"), "{text}");
            let pause = rounds.due_in(now);
            assert!(AGAIN.0 <= pause && pause <= S(most), "{pause:?} of {most} s");
            assert!(!rounds.due_in(now + pause - Duration::from_millis(1)).is_zero());
            now += pause;
            assert!(rounds.due_in(now).is_zero());
        }
        rounds.done(Ok(3), now);
        assert!(rounds.trouble().is_none());
        assert_eq!(rounds.due_in(now), AT_LEAST);
        rounds.done(Err(busy()), now);
        assert!(rounds.due_in(now) <= S(1), "the first in a row again");
    }

    #[test]
    fn what_somebody_changed_is_looked_at_soon_and_a_reason_at_once() {
        let now = Instant::now();
        let mut rounds = Rounds::new(now);
        rounds.done(Ok(0), now);
        rounds.drifted(now + S(1));
        assert_eq!(rounds.due_in(now + S(1)), AFTER_DRIFT);
        rounds.drifted(now + S(2));
        assert_eq!(rounds.due_in(now + S(1)), AFTER_DRIFT, "not put off by more");
        rounds.ask(now + S(3));
        assert!(rounds.due_in(now + S(3)).is_zero());
    }
}
