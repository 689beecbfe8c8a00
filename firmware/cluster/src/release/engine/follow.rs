//! What a node does that does not lead: it has the images, and knows what the site remembers.

use super::{LOOK_EVERY, ReleaseEngine, SOON, until_lead};
use crate::release::machine::{LONGEST_PAUSE, Wanted};
use crate::release::model::Release;
use crate::release::target::{Failure, Lead, MESSAGE_BYTES, Retry, Target};
use holdfast_api::brief;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseRef};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pull that waiting does not help, until it is tried once more all the same: who applies may
/// not be able to tell this node that the release is refused.
#[derive(Debug)]
pub(super) struct Resting {
    release: ReleaseRef,
    failure: Failure,
    pause: Duration,
    until: Instant,
}

impl<T: Target> ReleaseEngine<T> {
    /// Another node applies: have the images, and let go of older ones when it is done.
    pub(super) async fn follow(&mut self) -> Duration {
        self.has_recalled = false;
        // Whoever leads looks; this node does when it leads.
        (self.looked, self.doubt) = (None, None);
        self.recall_to_follow().await;
        let Some(Wanted::Release(release)) = self.machine.wanted().cloned() else {
            self.tell(None);
            return LOOK_EVERY;
        };
        let digest = release.reference.digest.clone();
        let followed = match self.target.in_force().await {
            Err(failure) => Err(failure),
            Ok(Some(in_force)) if in_force == digest => {
                self.tell_following(ReleasePhase::Committed, Some(&release.reference));
                self.sweep();
                self.keep_only(&release).await
            }
            // Its images are here; or it failed there, and is taken back or stays as it is.
            Ok(_)
                if self.followed.as_deref() == Some(&*digest)
                    || self.is_refused_by_site(&release.reference) =>
            {
                self.tell_following(ReleasePhase::Waiting, None);
                Ok(())
            }
            Ok(_) => {
                if let Some(failure) = self.rests(&release.reference) {
                    self.tell(Some(&failure));
                    return SOON;
                }
                self.tell_following(ReleasePhase::PrePull, None);
                self.kept_only = None;
                let mut wanted = self.wanted.clone();
                let pulled = tokio::select! {
                    pulled = self.execute_pull(&release) => pulled,
                    // A pull may take hours; the leader waits for this node with what is wanted now.
                    _ = wanted.changed() => return Duration::ZERO,
                    () = until_lead(self.target.as_ref(), &Lead::Ours) => return Duration::ZERO,
                };
                match &pulled {
                    Ok(()) => (self.followed, self.resting) = (Some(digest), None),
                    Err(failure) => self.rest_after(&release.reference, failure),
                }
                pulled
            }
        };
        if let Err(failure) = followed {
            tracing::warn!(reason = %failure.reason, message = failure.message, "following waits");
            self.tell(Some(&failure));
        }
        SOON
    }

    /// So that this node tells what failed, plans from what is in force, and knows it when the
    /// leader is gone. Nodes without a server's rights do not get to know.
    pub(super) async fn recall_to_follow(&mut self) {
        if Instant::now() < self.recall_at {
            return;
        }
        let recalled = self.recall().await;
        // It is read anew when this node leads.
        self.has_recalled = false;
        self.recall_at = Instant::now() + if recalled.is_ok() { SOON } else { LOOK_EVERY };
        if recalled.is_ok() {
            self.note();
        }
    }

    /// Why this release is not pulled now.
    fn rests(&self, release: &ReleaseRef) -> Option<Failure> {
        let resting = self.resting.as_ref().filter(|resting| resting.release == *release)?;
        (self.clock.now() < resting.until).then(|| resting.failure.clone())
    }

    fn rest_after(&mut self, release: &ReleaseRef, failure: &Failure) {
        if failure.retry != Retry::Never {
            self.resting = None;
            return;
        }
        let before = self.resting.take().filter(|resting| resting.release == *release);
        let pause = before.map_or(SOON, |before| before.pause * 2).min(LONGEST_PAUSE);
        let (release, failure) = (release.clone(), failure.clone());
        self.resting = Some(Resting { release, failure, pause, until: self.clock.now() + pause });
    }

    async fn execute_pull(&self, release: &Release) -> Result<(), Failure> {
        let report = Arc::clone(&self.report);
        let say = move |words: String| {
            report.send_modify(|report| report.state.message = brief(&words, MESSAGE_BYTES));
        };
        self.target.pull_here(release, &say).await
    }
}
