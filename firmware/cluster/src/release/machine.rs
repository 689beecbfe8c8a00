//! What to do next with a release, given what was done and how it ended. No clock, no files, no
//! cluster: `now` and the jitter are arguments, steps are results.
//!
//! ```text
//!            another release is wanted, nothing was touched
//!        ┌──────────────────────────────────────────────────┐
//!        ▼                                                  │
//!      Idle ──▶ Preflight ──▶ PrePull ──▶ Applying ──▶ Verifying ──▶ Pruning ──▶ Idle (committed)
//!        ▲          │            │            │             │
//!        │   refused, remembered │     failed, remembered   │      Pruning only goes on:
//!        ├──────────┴────────────┘            │             │      what it removed is gone
//!        │                                    ▼             │
//!        └────────── Idle (rolled back) ◀── RollingBack ◀───┘
//!                                             │   ▲
//!                                             └───┘ a round that failed is made again
//! ```
//!
//! * What can pass (API server, registry, a check) is tried again, with a pause that grows to
//!   [`LONGEST_PAUSE`]. What cannot, or lasts longer than the object may take, ends the attempt.
//! * An attempt that touched nothing is dropped. One that did is taken back: the last good
//!   release is applied again, what only the attempt had is removed.
//! * A version that failed is refused until its `force` grows, by every node of the site. The one in
//!   force is never refused: when the site has gone astray it is applied until it is in force again.
//! * A commit is rehearsed before anything is removed for good. One that is refused all the same is
//!   taken back when nothing was removed; else it is tried again, and a newer release may be tried.
//! * Another release that is wanted in the middle: before anything is touched, at once; while
//!   applying, it takes over from where the site is (or the last good one is put back, when that
//!   is what is wanted); while pruning or rolling back, afterwards. A rollback that cannot be
//!   completed does not keep a newer release from being tried.
//!
//! Whoever drives it stores [`Machine::record`] before every step it carries out.

mod resume;
mod run;
mod standing;

pub use run::{LONGEST_PAUSE, LONGEST_ROUND_PAUSE, Moment};
pub use standing::refusal;

use super::journal::{Attempt, Cause, Direction, MAX_FAILED, Record};
use super::model::{DEFAULT_TIMEOUT, Good, Inventory, Release, Strayed};
use super::order::{Class, class};
use super::plan::{self, Have, Step};
use super::target::{Failure, Retry};
use crate::object::ObjectId;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{FailedRelease, ReleasePhase, ReleaseRef};
use run::{FIRST_PAUSE, Run, pause};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an answer that may pass is waited for where no object gives a time, and while the last
/// good release is put back.
const PASSES_WITHIN: Duration = Duration::from_secs(60);

/// The same for writing down that it is put back: what refuses that may be among what is removed
/// next.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// A release that can be tried.
    Release(Arc<Release>),
    /// One that cannot be read.
    Unusable(ReleaseRef, Cause),
}

impl Wanted {
    /// Which release.
    pub fn reference(&self) -> &ReleaseRef {
        match self {
            Wanted::Release(release) => &release.reference,
            Wanted::Unusable(reference, _) => reference,
        }
    }
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    record: Record,
    /// The text of `record.good`, when this node has it.
    good: Option<Arc<Release>>,
    wanted: Option<Wanted>,
    run: Option<Run>,
    /// Digest of the release that failed last and how that ended, until another one is wanted.
    ended: Option<(String, ReleasePhase)>,
}

impl Machine {
    /// Carries on from `record`; `good` and `attempted` are the texts of the releases that it
    /// names, as far as they are there.
    pub fn new(
        record: Record,
        good: Option<Arc<Release>>,
        attempted: Option<Arc<Release>>,
    ) -> Self {
        let mut machine = Machine { record, good, wanted: None, run: None, ended: None };
        machine.be_brief();
        machine.resume(attempted);
        machine
    }

    /// What has to be stored before a step is carried out.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What is asked for.
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// The release that is tried, or waits for it.
    pub fn trying(&self) -> Option<&Arc<Release>> {
        self.run.as_ref()?.release.as_ref()
    }

