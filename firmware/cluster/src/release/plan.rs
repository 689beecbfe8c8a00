//! What is done, in which order: steps as data, which the dry run prints and the machine walks
//! through. Pure.
//!
//! Carrying out a step again does no harm; so after a crash the step that was under way is simply
//! done once more.

use super::model::{Good, Inventory, Item, Release, Strategy, Strayed, group};
use super::order::{class, has_readiness, removal, stage};
use super::target::Check;
use crate::object::ObjectId;
use crate::step_kinds::step_kinds;
use holdfast_api::kubernetes::ReleasePhase;
use std::fmt;
use std::time::Duration;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make sure that a check holds.
    Preflight(Check),
    /// Ask the API server whether it would take an object.
    DryRun(ObjectId),
    /// Have these images on every node, pinned.
    PrePull(Vec<String>),
    /// Write down on the site what may be there from now on.
    Record,
    /// Apply an object.
    Apply(ObjectId),
    /// Wait until an object is ready, for so long.
    Wait(ObjectId, Duration),
    /// Look at everything once more.
    Verify,
    /// Write what a commit writes, while there is a way back: what was applied may refuse it.
    Rehearse,
    /// Remove an object and wait until it is gone.
    Prune(ObjectId),
    /// The release is in force: write it down, mark the nodes, let go of other images.
    Commit,
    /// The last good one is in force again: write it down, let go of other images.
    Settle,
}

step_kinds! { Preflight DryRun PrePull Record Apply Wait Verify Rehearse Prune Commit Settle }

impl Step {
    /// The phase of a release in which it is done.
    pub fn phase(&self) -> ReleasePhase {
        match self {
            Step::Preflight(_) | Step::DryRun(_) => ReleasePhase::Preflight,
            Step::PrePull(_) => ReleasePhase::PrePull,
            Step::Record | Step::Apply(_) | Step::Wait(..) => ReleasePhase::Applying,
            Step::Verify | Step::Rehearse => ReleasePhase::Verifying,
            Step::Prune(_) | Step::Commit => ReleasePhase::Pruning,
            Step::Settle => ReleasePhase::RollingBack,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Preflight(check) => write!(f, "make sure that {check}"),
            Step::DryRun(id) => write!(f, "ask the API server whether it takes {id}"),
            Step::PrePull(images) => write!(f, "pull on every node {}", images.join(", ")),
            Step::Record => f.write_str("write down what may be there from now on"),
            Step::Apply(id) => write!(f, "apply {id}"),
            Step::Wait(id, patience) => write!(f, "wait up to {} s for {id}", patience.as_secs()),
            Step::Verify => f.write_str("look at everything once more"),
            Step::Rehearse => f.write_str("make sure that the site lets itself be written to"),
            Step::Prune(id) => write!(f, "remove {id}"),
            Step::Commit => f.write_str("commit: mark the nodes, let go of other images"),
            Step::Settle => f.write_str("settle: the last good release is in force"),
        }
    }
}

/// What a plan starts from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Have<'a> {
    /// The release in force.
    pub good: Option<&'a Good>,
    /// Objects of ours that may be there and are not part of it.
    pub leftovers: Option<&'a Inventory>,
    /// The site no longer is what `good` says.
    pub strayed: Option<Strayed>,
}

/// How a site comes to `release`; nothing when it is there already.
pub fn forward(release: &Release, have: Have<'_>) -> Vec<Step> {
    let mut old = have.good.map(|good| good.objects.clone()).unwrap_or_default();
    if let Some(leftovers) = have.leftovers {
        old = old.with(leftovers);
    }
    let in_force = have.good.is_some_and(|good| good.release.digest == release.reference.digest);
    let surplus = old.without(&release.inventory());
    // What could not be removed when it came into force is tried with the next one.
    if in_force && have.strayed.is_none() {
        return Vec::new();
    }
    // Images are pinned since it came into force, and nothing new is risked: it waits for no
    // tunnel, and no snapshot pushes an older one out.
    let repairs = in_force && have.strayed == Some(Strayed::Objects);
    // What has run and went by itself is not missing.
    let items = || release.items.iter().filter(|item| !(repairs && item.passes()));
    // What can be wrong with the release itself is found before a snapshot is spent on it.
    let mut steps = vec![Step::Preflight(Check::ApiServer)];
    steps.extend(items().map(|item| Step::DryRun(item.object.id.clone())));
    if !repairs {
        let checks = Check::ALL.into_iter().skip(1);
        let checks = checks.filter(|check| *check != Check::Nodes || is_on_every_node(release));
        steps.extend(checks.map(Step::Preflight));
        if !release.images.is_empty() {
            steps.push(Step::PrePull(release.images.clone()));
        }
    }
    steps.push(Step::Record);
    steps.extend(apply(items()));
    steps.push(Step::Verify);
    steps.push(Step::Rehearse);
    steps.extend(remove(&surplus));
    steps.push(Step::Commit);
    steps
}

/// Whether the release is not whole while one node is away: a DaemonSet waits for every node, and
/// its update stops at one that is not there (`maxUnavailable`, kubernetes.io "Perform a Rolling
/// Update on a DaemonSet").
fn is_on_every_node(release: &Release) -> bool {
    release.items.iter().any(|item| item.data_plane || item.object.id.kind == "DaemonSet")
}

/// How a site comes back to the last good release, whose manifests are `good` when they are known;
/// without one, to nothing. `leftovers` are removed but for what `kept` has, and first: a webhook
/// or a quota of the failed release would refuse what is put back.
pub fn back(good: Option<&Release>, kept: &Inventory, leftovers: &Inventory) -> Vec<Step> {
    let mut steps = vec![Step::Record];
    steps.extend(remove(&leftovers.without(kept)));
    steps.extend(good.map(|good| apply(good.items.iter())).unwrap_or_default());
    steps.push(Step::Verify);
    steps.push(Step::Settle);
    steps
}

/// Applies of every stage, then its waits.
fn apply<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<Step> {
    let mut steps = Vec::new();
    let items: Vec<&Item> = items.collect();
    for stages in items.chunk_by(|a, b| stage(class(&a.object.id)) == stage(class(&b.object.id))) {
        steps.extend(stages.iter().map(|item| Step::Apply(item.object.id.clone())));
        let waited = stages.iter().filter(|item| {
            item.strategy == Strategy::Pessimistic && has_readiness(&item.object.id)
        });
        steps.extend(waited.map(|item| Step::Wait(item.object.id.clone(), item.timeout)));
    }
    steps
}

/// Removals, in order ([`removal`]).
fn remove(surplus: &Inventory) -> Vec<Step> {
    let mut ids: Vec<&ObjectId> = surplus.iter().collect();
    ids.reverse();
    // A webhook or policy may refuse all other removals, but not its own (kubernetes.io "Dynamic
    // Admission Control").
    let admits = |id: &ObjectId| group(&id.api_version) == "admissionregistration.k8s.io";
    ids.sort_by_key(|id| (removal(class(id)), !admits(id)));
    ids.into_iter().cloned().map(Step::Prune).collect()
}

#[cfg(test)]
mod tests;
