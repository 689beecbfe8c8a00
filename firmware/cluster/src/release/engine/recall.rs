//! What the site remembers, and what is known of it where that cannot be read: the mark on this
//! Node has the digest of the release in force, its text is here or on the site. Where that does
//! not suffice it is not known what is in force, and nothing is removed ([`Record::unknown`]).
//!
//! [`Record::unknown`]: crate::release::journal::Record::unknown

use super::{ReleaseEngine, read, release_kept};
use crate::release::journal::Kept;
use crate::release::model::{Good, Release, SiteRecord};
use crate::release::target::{Failure, Target};
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_api::{Reason, chain};

impl<T: Target> ReleaseEngine<T> {
    /// Takes what the site remembers, unless that was done since this node leads.
    pub(super) async fn recall(&mut self) -> Result<(), Failure> {
        if self.has_recalled {
            return Ok(());
        }
        let recalled = self.target.recall().await;
        if let Ok(site) = &recalled {
            self.shared = Some(site.as_ref().map(|site| site.failed.clone()).unwrap_or_default());
        }
        let site = match recalled {
            // Another node did not know it.
            Ok(Some(site)) if site.unknown && self.machine.record().good.is_some() => {
                let mut gathered = self.gather().await?;
                gathered.leftovers = gathered.leftovers.with(&site.leftovers);
                Some(gathered)
            }
            Ok(Some(site)) => Some(site),
            // It was made anew, unless this Node was marked there.
            Ok(None) if self.machine.record().good.is_some() => None,
            Ok(None) => match self.target.in_force().await? {
                Some(_) => Some(self.gather().await?),
                None => None,
            },
            Err(failure) if failure.reason == Reason::ReleaseRecordUnreadable => {
                self.shared = None;
                let gathered = self.gather().await?;
                let known = gathered.good.as_ref().map(|good| &good.release.digest);
                tracing::error!(reason = %failure.reason, message = failure.message, known, "in force");
                Some(gathered)
            }
            Err(failure) => return Err(failure),
        };
        if let Some(good) = site.as_ref().and_then(|site| site.good.as_ref()) {
            self.fetch(&good.release).await?;
        }
        let is_ours = site.as_ref().is_some_and(|site| site.by == self.target.node());
        let journal = self.journal.clone();
        self.machine.adopt(site, is_ours, |digest| release_kept(&journal, digest));
        self.has_recalled = true;
        Ok(())
    }

    /// Has the text of a release here, when the site has it. The digest says nothing of its name:
    /// the one counts that the site's record has.
    async fn fetch(&self, release: &ReleaseRef) -> Result<(), Failure> {
        let digest = &release.digest;
        if self.machine.good().is_some_and(|good| good.reference.digest == *digest)
            || release_kept(&self.journal, digest).is_some()
        {
            return Ok(());
        }
        match self.target.text(digest).await? {
            Some(kept) if release_digest(&kept.manifests) == *digest => {
                self.keep(&Kept { release: release.clone(), ..kept })
            }
            _ => Ok(()),
        }
    }

    fn keep(&self, kept: &Kept) -> Result<(), Failure> {
        let kept = self.journal.keep(kept);
        kept.map_err(|error| Failure::always(error.reason(), chain(&error)))
    }

    /// What can be known without the site's record.
    async fn gather(&self) -> Result<SiteRecord, Failure> {
        let record = self.machine.record();
        let mark = self.target.in_force().await?;
        let own = record.good.as_ref();
        let own = own.filter(|own| mark.as_ref().is_none_or(|mark| *mark == own.release.digest));
        let good = match (own, &mark) {
            (Some(own), _) => Some(own.clone()),
            (None, Some(mark)) => self.marked(mark).await?.as_ref().map(Good::of),
            (None, None) => None,
        };
        Ok(SiteRecord {
            unknown: good.is_none(),
            good,
            leftovers: record.leftovers.clone(),
            torn: true,
            failed: record.failed.clone(),
            ..SiteRecord::default()
        })
    }

    /// The release with this digest, when its text is here or on the site and can be read.
    async fn marked(&self, digest: &str) -> Result<Option<Release>, Failure> {
        if let Some(release) = self.journal.kept(digest).and_then(|kept| read(&kept).ok()) {
            return Ok(Some(release));
        }
        let Some(kept) = self.target.text(digest).await? else { return Ok(None) };
        let Ok(release) = read(&kept) else { return Ok(None) };
        if kept.release.digest != digest || release_digest(&kept.manifests) != digest {
            return Ok(None);
        }
        self.keep(&kept)?;
        Ok(Some(release))
    }
}