    /// The last good release, when its text is here.
    pub fn good(&self) -> Option<&Arc<Release>> {
        self.good.as_ref()
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    /// Whether the site may be something between two releases.
    pub fn is_torn(&self) -> bool {
        self.record.touched
    }

    /// Whether there is a release to go back to whose text is not here, or may be one.
    fn lacks_text(&self) -> bool {
        self.record.unknown || (self.record.good.is_some() && self.good.is_none())
    }

    /// Whether it can go on only with a text that another node may bring.
    pub fn awaits_text(&self) -> bool {
        let is_flawed = self.run.as_ref().is_some_and(|run| run.flaw.is_some());
        self.lacks_text() && self.is_going_back() && is_flawed
    }

    /// When the step under way was begun first; a step that an away API server cut off goes on
    /// waiting from there.
    pub fn began(&self) -> Option<Instant> {
        self.run.as_ref()?.began
    }

    /// Whether steps lead back to the last good release.
    pub fn is_going_back(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.direction == Direction::Back)
    }

    /// Steps that would be made for `wanted` from here, were nothing under way.
    pub fn plan(&self, wanted: &Release) -> Vec<Step> {
        plan::forward(wanted, self.have())
    }

    /// Takes what is wanted. True when the step under way has lost its point and is to be cut off.
    pub fn want(&mut self, wanted: Option<Wanted>) -> bool {
        let digest = |wanted: &Option<Wanted>| {
            wanted.as_ref().map(|w| (w.reference().digest.clone(), w.reference().force))
        };
        if digest(&self.wanted) != digest(&wanted) {
            self.ended = None;
        }
        self.wanted = wanted;
        let Some(run) = &self.run else { return false };
        let trying = self.record.attempt.as_ref().map(|attempt| &attempt.release);
        let wanted = self.wanted.as_ref().map(Wanted::reference);
        let same = wanted.map(|wanted| &wanted.digest) == trying.map(|trying| &trying.digest);
        let forced = same && wanted.map(|wanted| wanted.force) != trying.map(|trying| trying.force);
        match run.direction {
            Direction::Forward if forced && (self.record.touched || run.is_past_return()) => {
                self.rename();
                false
            }
            Direction::Forward if (same && !forced) || run.is_past_return() => false,
            Direction::Forward if !self.record.touched => {
                self.drop_attempt();
                true
            }
            Direction::Forward if self.wants_good() => {
                self.go_back(None);
                true
            }
            Direction::Back if run.flaw.is_none() => false,
            Direction::Forward | Direction::Back if self.candidate().is_some() => {
                self.drop_attempt();
                true
            }
            Direction::Forward | Direction::Back => false,
        }
    }

    /// Objects of the release in force are gone: it is applied once more.
    pub fn stray(&mut self) {
        if self.run.is_none() && self.record.good.is_some() {
            self.record.strayed = Some(Strayed::Objects);
        }
    }

    /// The step to carry out now, once the record is stored; none when there is nothing to do, or
    /// not yet ([`Machine::wake_at`]).
    pub fn next(&mut self, moment: &Moment) -> Option<Step> {
        if self.run.is_none() {
            self.begin();
        }
        let lacks_text = self.lacks_text();
        let run = self.run.as_mut()?;
        if run.pause.is_some_and(|until| moment.now < until) {
            return None;
        }
        run.pause = None;
        if *run.step() == Step::Settle && run.flaw.is_none() && lacks_text {
            run.flaw = Some(if self.record.unknown {
                let message = "what was in force is not known, so nothing is removed or put back";
                Failure::never(Reason::ReleaseRecordUnreadable, message)
            } else {
                let message = "the text of the last good release is neither here nor on the site";
                Failure::never(Reason::ReleaseUnavailable, message)
            });
        }
        if matches!(run.step(), Step::Settle | Step::Commit) && run.flaw.is_some() {
            if self.candidate().is_some() {
                self.drop_attempt();
                return self.next(moment);
            }
            self.run.as_mut()?.again(moment);
            if let Some(attempt) = &mut self.record.attempt {
                attempt.unpruned = Inventory::default();
            }
            self.note_done();
            return None;
        }
        if run.at == 0 {
            run.flaw = None;
        }
        run.began.get_or_insert(moment.now);
        let step = run.step().clone();
        if step == Step::Record
            && let Some(release) = &run.release
        {
            let kept = self.record.good.as_ref().map(|good| good.objects.clone());
            let new = release.inventory().without(&kept.unwrap_or_default());
            self.record.leftovers = self.record.leftovers.with(&new);
            self.record.touched = true;
        }
        Some(step)
    }

