//! Carrying on: from the journal after a restart, and from what the site remembers; and what it is
//! told to remember.

use super::run::Run;
use super::{Machine, sum};
use crate::release::journal::MAX_FAILED;
use crate::release::journal::{Cause, Direction};
use crate::release::model::{Good, Inventory, Release, SiteRecord, Strayed};
use crate::release::plan::{self, Step};
use crate::release::target::MESSAGE_BYTES;
use holdfast_api::{Reason, brief};
use std::sync::Arc;

impl Machine {
    /// Takes what the site itself remembers, which goes before what this node does: another node
    /// may have applied releases meanwhile, or the site was reset. `is_ours`: this node wrote it.
    /// `text` finds a release.
    pub fn adopt(
        &mut self,
        site: Option<SiteRecord>,
        is_ours: bool,
        text: impl Fn(&str) -> Option<Arc<Release>>,
    ) {
        let digest = |good: &Option<Good>| good.as_ref().map(|good| good.release.digest.clone());
        let trying = self.record.attempt.as_ref().map(|attempt| attempt.release.digest.clone());
        let Some(site) = site else {
            if self.record.good.is_some() {
                self.record.strayed = Some(Strayed::Site);
            }
            self.restart();
            return;
        };
        self.share(&site);
        self.record.unknown = site.unknown;
        let torn = site.torn || !site.attempt.is_empty();
        if digest(&site.good) != digest(&self.record.good) {
            self.good = digest(&site.good).and_then(|digest| text(&digest));
            self.record.good = site.good;
            self.record.leftovers = site.leftovers;
            self.record.touched = torn;
            self.record.strayed = None;
            self.drop_attempt();
            return;
        }
        let is_new_text = self.good.is_none() && {
            self.good = digest(&site.good).and_then(|digest| text(&digest));
            self.good.is_some()
        };
        // It is over, there: what this node read of it meanwhile is not so any more.
        if !torn && !is_ours {
            self.record.touched = false;
            self.record.leftovers = site.leftovers.clone();
            if self.is_going_back() {
                return self.drop_attempt();
            }
        }
        // What another node did with the same release counts for nothing of what this one noted.
        let by_another = torn && !is_ours;
        if by_another || trying.as_deref().unwrap_or_default() != site.attempt {
            self.record.leftovers = self.record.leftovers.with(&site.leftovers);
            self.record.touched |= torn;
            match by_another && site.direction == Direction::Back {
                // It failed there; or another one is wanted by now.
                true => self.drop_attempt(),
                false => self.restart(),
            }
        } else if is_new_text && self.is_going_back() {
            self.restart();
        }
    }

    /// Takes what failed elsewhere. What is in force did not fail, whatever is remembered here.
    fn share(&mut self, site: &SiteRecord) {
        let good = site.good.as_ref().map(|good| good.release.digest.as_str());
        for theirs in &site.failed {
            match self
                .record
                .failed
                .iter_mut()
                .find(|ours| ours.release.digest == theirs.release.digest)
            {
                Some(ours) if ours.release.force < theirs.release.force => ours.clone_from(theirs),
                Some(_) => {}
                None => self.record.failed.push(theirs.clone()),
            }
        }
        self.record.failed.retain(|failed| Some(failed.release.digest.as_str()) != good);
        self.be_brief();
        let surplus = self.record.failed.len().saturating_sub(MAX_FAILED);
        self.record.failed.drain(..surplus);
    }

    /// The same content is wanted with another `force`, and what was done for it stays done: it
    /// ends as what is wanted now, and nodes that say how far they are speak of that.
    pub(super) fn rename(&mut self) {
        let Some(reference) = self.wanted.as_ref().map(|wanted| wanted.reference().clone()) else {
            return;
        };
        if let Some(attempt) = &mut self.record.attempt {
            attempt.release.clone_from(&reference);
        }
        if let Some(release) = self.run.as_mut().and_then(|run| run.release.as_mut()) {
            Arc::make_mut(release).reference = reference;
        }
    }

    /// What was written down by an older manager has no bound.
    pub(super) fn be_brief(&mut self) {
        for failed in &mut self.record.failed {
            failed.message = brief(&failed.message, MESSAGE_BYTES);
        }
    }

    /// What the site has to remember while `step` is carried out, or after it.
    pub fn site_record(&self, step: &Step) -> SiteRecord {
        let attempt = self.record.attempt.as_ref();
        let failed = self.record.failed.iter();
        match (step, self.trying()) {
            (Step::Commit, Some(release)) => SiteRecord {
                good: Some(Good::of(release)),
                leftovers: attempt.map(|attempt| attempt.unpruned.clone()).unwrap_or_default(),
                failed: failed
                    .filter(|one| one.release.digest != release.reference.digest)
                    .cloned()
                    .collect(),
                ..SiteRecord::default()
            },
            (Step::Settle, _) => SiteRecord {
                good: self.record.good.clone(),
                failed: failed.cloned().collect(),
                leftovers: attempt.map(|attempt| attempt.unpruned.clone()).unwrap_or_default(),
                ..SiteRecord::default()
            },
            _ => SiteRecord {
                good: self.record.good.clone(),
                leftovers: self.record.leftovers.clone(),
                attempt: attempt.map(|a| a.release.digest.clone()).unwrap_or_default(),
                direction: attempt.map(|attempt| attempt.direction).unwrap_or_default(),
                torn: self.record.touched,
                unknown: self.record.unknown,
                failed: failed.cloned().collect(),
                by: String::new(),
            },
        }
    }

    /// Takes up the journal's attempt.
    pub(super) fn resume(&mut self, attempted: Option<Arc<Release>>) {
        let Some(attempt) = &self.record.attempt else { return };
        let (plan, release) = match (attempt.direction, attempted) {
            (Direction::Back, _) => (self.plan_back(), None),
            (Direction::Forward, Some(release)) => {
                (plan::forward(&release, self.have()), Some(release))
            }
            (Direction::Forward, None) if self.record.touched => {
                let message = format!("the text of {} is lost", attempt.release.name);
                return self.go_back(Some(Cause::new(Reason::ReleaseUnavailable, message)));
            }
            (Direction::Forward, None) => return self.drop_attempt(),
        };
        if plan.is_empty() {
            return self.drop_attempt();
        }
        let mut run = Run::new(attempt.direction, release, plan);
        if attempt.plan == sum(&run.plan) {
            run.at = attempt.done.min(run.plan.len() - 1);
        }
        self.run = Some(run);
        self.note_plan();
    }

    /// Makes the attempt's plan anew and begins it again: the site is not as it was thought.
    pub(super) fn restart(&mut self) {
        if let Some(attempt) = &mut self.record.attempt {
            attempt.done = 0;
            attempt.unpruned = Inventory::default();
            let release = self.run.take().and_then(|run| run.release);
            self.resume(release);
        }
    }

    pub(super) fn drop_attempt(&mut self) {
        self.record.attempt = None;
        self.run = None;
    }

    pub(super) fn note_done(&mut self) {
        if let (Some(attempt), Some(run)) = (&mut self.record.attempt, &self.run) {
            attempt.done = run.at;
        }
    }

    pub(super) fn note_plan(&mut self) {
        self.note_done();
        if let (Some(attempt), Some(run)) = (&mut self.record.attempt, &self.run) {
            attempt.plan = sum(&run.plan);
        }
    }
}
