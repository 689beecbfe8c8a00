//! Drives [`Converge`] against a kernel: the only place that waits.
//!
//! Blocking; a daemon calls it from a thread that may block. Returns when the machine is as it
//! should be or all that can be done was done, in bounded time (see [`Patience`]).

use crate::apply::{Kernel, apply};
use crate::baseline::{Baseline, BaselineError};
use crate::converge::{Action, Converge};
use crate::model::Want;
use crate::observe::ObserveError;
use crate::plan::plan;
use crate::recover::Patience;
use crate::report::Report;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use std::time::Instant;

/// Where time comes from.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Instant;
    /// Returns at `until` or later.
    fn wait_until(&mut self, until: Instant);
}

/// The system's monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn wait_until(&mut self, until: Instant) {
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Why a run could not be made or followed.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The machine could not be read.
    #[error("cannot see the huge pages of the machine")]
    Observe(#[source] ObserveError),
    /// The record of the earlier pools could not be kept; nothing was changed.
    #[error("huge pages are left as they are")]
    Baseline(#[source] BaselineError),
}

impl DriveError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            DriveError::Observe(error) => error.reason(),
            DriveError::Baseline(error) => error.reason(),
        }
    }
}

/// Brings the machine to `want`. The record of the earlier pools is kept below `root` meanwhile.
///
/// # Errors
/// [`DriveError`]; everything else is in the report.
pub fn drive(
    kernel: &mut impl Kernel,
    want: &Want,
    patience: Patience,
    root: &Root,
    clock: &mut impl Clock,
) -> Result<Report, DriveError> {
    let have = kernel.observe().map_err(DriveError::Observe)?;
    let baseline = match Baseline::unfinished(root, &have) {
        Some(unfinished) => unfinished,
        // Nothing will be changed, so there is nothing to take back.
        None if plan(want, &have).steps.is_empty() => Baseline::of(&have),
        None => Baseline::begin(root, &have).map_err(DriveError::Baseline)?,
    };
    let mut machine = Converge::new(want.clone(), &have, baseline, patience);
    loop {
        let have = kernel.observe().map_err(DriveError::Observe)?;
        match machine.next(&have, clock.now()) {
            Action::Do(step) => match apply(kernel, &step) {
                Ok(outcome) => tracing::info!(%step, ?outcome, "huge pages"),
                Err(error) => {
                    tracing::warn!(%step, error = holdfast_api::chain(&error), "huge pages");
                    machine.failed(&step, &error);
                }
            },
            Action::WaitUntil(until) => clock.wait_until(until),
            Action::Done(report) => {
                Baseline::end(root).map_err(DriveError::Baseline)?;
                return Ok(report);
            }
        }
    }
}
