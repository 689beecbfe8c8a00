//! One step, carried out on a target. No choices are made here; whether a failure is lived with,
//! tried again or ends the attempt is the machine's to say.

use super::admit;
use super::model::{Inventory, Item, Release, SiteRecord, Strategy};
use super::order::has_readiness;
use super::plan::Step;
use super::target::{Check, Explained, Failure, Lead, Observed, Retry, Target};
use crate::object::ObjectId;
use holdfast_api::Reason;
use std::time::{Duration, Instant};

/// How long an object may take to go: pods end gracefully, namespaces are emptied.
const REMOVED_WITHIN: Duration = Duration::from_secs(120);
/// The same while the last good release waits for being put back.
const REMOVED_WITHIN_BACK: Duration = Duration::from_secs(60);
/// What looks hopeless for so long is not waited for any longer. A pod that needs another one
/// may well crash a few times before that one is there.
const HOPELESS_FOR: Duration = Duration::from_secs(60);
/// How often the cluster is asked why something is not ready, which takes several questions.
const EXPLAIN_EVERY: Duration = Duration::from_secs(3);

/// How often the cluster is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) first: Duration,
    pub(super) longest: Duration,
    /// Why something is not ready.
    pub(super) explain: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            first: Duration::from_millis(50),
            longest: Duration::from_millis(500),
            explain: EXPLAIN_EVERY,
        }
    }
}

/// Takes what is waited for, for people, and the reason code where there is one.
pub(super) type Say<'a> = &'a (dyn Fn(Option<Reason>, String) + Send + Sync);

/// What a step is about.
pub(super) struct Context<'a> {
    /// The release that is tried, or put back; none when there is nothing to put back.
    pub(super) release: Option<&'a Release>,
    /// The last good release.
    pub(super) good: Option<&'a Release>,
    /// Objects that are ours even when their label was taken off.
    pub(super) known: Inventory,
    /// What the site has to remember.
    pub(super) site: SiteRecord,
    /// The last good release is put back.
    pub(super) back: bool,
    pub(super) pace: Pace,
    /// When the step was begun first.
    pub(super) began: Option<Instant>,
    pub(super) say: Say<'a>,
}

