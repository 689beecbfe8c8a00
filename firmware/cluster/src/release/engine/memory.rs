//! What the site is told to remember beside its attempts, for whichever node leads next.

use super::ReleaseEngine;
use crate::release::plan::Step;
use crate::release::target::{Failure, Target};

impl<T: Target> ReleaseEngine<T> {
    /// Has the site remember what failed before anything was applied, so that no other node tries it
    /// or goes on pulling. What it remembers after something was applied has it already.
    pub(super) async fn share_refusals(&mut self) -> Result<(), Failure> {
        let record = self.machine.record();
        let is_so = self.shared.as_ref() == Some(&record.failed);
        // A site that was made anew, or of which that is not known, is first brought to what is in force.
        if is_so || record.touched || record.unknown || record.strayed.is_some() {
            return Ok(());
        }
        let failed = record.failed.clone();
        let mut site = self.machine.site_record(&Step::Record);
        self.target.node().clone_into(&mut site.by);
        self.target.record(&site).await?;
        self.shared = Some(failed);
        Ok(())
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
