//! What others hold of an engine: a place to ask, and what it tells.

use super::read;
use crate::release::journal::{Journal, Kept};
use crate::release::parse::ParseError;
use crate::release::plan::{self, Have, Step};
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
    report: watch::Receiver<Report>,
}

impl Releases {
    pub(super) fn new(
        journal: Journal,
        wanted: watch::Sender<Option<Kept>>,
        report: watch::Receiver<Report>,
    ) -> Self {
        Releases { journal, wanted, report }
    }

    /// Asks for a release, with its text; none leaves the site as it is.
    pub fn want(&self, wanted: Option<Kept>) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted.clone()) != wanted);
    }

    /// Where the release is now.
    pub fn state(&self) -> ReleaseState {
        self.report.borrow().state.clone()
    }

    /// Everything that the engine tells, as it changes.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Steps that this release would take from here. Nothing is changed or asked of the cluster.
    ///
    /// # Errors
    /// The manifests cannot be used.
    pub fn plan(&self, kept: &Kept) -> Result<Vec<Step>, ParseError> {
        let release = read(kept)?;
        let record = self.journal.load();
        let have = Have {
            good: record.good.as_ref(),
            leftovers: Some(&record.leftovers),
            strayed: record.strayed,
        };
        Ok(plan::forward(&release, have))
    }
}
