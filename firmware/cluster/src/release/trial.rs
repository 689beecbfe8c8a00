//! What a release would do here and what is in its way, found out without changing anything: for
//! people, before they let it loose.
//!
//! The steps are those of the engine's own plan. On a node with a server's rights every object is
//! tried by the API server (`dryRun=All`), every check is made but for the snapshot, and nodes are
//! looked at for images. An agent has the kubelet's rights: it knows whether the release is in force,
//! and says that it knows no more.

use super::admit;
use super::execute::{Context, Pace};
use super::model::{Good, Inventory, Release, SiteRecord, Strayed};
use super::plan::{self, Have, Step};
use super::target::{Check, Failure, Retry, Target};
use crate::images::Lacking;
use crate::object::ObjectId;
use holdfast_api::Reason;
use holdfast_api::kubernetes::FailedRelease;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of a release without asking anybody.
#[derive(Debug)]
pub struct Known {
    pub(super) release: Release,
    pub(super) good: Option<Good>,
    /// The text of what is in force, when this node has it.
    pub(super) text: Option<Arc<Release>>,
    pub(super) steps: Vec<Step>,
    /// It failed before.
    pub(super) failed: Option<FailedRelease>,
}

/// A step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// In words.
    pub text: String,
    /// The site's traffic is interrupted by it.
    pub interrupts: bool,
}

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trial {
    /// In the order in which they would be made.
    pub steps: Vec<Tried>,
    /// What would keep it from being made, or could not be found out.
    pub problems: Vec<Failure>,
}

impl Known {
    /// The steps that it would take.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Asks the site; `is_server` tells with which rights. What is not answered within `patience` is
    /// said to be unknown.
    pub async fn ask(&self, target: &impl Target, is_server: bool, patience: Duration) -> Trial {
        if !is_server {
            return self.ask_as_agent(target).await;
        }
        let mut problems: Vec<Failure> = self.failed.iter().map(refused).collect();
        if !self.steps.is_empty() {
            problems.extend(admit::release(&self.release).err());
        }
        let until = Instant::now() + patience;
        let is_answered = self.try_steps(target, until, &mut problems).await;
        let lacking = match is_answered && !self.release.images.is_empty() {
            true => match tokio::time::timeout_at(until, target.lacking(&self.release)).await {
                Ok(Ok(lacking)) => lacking,
                Ok(Err(failure)) => {
                    problems.push(failure);
                    Vec::new()
                }
                Err(_late) => Vec::new(),
            },
            false => Vec::new(),
        };
        Trial { steps: self.steps.iter().map(|step| self.tell(step, &lacking)).collect(), problems }
    }

    async fn ask_as_agent(&self, target: &impl Target) -> Trial {
        let mut problems = Vec::new();
        match target.in_force().await {
            Ok(Some(digest)) if digest == self.release.reference.digest => return Trial::default(),
            Ok(_) => {
                problems.extend(admit::release(&self.release).err());
                problems
                    .extend(self.release.items.iter().filter_map(|item| admit::item(item).err()));
            }
            Err(failure) => problems.push(failure),
        }
        let message = "an agent may not read what the site has: objects were not tried, nodes were \
                       not asked for images, and removals are not known; plan it on a server";
        problems.push(Failure::never(Reason::ReleaseOtherManager, message));
        Trial { steps: self.steps.iter().map(|step| self.tell(step, &[])).collect(), problems }
    }

    /// Makes every step that changes nothing; whether anybody answered to the end.
    async fn try_steps(
        &self,
        target: &impl Target,
        until: Instant,
        problems: &mut Vec<Failure>,
    ) -> bool {
        let context = Context {
            release: Some(&self.release),
            good: self.text.as_deref(),
            known: self.good.as_ref().map(|good| good.objects.clone()).unwrap_or_default(),
            site: SiteRecord { good: self.good.clone(), ..SiteRecord::default() },
            back: false,
            pace: Pace::default(),
            began: None,
            say: &|_, _| {},
        };
        let is_tried = |step: &&Step| match step {
            Step::Preflight(check) => *check != Check::Snapshot,
            Step::DryRun(_) => true,
            Step::PrePull(_)
            | Step::Record
            | Step::Apply(_)
            | Step::Wait(..)
            | Step::Verify
            | Step::Rehearse
            | Step::Prune(_)
            | Step::Commit
            | Step::Settle => false,
        };
        let steps: Vec<&Step> = self.steps.iter().filter(is_tried).collect();
        for (at, step) in steps.iter().enumerate() {
            let left = steps.len() - at;
            let failure = match tokio::time::timeout_at(until, context.execute(target, step)).await
            {
                // Who leads does not matter to what only asks.
                Ok(None | Some(Ok(()))) => continue,
                Ok(Some(Err(failure))) => failure,
                Err(_late) => {
                    let message = format!("{left} checks and objects were not tried in time");
                    problems.push(Failure::always(Reason::KubernetesApiUnavailable, message));
                    return false;
                }
            };
            let is_away = matches!(step, Step::Preflight(Check::ApiServer) | Step::DryRun(_))
                && failure.retry == Retry::Always;
            problems.push(failure);
            if is_away {
                let message = format!("{left} checks and objects were not tried");
                problems.push(Failure::always(Reason::KubernetesApiUnavailable, message));
                return false;
            }
        }
        true
    }

    fn tell(&self, step: &Step, lacking: &[Lacking]) -> Tried {
        let text = match step {
            Step::PrePull(_) if !lacking.is_empty() => {
                let nodes: Vec<String> = lacking.iter().map(ToString::to_string).collect();
                format!("{step}; {}", nodes.join("; "))
            }
            _ => step.to_string(),
        };
        let interrupts = match step {
            Step::Apply(id) => self.replaces_data_plane(id),
            Step::Prune(id) => self.is_data_plane(id),
            _ => false,
        };
        Tried { text, interrupts }
    }

    fn is_data_plane(&self, id: &ObjectId) -> bool {
        let item = self.text.as_ref().and_then(|text| text.item(id));
        item.is_some_and(|item| item.data_plane)
    }

    /// What is applied as it is leaves its pods alone.
    fn replaces_data_plane(&self, id: &ObjectId) -> bool {
        let spec = |release: &Release| Some(release.item(id)?.object.value["spec"].clone());
        let before = self.text.as_deref().and_then(spec);
        let item = self.release.item(id);
        item.is_some_and(|item| item.data_plane)
            && (before.is_none() || before != spec(&self.release))
    }
}

/// From what this node's journal has.
pub(super) fn known(
    release: Release,
    good: Option<Good>,
    text: Option<Arc<Release>>,
    leftovers: &Inventory,
    strayed: Option<Strayed>,
    failed: &[FailedRelease],
) -> Known {
    let steps =
        plan::forward(&release, Have { good: good.as_ref(), leftovers: Some(leftovers), strayed });
    let reference = &release.reference;
    let failed = failed.iter().rev().find(|failed| {
        failed.release.digest == reference.digest && reference.force <= failed.release.force
    });
    let failed = failed.filter(|_| !steps.is_empty()).cloned();
    Known { release, good, text, steps, failed }
}

fn refused(failed: &FailedRelease) -> Failure {
    let message = format!("{}: {}", failed.reason, failed.message);
    Failure::never(Reason::ReleaseRefused, message)
}

#[cfg(test)]
mod tests;
