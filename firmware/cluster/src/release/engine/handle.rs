//! What others hold of an engine: a place to ask, and what it tells.

use super::{read, release_kept};
use crate::release::journal::{Journal, Kept, Record};
use crate::release::parse::ParseError;
use crate::release::trial::{self, Known};
use holdfast_api::kubernetes::ReleaseState;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// What an engine tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Where the release is.
    pub state: ReleaseState,
    /// Milliseconds that the last attempt spent in each phase, by the phase's name.
    pub took_ms: BTreeMap<String, u64>,
}

/// The handle of an engine.
#[derive(Debug, Clone)]
pub struct Releases {
    journal: Journal,
    wanted: watch::Sender<Option<Kept>>,
    restoring: watch::Sender<bool>,
    report: watch::Receiver<Report>,
}

impl Releases {
    pub(super) fn new(
        journal: Journal,
        wanted: watch::Sender<Option<Kept>>,
        restoring: watch::Sender<bool>,
        report: watch::Receiver<Report>,
    ) -> Self {
        Releases { journal, wanted, restoring, report }
    }

    /// Asks for a release, with its text; none leaves the site as it is.
    pub fn want(&self, wanted: Option<Kept>) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted.clone()) != wanted);
    }

    /// Whether the datastore is being put back to a snapshot: what is in force is looked at when it
    /// is over, also when nobody noticed that the API server was away.
    pub fn restoring(&self, is: bool) {
        self.restoring.send_if_modified(|now| std::mem::replace(now, is) != is);
    }

    /// Where the release is now.
    pub fn state(&self) -> ReleaseState {
        self.report.borrow().state.clone()
    }

    /// Everything that the engine tells, as it changes.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// What is known here of a release that somebody may want: nothing is changed or asked of the
    /// cluster ([`Known::ask`] does that).
    ///
    /// # Errors
    /// The manifests cannot be used.
    pub fn plan(&self, kept: &Kept) -> Result<Known, ParseError> {
        let release = read(kept)?;
        let Record { good, leftovers, strayed, failed, .. } = self.journal.load();
        let text = good.as_ref().and_then(|good| release_kept(&self.journal, &good.release.digest));
        Ok(trial::known(release, good, text, &leftovers, strayed, &failed))
    }
}