    /// Takes the outcome of the step that [`Machine::next`] gave last.
    pub fn on(&mut self, outcome: Result<(), Failure>, moment: &Moment) {
        let Some(run) = &mut self.run else { return };
        let failure = match outcome {
            Ok(()) => return self.done(),
            Err(failure) => failure,
        };
        run.failed += 1;
        if failure.retry != Retry::Always {
            run.failing.get_or_insert(moment.now);
        }
        run.trouble = Some(failure.clone());
        let limit = match (run.step(), &run.release) {
            (Step::DryRun(id) | Step::Apply(id), Some(release)) => {
                release.item(id).map_or(DEFAULT_TIMEOUT, |item| item.timeout)
            }
            (Step::Record, None) => RECORDED_WITHIN,
            (Step::Rehearse, Some(release)) => rehearsed_within(release),
            _ => PASSES_WITHIN,
        };
        let must_succeed = *run.step() == Step::Commit && run.has_pruned();
        let passed = run.failing.map(|since| moment.now.duration_since(since));
        let left = limit.saturating_sub(passed.unwrap_or_default());
        let alone = failure.after.unwrap_or_default().min(LONGEST_PAUSE);
        let wait = pause(FIRST_PAUSE, LONGEST_PAUSE, run.failed, moment).max(alone);
        let again = match failure.retry {
            Retry::Always => Some(wait),
            Retry::Soon | Retry::Never if must_succeed => Some(wait),
            // Once more when the time is over, and not later.
            Retry::Soon => (!left.is_zero()).then(|| wait.min(left).max(alone)),
            Retry::Never => None,
        };
        if let Some(wait) = again {
            run.pause = Some(moment.now + wait);
        } else {
            self.give_up(failure, moment);
        }
    }

    /// When [`Machine::next`] has something new to say, unless something is wanted before.
    pub fn wake_at(&self) -> Option<Instant> {
        self.run.as_ref()?.pause
    }

