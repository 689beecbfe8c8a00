//! What an engine tells of itself, and since when.

use super::ReleaseEngine;
use crate::release::target::{Failure, Target};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseRef, ReleaseState};
use jiff::Timestamp;
use std::time::Instant;

impl<T: Target> ReleaseEngine<T> {
    pub(super) fn tell_following(&mut self, phase: ReleasePhase, good: Option<&ReleaseRef>) {
        let mut state = self.machine.state();
        if state.phase == ReleasePhase::Refused {
            if phase != ReleasePhase::Committed && self.is_refused_by_site(&state.wanted) {
                return self.publish(state);
            }
            state.message.clear();
        }
        state.phase = phase;
        state.reason = (phase != ReleasePhase::Committed).then_some(Reason::ReleaseOtherManager);
        if let Some(good) = good {
            state.good = Some(good.clone());
        }
        self.publish(state);
    }

    /// Publishes where the machine is; `trouble` is what keeps even the machine from going on.
    pub(super) fn tell(&mut self, trouble: Option<&Failure>) {
        let mut state = self.machine.state();
        if let Some((reference, failure)) = &self.unkept
            && !self.machine.is_busy()
        {
            state.wanted = reference.clone();
            state.phase = ReleasePhase::Waiting;
            state.reason = Some(failure.reason);
            state.message.clone_from(&failure.message);
        }
        let is_doubted = state.phase == ReleasePhase::Committed && self.machine.wanted().is_some();
        if let Some(trouble) = trouble.or(self.doubt.as_ref().filter(|_| is_doubted)) {
            state.reason = Some(trouble.reason);
            state.message.clone_from(&trouble.message);
        }
        self.publish(state);
    }

    fn publish(&mut self, mut state: ReleaseState) {
        let spent = self.phase_since.elapsed();
        let is_new_phase = self.report.borrow().state.phase != state.phase;
        if is_new_phase {
            self.phase_since = Instant::now();
        }
        self.report.send_if_modified(|report| {
            state.since = if is_new_phase { Some(Timestamp::now()) } else { report.state.since };
            if is_new_phase && report.state.phase.is_work() {
                let phase = format!("{:?}", report.state.phase);
                *report.took_ms.entry(phase).or_default() +=
                    u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
            }
            let is_new = report.state != state;
            report.state = state;
            is_new
        });
    }
}
