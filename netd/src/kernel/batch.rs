//! Carrying out a whole plan: in few system calls, and back again when a step fails.
//!
//! Addresses, nexthops, routes and rules travel together; steps on links and settings wait
//! until what was queued before them is done.

use super::socket::Batch;
use super::{Kernel, Outcome};
use crate::error::{ApplyError, BatchError, TalkError};
use crate::step::Step;

/// Most steps that are queued before the kernel is asked; bounds memory and what is known to
/// be done only afterwards.
const QUEUE: usize = 4096;

/// What became of a step: nothing yet, or an outcome, or an error.
type Progress = Option<Result<Outcome, ApplyError>>;

impl Kernel {
    /// Carries out `steps` in order. When one fails, the steps that were done are taken back in
    /// reverse order, and the first failure is reported with whatever could not be taken back.
    ///
    /// # Errors
    /// The first step that the kernel refused.
    pub fn apply_all(&mut self, steps: &[Step]) -> Result<Vec<Outcome>, BatchError> {
        let mut progress = self.run(steps, true);
        let Some(at) = progress.iter().position(|p| matches!(p, Some(Err(_)))) else {
            return Ok(progress.into_iter().flatten().flatten().collect());
        };
        let source = match progress[at].take() {
            Some(Err(error)) => Box::new(error),
            _ => unreachable!("position() found an error here"),
        };
        let (mut undo, mut kept) = (Vec::new(), Vec::new());
        for (step, progress) in steps.iter().zip(&progress).rev() {
            match progress {
                Some(Ok(Outcome::Unchanged)) | None => {}
                Some(Err(error)) if !may_be_done(error) => {}
                Some(Ok(_) | Err(_)) => match step.inverse() {
                    Some(steps) => undo.extend(steps),
                    None => kept.push(step.clone()),
                },
            }
        }
        let undo_failures =
            self.run(&undo, false).into_iter().filter_map(|p| p.and_then(Result::err)).collect();
        Err(BatchError { at, total: steps.len(), source, undo_failures, kept })
    }

    /// Tries `steps` in order, all of them or until one fails.
    fn run(&mut self, steps: &[Step], stop: bool) -> Vec<Progress> {
        // Names may have moved to other links since the last time.
        self.indexes.clear();
        let mut progress: Vec<Progress> = Vec::new();
        progress.resize_with(steps.len(), || None);
        let mut batch = Batch::default();
        let mut queued = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            match self.queue(step, &mut batch) {
                Ok(true) => {
                    queued.push(n);
                    if queued.len() >= QUEUE {
                        self.flush(steps, &mut batch, &mut queued, &mut progress);
                    }
                }
                Ok(false) => {
                    self.flush(steps, &mut batch, &mut queued, &mut progress);
                    if !(stop && failed(&progress[..n])) {
                        progress[n] = Some(self.apply(step));
                    }
                }
                Err(error) => {
                    self.flush(steps, &mut batch, &mut queued, &mut progress);
                    progress[n] = Some(self.settle(step, Err(error)));
                }
            }
            // Only what is settled can have failed, and the latest is near the end.
            if stop && queued.is_empty() && failed(&progress[n.saturating_sub(QUEUE)..=n]) {
                return progress;
            }
        }
        self.flush(steps, &mut batch, &mut queued, &mut progress);
        progress
    }

    /// Sends what is queued and settles it.
    fn flush(
        &mut self,
        steps: &[Step],
        batch: &mut Batch,
        queued: &mut Vec<usize>,
        progress: &mut [Progress],
    ) {
        if queued.is_empty() {
            return;
        }
        match self.route.send(batch) {
            Ok(results) => {
                for (n, result) in queued.drain(..).zip(results) {
                    progress[n] = Some(self.settle(&steps[n], result.map_err(TalkError::Refused)));
                }
            }
            Err(error) => {
                // Nobody knows which of them were done: all count as failed, and are undone.
                let text = error.to_string();
                let mut first = Some(error);
                for n in queued.drain(..) {
                    let error = first.take().unwrap_or_else(|| TalkError::Unreadable(text.clone()));
                    progress[n] = Some(Err(super::explain::explain(&steps[n], error)));
                }
            }
        }
        *batch = Batch::default();
    }
}

fn failed(progress: &[Progress]) -> bool {
    progress.iter().any(|p| matches!(p, Some(Err(_))))
}

/// The conversation broke off before the kernel said whether the step was done.
fn may_be_done(error: &ApplyError) -> bool {
    matches!(
        error,
        ApplyError::Refused { source: TalkError::Socket(_) | TalkError::Unreadable(_), .. }
    )
}
