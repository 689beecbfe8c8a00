//! Whether the objects of the release in force are there: looked at from time to time, and at once
//! when the site may have become another one. That is after every silence of the API server: its
//! datastore may have been restored meanwhile, or made anew. Until the look was made a release is
//! told as committed with the reason of the silence.

use super::{LOOK_EVERY, NEWCOMERS_EVERY, ReleaseEngine, SOON};
use crate::release::target::{Check, Failure, Observed, Retry, Target};
use holdfast_api::Reason;
use std::time::{Duration, Instant};

/// What is not known of a site when a manager begins.
pub(super) fn at_start() -> Failure {
    let message = "the objects in force were not looked at since the manager started";
    Failure::always(Reason::KubernetesApiUnavailable, message)
}

/// What is not known of a site while its datastore is put back.
pub(super) fn restoring() -> Failure {
    let message = "the datastore is being restored; the objects in force are looked at afterwards";
    Failure::always(Reason::KubernetesApiUnavailable, message)
}

impl<T: Target> ReleaseEngine<T> {
    /// The site does not answer; how long to pause.
    pub(super) fn doubts(&mut self, failure: &Failure) -> Duration {
        if failure.retry == Retry::Always {
            (self.looked, self.kept_text) = (None, None);
            // What is under way goes on where it was, and ends with what is in force being seen.
            if !self.machine.is_busy() {
                self.has_recalled = false;
                self.doubt = Some(failure.clone());
            }
        }
        self.tell(Some(failure));
        SOON
    }

    /// Looks when it is time; how long to pause.
    pub(super) async fn look(&mut self) -> Duration {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            let lacks = match self.lacks_objects().await {
                Ok(lacks) => lacks,
                Err(failure) => return self.doubts(&failure),
            };
            self.looked = Some(Instant::now());
            self.doubt = None;
            // A restored datastore remembers something else.
            self.has_recalled = false;
            self.kept_text = None;
            if lacks {
                tracing::warn!("objects of the release are gone; it is applied again");
                self.machine.stray();
                return Duration::ZERO;
            }
            self.tell(None);
        }
        let passed = self.looked.map(|at| at.elapsed()).unwrap_or_default();
        LOOK_EVERY.saturating_sub(passed).min(NEWCOMERS_EVERY)
    }

    /// Whether something of the release in force is gone.
    ///
    /// # Errors
    /// The API server is away, or is not ready: then it may not know its own kinds yet.
    pub(super) async fn lacks_objects(&self) -> Result<bool, Failure> {
        let Some(good) = self.machine.good() else { return Ok(false) };
        self.target.check(Check::ApiServer).await?;
        for item in good.items.iter().filter(|item| !item.passes()) {
            match self.target.observe(&item.object.id).await {
                Ok(Observed::Absent) => return Ok(true),
                // A part of the API that is away hides nothing else.
                Err(failure) if failure.retry == Retry::Always => {
                    self.target.check(Check::ApiServer).await?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(false)
    }
}
