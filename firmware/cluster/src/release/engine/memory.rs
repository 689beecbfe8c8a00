//! What the site is told to remember beside its attempts, for whichever node leads next.

use super::ReleaseEngine;
use crate::release::machine::refusal;
use crate::release::plan::Step;
use crate::release::target::{Failure, Target};
use holdfast_api::kubernetes::ReleaseRef;

impl<T: Target> ReleaseEngine<T> {
    /// Has the site remember what failed before anything was applied, so that no other node tries it
    /// or goes on pulling. What it remembers after something was applied has it already.
    pub(super) async fn share_refusals(&mut self) {
        let record = self.machine.record();
        let is_so = self.shared.as_ref() == Some(&record.failed);
        // A site that was made anew, or of which that is not known, is first brought to what is in force.
        if is_so || record.touched || record.unknown || record.strayed.is_some() {
            return;
        }
        let failed = record.failed.clone();
        let mut site = self.machine.site_record(&Step::Record);
        self.target.node().clone_into(&mut site.by);
        match self.target.record(&site).await {
            Ok(()) => (self.shared, self.unshared) = (Some(failed), None),
            Err(_) if self.unshared.as_ref() == Some(&failed) => {}
            Err(failure) => {
                tracing::warn!(reason = %failure.reason, message = failure.message, "other nodes may try what failed");
                self.unshared = Some(failed);
            }
        }
    }

    /// Whether a node that does not lead has nothing to do for this release. What it noted itself
    /// does not count: a leader that does not know of it waits for this node's images.
    pub(super) fn is_refused_by_site(&self, release: &ReleaseRef) -> bool {
        let shared = self.shared.as_deref().unwrap_or_default();
        refusal(shared, release).is_some() && self.machine.refuses(release)
    }

    /// Has the site keep the text, for a node that has to put it back and never saw it.
    pub(super) async fn keep_text(&mut self, digest: &str) -> Result<(), Failure> {
        if self.kept_text.as_deref() != Some(digest)
            && let Some(kept) = self.journal.kept(digest)
        {
            self.target.keep_text(&kept).await?;
            self.kept_text = Some(digest.to_owned());
        }
        Ok(())
    }
}