    fn have(&self) -> Have<'_> {
        Have {
            good: self.record.good.as_ref(),
            leftovers: Some(&self.record.leftovers),
            strayed: self.record.strayed,
        }
    }

    fn is_good(&self, reference: &ReleaseRef) -> bool {
        self.record.good.as_ref().is_some_and(|good| good.release.digest == reference.digest)
    }

    fn wants_good(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| self.is_good(wanted.reference()))
    }

    /// The wanted release when it is to be tried: not in force, not refused.
    fn candidate(&self) -> Option<&Arc<Release>> {
        match &self.wanted {
            Some(Wanted::Release(release))
                if self.refusal(&release.reference).is_none()
                    && !self.is_good(&release.reference) =>
            {
                Some(release)
            }
            _ => None,
        }
    }

    fn begin(&mut self) {
        let release = match (self.candidate(), &self.wanted) {
            (Some(release), _) => Arc::clone(release),
            // Of an attempt that was dropped for another one, which in turn cannot be tried.
            (None, _) if self.record.touched => return self.go_back(None),
            (None, Some(Wanted::Release(release))) if self.is_good(&release.reference) => {
                Arc::clone(release)
            }
            (None, _) => return,
        };
        let plan = plan::forward(&release, self.have());
        if plan.is_empty() {
            return;
        }
        self.record.attempt = Some(Attempt {
            release: release.reference.clone(),
            plan: sum(&plan),
            ..Attempt::default()
        });
        self.run = Some(Run::new(Direction::Forward, Some(release), plan));
    }

    fn go_back(&mut self, cause: Option<Cause>) {
        let plan = self.plan_back();
        let release = self.record.attempt.take().map(|attempt| attempt.release);
        self.record.attempt = Some(Attempt {
            release: release.unwrap_or_default(),
            direction: Direction::Back,
            plan: sum(&plan),
            cause,
            ..Attempt::default()
        });
        self.run = Some(Run::new(Direction::Back, None, plan));
    }

    fn plan_back(&self) -> Vec<Step> {
        if self.record.unknown {
            // What the failed release brought may be what was in force.
            return plan::back(None, &Inventory::default(), &Inventory::default());
        }
        let kept = self.record.good.as_ref().map(|good| good.objects.clone()).unwrap_or_default();
        plan::back(self.good.as_deref(), &kept, &self.record.leftovers)
    }

    fn done(&mut self) {
        let Some(run) = &mut self.run else { return };
        run.failed = 0;
        run.failing = None;
        run.trouble = None;
        run.began = None;
        match run.step() {
            Step::Commit => self.committed(),
            Step::Settle => self.settled(),
            Step::Preflight(_)
            | Step::DryRun(_)
            | Step::PrePull(_)
            | Step::Record
            | Step::Apply(_)
            | Step::Wait(..)
            | Step::Verify
            | Step::Rehearse
            | Step::Prune(_) => {
                run.at += 1;
                self.note_done();
            }
        }
    }

    fn committed(&mut self) {
        let Some(release) = self.run.take().and_then(|run| run.release) else { return };
        let attempt = self.record.attempt.take().unwrap_or_default();
        self.record.failed.retain(|failed| failed.release.digest != release.reference.digest);
        self.record.good = Some(Good::of(&release));
        self.record.leftovers = attempt.unpruned;
        self.record.touched = false;
        self.record.unknown = false;
        self.record.strayed = None;
        self.good = Some(release);
    }

    fn settled(&mut self) {
        self.run = None;
        let attempt = self.record.attempt.take().unwrap_or_default();
        self.ended = Some((attempt.release.digest, ReleasePhase::RolledBack));
        self.record.leftovers = attempt.unpruned;
        self.record.touched = false;
    }

    /// What could not be removed is remembered, and the rest goes on.
    fn leave(&mut self, id: &ObjectId) {
        if let Some(attempt) = &mut self.record.attempt {
            let more = [id.clone()].into_iter().collect();
            attempt.unpruned = attempt.unpruned.with(&more);
        }
        self.done();
    }

    fn give_up(&mut self, failure: Failure, moment: &Moment) {
        let repairs = self.trying().is_some_and(|release| self.is_good(&release.reference));
        let Some(run) = &mut self.run else { return };
        let step = run.step().clone();
        match (run.direction, &step) {
            // What must stay does not keep the last good release from being in force.
            (Direction::Back, Step::Prune(id)) if failure.reason == Reason::ReleaseLeftover => {
                self.leave(id);
            }
            // It is in force, and that cannot be written down: a newer release may be tried.
            (Direction::Back, Step::Settle) => run.flaw = Some(failure),
            (Direction::Back, _) => {
                run.flaw = Some(failure);
                self.done();
            }
            (Direction::Forward, Step::Prune(id)) => self.leave(id),
            // What somebody took over, or what does not run, keeps nothing else from being put right.
            (
                Direction::Forward,
                Step::DryRun(_) | Step::Apply(_) | Step::Wait(..) | Step::Verify,
            ) if repairs => {
                run.flaw = Some(failure);
                self.done();
            }
            (Direction::Forward, _) if repairs => {
                run.again(moment);
                self.note_done();
            }
            (Direction::Forward, _) => {
                let cause = Cause::new(failure.reason, failure.message);
                self.remember(&cause, moment);
                if self.record.touched {
                    self.go_back(Some(cause));
                } else {
                    let attempt = self.record.attempt.take().unwrap_or_default();
                    self.ended = Some((attempt.release.digest, ReleasePhase::Refused));
                    self.drop_attempt();
                }
            }
        }
    }

    fn remember(&mut self, cause: &Cause, moment: &Moment) {
        let Some(attempt) = &self.record.attempt else { return };
        let release = attempt.release.clone();
        self.record.failed.retain(|failed| failed.release.digest != release.digest);
        self.record.failed.push(FailedRelease {
            release,
            reason: cause.reason,
            message: cause.message.clone(),
            at: moment.wall,
        });
        let surplus = self.record.failed.len().saturating_sub(MAX_FAILED);
        self.record.failed.drain(..surplus);
    }
}

/// Until the commit is rehearsed nothing of the site may be writable by anybody: what refuses it
/// has as long as a webhook's object may take, and no longer than what else may pass.
fn rehearsed_within(release: &Release) -> Duration {
    let gates = release.items.iter().filter(|item| class(&item.object.id) == Class::Gate);
    gates.map(|item| item.timeout).max().map_or(PASSES_WITHIN, |longest| longest.min(PASSES_WITHIN))
}

fn sum(plan: &[Step]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for step in plan {
        step.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
