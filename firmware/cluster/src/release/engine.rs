//! Drives the machine: stores its record, carries out its steps on a [`Target`], tells the world
//! where it is.
//!
//! The record is stored before a step and, with what the step brought, before the next one; where
//! it tells of nothing but progress within a phase, once a second (`stored`). What was cut
//! off (the process died, another release was wanted) or was not noted is carried out once more;
//! that does no harm ([`super::plan`]). When the record cannot be stored, nothing is done.
//!
//! Every node of a site runs one. The node that leads applies; the others have the images ready
//! and follow what the leader announces.

mod clock;
mod follow;
mod handle;
mod look;
mod memory;
mod recall;
mod stored;
mod tell;

pub use handle::{Releases, Report};

use super::admit;
use super::execute::{Context, Pace};
use super::journal::{Cause, Journal, JournalError, Kept};
use super::machine::{Machine, Wanted};
use super::model::{Inventory, Release};
use super::parse::{ParseError, parse};
use super::plan::Step;
use super::target::{Failure, Lead, MESSAGE_BYTES, Retry, Target};
use crate::paths::ClusterPaths;
use clock::Clock;
use follow::Resting;
use holdfast_api::kubernetes::{FailedRelease, ReleaseRef, release_digest};
use holdfast_api::{Reason, brief, chain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stored::Stored;
use tokio::sync::watch;

/// How soon a place that was refused, or a record that could not be stored, is tried again.
const SOON: Duration = Duration::from_secs(5);
/// How long an answer that this node leads holds, well within the time that the place is kept for a
/// leader that says nothing. Asked for at every step, it took longer than the steps.
const LEADS_FOR: Duration = SOON;
/// How often the release in force is looked at; what somebody removed is applied again.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How soon a node that joined is told which release is in force. The leader keeps its place with
/// the same step: it takes less than the time after which a silent one loses it.
const NEWCOMERS_EVERY: Duration = Duration::from_secs(10);

/// The engine; [`ReleaseEngine::run`] does the work.
pub struct ReleaseEngine<T> {
    target: Arc<T>,
    journal: Journal,
    machine: Machine,
    /// What the journal has; none when that is not known.
    stored: Option<Stored>,
    pace: Pace,
    clock: Clock,
    wanted: watch::Receiver<Option<Kept>>,
    /// The datastore is being put back to a snapshot.
    restoring: watch::Receiver<bool>,
    /// A release that is wanted and whose text cannot be kept yet, and why not.
    unkept: Option<(ReleaseRef, Failure)>,
    report: Arc<watch::Sender<Report>>,
    /// When this node was told last that it leads.
    led: Option<Instant>,
    /// Taken from the site since this node leads.
    has_recalled: bool,
    /// Digest of the release whose images this node has, while it follows.
    followed: Option<String>,
    /// Why it does not pull just now, while it follows.
    resting: Option<Resting>,
    /// What the site remembers of versions that failed; none when that is not known.
    shared: Option<Vec<FailedRelease>>,
    /// What the site could not be told of them; people were.
    unshared: Option<Vec<FailedRelease>>,
    /// When a node that does not lead asks again what the site remembers.
    recall_at: Instant,
    /// Digest of the release whose text the site keeps.
    kept_text: Option<String>,
    /// Digest of the release whose images alone this node was told to keep.
    kept_only: Option<String>,
    /// When what is in force was seen to be there; none when it is to be looked at now.
    looked: Option<Instant>,
    /// Why nobody knows whether what is in force is there.
    doubt: Option<Failure>,
    phase_since: Instant,
}

impl<T: Target> ReleaseEngine<T> {
    /// An engine that carries on where the journal of this node says, and its handle.
    pub fn open(paths: &ClusterPaths, target: Arc<T>) -> (Self, Releases) {
        let journal = Journal::new(paths);
        let record = journal.load();
        let text = |digest: &str| release_kept(&journal, digest);
        let good = record.good.as_ref().and_then(|good| text(&good.release.digest));
        let tried = record.attempt.as_ref().and_then(|attempt| text(&attempt.release.digest));
        let machine = Machine::new(record, good, tried);
        let (want, wanted) = watch::channel(None);
        let (restores, restoring) = watch::channel(false);
        let (report, reports) = watch::channel(Report::default());
        let mut engine = ReleaseEngine {
            target,
            journal: journal.clone(),
            machine,
            stored: None,
            pace: Pace::default(),
            clock: Clock::default(),
            wanted,
            restoring,
            unkept: None,
            report: Arc::new(report),
            led: None,
            has_recalled: false,
            followed: None,
            resting: None,
            shared: None,
            unshared: None,
            recall_at: Instant::now(),
            kept_text: None,
            kept_only: None,
            looked: None,
            doubt: Some(look::at_start()),
            phase_since: Instant::now(),
        };
        engine.tell(None);
        (engine, Releases::new(journal, want, restores, reports))
    }

    /// Works until it is dropped, or its last handle is.
    pub async fn run(mut self) {
        loop {
            self.take_wanted();
            let pause = self.turn().await;
            if let Some(mut pause) = pause {
                if self.unkept.is_some() {
                    pause = pause.min(SOON);
                }
                tokio::select! {
                    // All only end a pause.
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => self.wanted.mark_changed(),
                        Err(_) => return,
                    },
                    changed = self.restoring.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// One thing; how long to pause after it unless something else is wanted.
    async fn turn(&mut self) -> Option<Duration> {
        if self.machine.wanted().is_none() && !self.machine.is_busy() && !self.machine.is_torn() {
            self.tell(None);
            return Some(LOOK_EVERY);
        }
        if *self.restoring.borrow() && !self.machine.is_busy() {
            return Some(self.doubts(&look::restoring()));
        }
        if self.led.is_none_or(|at| at.elapsed() >= LEADS_FOR) {
            let asked = Instant::now();
            self.led = None;
            match self.target.lead().await {
                Ok(Lead::Ours) => {
                    (self.followed, self.resting, self.led) = (None, None, Some(asked));
                }
                // What refuses it may be what the way back removes. The next step asks again: from
                // now on another node may take the place at any moment.
                Ok(Lead::Unrenewed(failure)) if self.goes_on(&failure) => {
                    tracing::warn!(reason = %failure.reason, message = failure.message, "goes on; the place is not renewed");
                    (self.followed, self.resting) = (None, None);
                }
                Ok(Lead::Others) => return Some(self.follow().await),
                Ok(Lead::Unrenewed(failure)) | Err(failure) => return Some(self.doubts(&failure)),
            }
        }
        if let Err(failure) = self.recall().await {
            return Some(self.doubts(&failure));
        }
        let step = match self.prepare() {
            Ok(Some(step)) => step,
            Ok(None) => return Some(self.rest().await),
            Err(error) => {
                let failure = Failure::always(error.reason(), chain(&error));
                if self.report.borrow().state.reason != Some(failure.reason) {
                    tracing::error!(error = failure.message, "the release waits");
                }
                self.tell(Some(&failure));
                return Some(SOON);
            }
        };
        // Whoever ends the process at one of these two has ended it where it hurts most.
        let back = self.machine.is_going_back();
        tracing::debug!(%step, kind = ?step.kind(), back, "begins");
        if let Some(outcome) = self.execute_unless_another_is_wanted(&step).await {
            tracing::debug!(%step, kind = ?step.kind(), back, "over");
            let committed =
                self.machine.trying().filter(|_| step == Step::Commit && outcome.is_ok());
            if let Some(digest) = committed.map(|release| release.reference.digest.clone())
                && let Err(failure) = self.keep_text(&digest).await
            {
                tracing::info!(reason = %failure.reason, message = failure.message, "the text is kept later");
            }
            self.conclude(&step, outcome);
        }
        None
    }

    /// Whether a node that is named as the leader, and cannot renew that for this reason, may go on.
    /// Forwards it comes to a rehearsal that fails, if it is the release that refuses.
    fn goes_on(&self, unrenewed: &Failure) -> bool {
        let is_refused = unrenewed.retry != Retry::Always;
        self.machine.is_going_back() || (self.machine.is_torn() && is_refused)
    }

    /// The next step, once the record is stored.
    fn prepare(&mut self) -> Result<Option<Step>, JournalError> {
        let before = self.machine.is_busy();
        let step = self.machine.next(&self.clock.moment());
        let phase = step.as_ref().map(Step::phase);
        let record = self.machine.record();
        if self.stored.as_ref().is_none_or(|stored| stored.is_stale(record, phase)) {
            self.stored = None;
            self.journal.store(record)?;
            self.stored = Some(Stored::now(record, phase));
        }
        if !before && self.machine.is_busy() {
            self.report.send_modify(|report| report.took_ms.clear());
        }
        self.tell(None);
        Ok(step)
    }

    /// None when another node leads.
    async fn execute(&mut self, step: &Step) -> Option<Result<(), Failure>> {
        if matches!(step, Step::PrePull(_)) {
            self.kept_only = None;
        }
        let back = self.machine.is_going_back();
        let report = Arc::clone(&self.report);
        // Of what is taken back the cause counts; else nothing that an earlier attempt ran into.
        let cause = self.machine.cause().filter(|_| back).map(|cause| cause.reason);
        let say = move |reason: Option<Reason>, words: String| {
            let told = (reason.or(cause), brief(&words, MESSAGE_BYTES));
            report.send_if_modified(|Report { state, .. }| {
                let before = std::mem::replace(&mut state.message, told.1);
                let is_new = (state.reason, &before) != (told.0, &state.message);
                state.reason = told.0;
                is_new
            });
        };
        let release = if back { self.machine.good() } else { self.machine.trying() };
        let good = self.machine.record().good.as_ref();
        let mut site = self.machine.site_record(step);
        self.target.node().clone_into(&mut site.by);
        let context = Context {
            release: release.map(Arc::as_ref),
            good: self.machine.good().map(Arc::as_ref),
            known: good.map_or_else(Inventory::default, |good| good.objects.clone()),
            site,
            back,
            pace: self.pace,
            began: self.machine.began(),
            say: &say,
        };
        context.execute(self.target.as_ref(), step).await
    }

    /// None when the step was cut off.
    async fn execute_unless_another_is_wanted(
        &mut self,
        step: &Step,
    ) -> Option<Result<(), Failure>> {
        let mut wanted = self.wanted.clone();
        let target = Arc::clone(&self.target);
        loop {
            tokio::select! {
                outcome = self.execute(step) => {
                    if outcome.is_none() {
                        self.led = None;
                    }
                    return outcome;
                }
                // The step may be cut off anywhere, and begun anew when it still has a point.
                changed = wanted.changed() => {
                    if changed.is_err() || self.take_wanted() {
                        return None;
                    }
                }
                () = until_lead(target.as_ref(), &Lead::Others) => {
                    self.led = None;
                    return None;
                }
            }
        }
    }

    fn conclude(&mut self, step: &Step, outcome: Result<(), Failure>) {
        if let Err(failure) = &outcome {
            tracing::warn!(%step, reason = %failure.reason, message = failure.message, "failed");
        }
        let was_back = self.machine.is_going_back();
        let is_recorded =
            outcome.is_ok() && matches!(step, Step::Record | Step::Commit | Step::Settle);
        self.machine.on(outcome, &self.clock.moment());
        if is_recorded {
            self.shared = Some(self.machine.record().failed.clone());
        }
        if !self.machine.is_busy() {
            // Before anybody is told: a plan is made from what the journal has.
            self.note();
        }
        let digest = |good: Option<&Arc<Release>>| {
            good.map(|good| good.reference.digest.clone()).unwrap_or_default()
        };
        let good = digest(self.machine.good());
        match step {
            Step::Commit if !self.machine.is_busy() => {
                tracing::info!(release = good, "the release is in force");
                (self.looked, self.doubt) = (Some(Instant::now()), None);
            }
            Step::Settle if !self.machine.is_busy() => {
                tracing::warn!(release = good, "the last good release is in force again");
                (self.looked, self.doubt) = (Some(Instant::now()), None);
            }
            _ if !was_back && self.machine.is_going_back() => {
                tracing::warn!("the release failed and is taken back");
            }
            _ => {}
        }
        self.tell(None);
    }

    /// Takes what is wanted, when it is new. True when the step under way has lost its point.
    fn take_wanted(&mut self) -> bool {
        if self.unkept.is_none() && !self.wanted.has_changed().unwrap_or(false) {
            return false;
        }
        let kept = self.wanted.borrow_and_update().clone();
        let was_unkept = self.unkept.take().is_some();
        let wanted = match kept.as_ref().map(|kept| self.accept(kept)).transpose() {
            Ok(wanted) => wanted,
            Err(error) => {
                // What is asked for is not lost with a full disk; it is tried again soon.
                if !was_unkept {
                    tracing::error!(error = chain(&error), "the release waits");
                }
                let reference = kept.map(|kept| kept.release).unwrap_or_default();
                self.unkept = Some((reference, Failure::always(error.reason(), chain(&error))));
                self.tell(None);
                return false;
            }
        };
        if wanted.as_ref() == self.machine.wanted() {
            return false;
        }
        let cut = self.machine.want(wanted);
        self.tell(None);
        cut
    }

    /// Reads a release and keeps its text.
    ///
    /// # Errors
    /// The text cannot be kept now, which says nothing of the release.
    fn accept(&self, kept: &Kept) -> Result<Wanted, JournalError> {
        let unusable = |reason, message: &str| {
            Wanted::Unusable(kept.release.clone(), Cause::new(reason, message))
        };
        if release_digest(&kept.manifests) != kept.release.digest {
            let message = "the manifests are not those that the digest stands for";
            return Ok(unusable(Reason::ReleaseInvalid, message));
        }
        match read(kept) {
            Ok(release) if let Err(failure) = self.may_be_tried(&release) => {
                Ok(unusable(failure.reason, &failure.message))
            }
            Ok(release) => {
                self.journal.keep(kept)?;
                Ok(Wanted::Release(Arc::new(release)))
            }
            Err(error) => Ok(unusable(error.reason(), &chain(&error))),
        }
    }

    fn may_be_tried(&self, release: &Release) -> Result<(), Failure> {
        let good = self.machine.record().good.as_ref().map(|good| &good.release.digest);
        match good == Some(&release.reference.digest) {
            true => Ok(()),
            false => admit::release(release),
        }
    }

    /// Nothing is to be done now.
    async fn rest(&mut self) -> Duration {
        if let Some(until) = self.machine.wake_at() {
            // Another node may have brought it.
            self.has_recalled &= !self.machine.awaits_text();
            return until.saturating_duration_since(self.clock.now());
        }
        self.sweep();
        self.share_refusals().await;
        if let Some(good) = self.machine.good().cloned() {
            if let Err(failure) = self.keep_only(&good).await {
                tracing::warn!(reason = %failure.reason, message = failure.message, "images stay pinned");
            }
            if let Err(failure) = self.target.announce(&good.reference.digest).await {
                tracing::debug!(reason = %failure.reason, message = failure.message, "new nodes wait");
            }
            if let Err(failure) = self.keep_text(&good.reference.digest).await {
                tracing::warn!(reason = %failure.reason, message = failure.message, "the release is on this node alone");
            }
        }
        self.look().await
    }

    /// Holds the images of this release, and no others: also after a restart of the manager, and
    /// after an attempt that was refused before anything was applied.
    async fn keep_only(&mut self, release: &Release) -> Result<(), Failure> {
        let digest = &release.reference.digest;
        if self.kept_only.as_ref() != Some(digest) {
            self.target.keep_only(Some(release)).await?;
            self.kept_only = Some(digest.clone());
        }
        Ok(())
    }

    /// Stores the record while nothing is under way; what cannot be stored now is before the next
    /// step.
    fn note(&mut self) {
        let record = self.machine.record();
        if self.stored.as_ref().is_none_or(|stored| stored.is_stale(record, None)) {
            self.stored = match self.journal.store(record) {
                Ok(()) => Some(Stored::now(record, None)),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the journal of releases waits");
                    None
                }
            };
        }
    }

    /// Texts that nobody needs any more.
    fn sweep(&self) {
        let record = self.machine.record();
        let keep: Vec<&str> = [
            record.good.as_ref().map(|good| good.release.digest.as_str()),
            record.attempt.as_ref().map(|attempt| attempt.release.digest.as_str()),
            self.machine.wanted().map(|wanted| wanted.reference().digest.as_str()),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let Err(error) = self.journal.sweep(&keep) {
            tracing::warn!(error = chain(&error), "old releases stay on the disk");
        }
    }
}

/// Waits until this one leads. A node holds its own lead meanwhile: a step may take longer than a
/// silent leader is awaited.
async fn until_lead(target: &impl Target, who: &Lead) {
    loop {
        tokio::time::sleep(SOON).await;
        // While nobody answers, nobody else is told that it leads either.
        if target.lead().await.is_ok_and(|now| now == *who) {
            return;
        }
    }
}

fn release_kept(journal: &Journal, digest: &str) -> Option<Arc<Release>> {
    let kept = journal.kept(digest)?;
    match read(&kept) {
        Ok(release) => Some(Arc::new(release)),
        Err(error) => {
            tracing::error!(
                digest,
                error = chain(&error),
                "a release that was good is not any more"
            );
            None
        }
    }
}

fn read(kept: &Kept) -> Result<Release, ParseError> {
    let timeout = Duration::from_secs(u64::from(kept.timeout_secs));
    parse(&kept.release, &kept.manifests, timeout)
}

#[cfg(test)]
mod tests;