impl Context<'_> {
    fn item(&self, id: &ObjectId) -> Result<&Item, Failure> {
        let item = self.release.and_then(|release| release.item(id));
        item.ok_or_else(|| Failure::never(Reason::Internal, format!("{id} is not in the release")))
    }

    /// Carries out one step. None when another node turns out to lead: what the site remembers is
    /// that one's to write.
    pub(super) async fn execute(
        &self,
        target: &impl Target,
        step: &Step,
    ) -> Option<Result<(), Failure>> {
        if *step == Step::Rehearse {
            match target.lead().await {
                Ok(Lead::Ours) => {}
                Ok(Lead::Others) => return None,
                Ok(Lead::Unrenewed(failure)) | Err(failure) => return Some(Err(failure)),
            }
        }
        let outcome = self.carry_out(target, step).await;
        Some(match outcome {
            // Nothing else may take over here: what is waited for without end is the API server
            // itself, and no single answer of one that is ready.
            Err(failure)
                if failure.retry == Retry::Always
                    && (self.back || matches!(step, Step::Prune(_)))
                    && target.check(Check::ApiServer).await.is_ok() =>
            {
                Err(Failure { retry: Retry::Soon, ..failure })
            }
            outcome => outcome,
        })
    }

    async fn carry_out(&self, target: &impl Target, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Preflight(check) => target.check(*check).await,
            Step::DryRun(id) => {
                let release = self.release.ok_or_else(nothing_to_try)?;
                let item = self.item(id)?;
                if !self.is_in_force(release) {
                    admit::item(item)?;
                }
                self.not_foreign(target, id).await?;
                target.dry_run(release, item).await
            }
            Step::PrePull(_) => {
                let release = self.release.ok_or_else(nothing_to_try)?;
                let say = |words| (self.say)(None, words);
                target.pull_here(release, &say).await?;
                target.pulled_everywhere(release, &say).await
            }
            Step::Record => target.record(&self.site).await,
            Step::Apply(id) => {
                if self.not_foreign(target, id).await? == Observed::Leaving {
                    // What is applied now would go with what is there.
                    let message = format!("{id} is being removed, and made again when it is gone");
                    return Err(Failure::soon(Reason::ReleaseTimeout, message));
                }
                let item = self.item(id)?;
                // What is put back is pinned, though the nodes speak of the other release.
                if let (true, false, Some(release)) = (item.data_plane, self.back, self.release) {
                    target.may_replace(release, item).await?;
                }
                target.apply(item, self.back).await
            }
            Step::Wait(id, patience) => self.wait(target, id, *patience).await,
            Step::Verify => self.verify(target).await,
            Step::Rehearse => {
                target.record(&self.site).await?;
                target.may_announce().await
            }
            Step::Prune(id) => self.remove(target, id).await,
            Step::Commit => {
                let release = self.release.ok_or_else(nothing_to_try)?;
                // With it the release is in force. Until then all is kept that going back needs;
                // what is left undone after it is done while the engine rests.
                target.record(&self.site).await?;
                let announced = target.announce(&release.reference.digest).await;
                if let Err(failure) = announced.and(target.keep_only(Some(release)).await) {
                    tracing::warn!(reason = %failure.reason, message = failure.message, "nodes are told later");
                }
                Ok(())
            }
            Step::Settle => {
                // Images of a release whose text is not here cannot be named; all stay.
                if self.good.is_some() || self.site.good.is_none() {
                    target.keep_only(self.good).await?;
                }
                target.record(&self.site).await
            }
        }
    }

    fn is_in_force(&self, release: &Release) -> bool {
        let good = self.site.good.as_ref().map(|good| &good.release.digest);
        good == Some(&release.reference.digest)
    }

    /// An object that was there before us, made by somebody else, is not taken over.
    async fn not_foreign(&self, target: &impl Target, id: &ObjectId) -> Result<Observed, Failure> {
        let observed = target.observe(id).await?;
        if self.known.has(id) || observed != Observed::Foreign {
            return Ok(observed);
        }
        Err(Failure::never(
            Reason::ReleaseConflict,
            format!(
                "{id} is there and was not made by a release; remove it or give it another name"
            ),
        ))
    }

    async fn wait(
        &self,
        target: &impl Target,
        id: &ObjectId,
        patience: Duration,
    ) -> Result<(), Failure> {
        let asks = Asks::new(self.pace);
        let mut asked_why = asks.began;
        let began = self.began.unwrap_or(asks.began);
        let passes = self.release.and_then(|release| release.item(id)).is_some_and(Item::passes);
        let mut hopeless: Option<Instant> = None;
        // The last answer counts until the next one: it tells more than what is waited for.
        let mut why: Option<Explained> = None;
        loop {
            let waits_for = match target.observe(id).await? {
                Observed::Ready | Observed::Foreign => return Ok(()),
                Observed::Failed(reason, message) => {
                    return Err(Failure::never(reason, format!("{id}: {message}")));
                }
                // It was applied before it is waited for.
                Observed::Absent if passes => return Ok(()),
                Observed::Absent => "it is not there".to_owned(),
                Observed::Leaving => "it is being removed".to_owned(),
                Observed::Waiting(what) => what,
            };
            let late = began.elapsed() >= patience;
            if late || asked_why.elapsed() >= self.pace.explain {
                asked_why = Instant::now();
                // A pod of what is taken back need not heal.
                let grace = if self.back { Duration::ZERO } else { HOPELESS_FOR.min(patience / 2) };
                target.clear_way(id, grace).await?;
                why = target.explain(id).await?;
                hopeless = match &why {
                    Some(why) if why.hopeless => hopeless.or(Some(asked_why)),
                    _ => None,
                };
                if late || hopeless.is_some_and(|since| since.elapsed() >= HOPELESS_FOR) {
                    return Err(too_late(id, began.elapsed(), &waits_for, why));
                }
            }
            match &why {
                Some(why) => (self.say)(Some(why.reason), format!("{id}: {}", why.message)),
                None => (self.say)(None, format!("{id}: {waits_for}")),
            }
            asks.pause().await;
        }
    }

    /// Everything is there, and what is waited for is still ready.
    async fn verify(&self, target: &impl Target) -> Result<(), Failure> {
        for item in self.release.iter().flat_map(|release| &release.items) {
            let id = &item.object.id;
            match target.observe(id).await? {
                Observed::Absent | Observed::Leaving if item.passes() => {}
                Observed::Absent | Observed::Leaving => {
                    return Err(Failure::never(
                        Reason::ReleaseTimeout,
                        format!("{id} was applied and is gone"),
                    ));
                }
                Observed::Failed(..) | Observed::Waiting(_)
                    if item.strategy == Strategy::Pessimistic && has_readiness(id) =>
                {
                    self.wait(target, id, item.timeout).await?;
                }
                Observed::Foreign
                | Observed::Failed(..)
                | Observed::Waiting(_)
                | Observed::Ready => {}
            }
        }
        Ok(())
    }

    async fn remove(&self, target: &impl Target, id: &ObjectId) -> Result<(), Failure> {
        let within = if self.back { REMOVED_WITHIN_BACK } else { REMOVED_WITHIN };
        let asks = Asks::new(self.pace);
        let began = self.began.unwrap_or(asks.began);
        loop {
            match target.observe(id).await? {
                Observed::Absent | Observed::Foreign => return Ok(()),
                Observed::Leaving => (self.say)(None, format!("{id} is being removed")),
                Observed::Ready | Observed::Waiting(_) | Observed::Failed(..) => {
                    target.delete(id).await?;
                }
            }
            if began.elapsed() >= within {
                let message = format!("{id} is not gone after {} s", within.as_secs());
                return Err(Failure::never(Reason::ReleaseTimeout, message));
            }
            asks.pause().await;
        }
    }
}

fn nothing_to_try() -> Failure {
    Failure::never(Reason::Internal, "there is no release to try")
}

fn too_late(id: &ObjectId, after: Duration, waits_for: &str, why: Option<Explained>) -> Failure {
    let secs = after.as_secs();
    match why {
        Some(why) => Failure::never(why.reason, format!("{id}, after {secs} s: {}", why.message)),
        None => {
            let reason = match id.kind.as_str() {
                "CustomResourceDefinition" => Reason::ReleaseCrdNotEstablished,
                _ => Reason::ReleaseTimeout,
            };
            Failure::never(reason, format!("{id} is not ready after {secs} s: {waits_for}"))
        }
    }
}

/// Pauses between questions: a twentieth of the time that it took so far, so that what lasts
/// seconds is seen within a fraction of one, and what lasts minutes is not asked for all the time.
struct Asks {
    began: Instant,
    pace: Pace,
}

impl Asks {
    fn new(pace: Pace) -> Self {
        Asks { began: Instant::now(), pace }
    }

    async fn pause(&self) {
        let pause = self.began.elapsed() / 20;
        tokio::time::sleep(pause.max(self.pace.first).min(self.pace.longest)).await;
    }
}

#[cfg(test)]
mod tests;
