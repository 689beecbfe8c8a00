//! What is to be done about snapshots now: `(policy, have, asked, now) → steps`, pure.
//!
//! Order is told by [`Stamp`]s, waiting by the clock. A clock that jumps can therefore make one
//! snapshot come early, and never makes one count as old. A moment that lies in the future, as
//! after a jump back, holds nothing up.

use super::model::{Drilled, Failures, Have, Policy, Stamp, Why};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// A first failed attempt is repeated after this long; then after twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// Failed attempts are repeated at least this often.
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// In seconds of a stamp. One snapshot at least is so much older than the newest one, once there
/// was one: releases that follow each other must not push out all that was before the first.
const DAY: u64 = 24 * 3600;
/// A drill that could not be made is tried again after this long.
const SKIPPED_DRILL: Duration = Duration::from_secs(3600);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A snapshot is taken.
    Take {
        /// What it gets as its place in the order.
        stamp: Stamp,
        /// Why.
        why: Why,
    },
    /// One goes to the storage, by name.
    Upload(String),
    /// One goes from this node, by name.
    DeleteLocal(String),
    /// One goes from the storage, by name.
    DeleteRemote(String),
    /// One is restored into a datastore that is thrown away, by name.
    Drill(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Take { stamp, why } => write!(f, "take snapshot {} ({why})", stamp.base_name()),
            Step::Upload(name) => write!(f, "store {name}"),
            Step::DeleteLocal(name) => write!(f, "delete {name} here"),
            Step::DeleteRemote(name) => write!(f, "delete {name} in the storage"),
            Step::Drill(name) => write!(f, "drill {name}"),
        }
    }
}

/// Steps in their order, and when to plan again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In this order; a step that fails does not keep the later ones from being tried.
    pub steps: Vec<Step>,
    /// When the next snapshot is due.
    pub next_take: Timestamp,
    /// When something may be due that is not due now; later than now.
    pub wake: Timestamp,
}

/// The plan. A snapshot that is asked for is taken whatever the clock and failures say.
pub fn plan(policy: &Policy, have: &Have, asked: Option<&Why>, now: Timestamp) -> Plan {
    let next_take = next_take(policy, have, now);
    let mut steps = Vec::new();
    let mut wakes = vec![next_take];
    let why = asked.cloned().or_else(|| (next_take <= now).then_some(Why::Interval));
    let takes = why.is_some();
    if let Some(why) = why {
        steps.push(Step::Take { stamp: have.next_stamp(now), why });
    }
    let store_at = have.store_failures.map_or(now, |failures| retry_at(failures, now));
    if store_at <= now {
        steps.extend(uploads(policy, have, now).into_iter().map(Step::Upload));
    } else {
        wakes.push(store_at);
    }
    steps.extend(surplus_here(policy, have).into_iter().map(Step::DeleteLocal));
    if store_at <= now {
        steps.extend(surplus_remote(policy, have, now).into_iter().map(Step::DeleteRemote));
    }
    // The one that is taken now is the one to drill; so not before the next plan.
    if let (Some(every), Some(newest)) = (policy.drill, have.newest_good()) {
        let at = have.drilled.map_or(now, |drilled| drill_at(every, drilled, now));
        if at > now {
            wakes.push(at);
        } else if !takes {
            steps.push(Step::Drill(newest.name.clone()));
        }
    }
    let wake = wakes.into_iter().filter(|at| *at > now).min();
    Plan { steps, next_take, wake: wake.unwrap_or_else(|| later(now, policy.interval)) }
}

/// When the next snapshot by interval is due.
fn next_take(policy: &Policy, have: &Have, now: Timestamp) -> Timestamp {
    let Some(newest) = have.newest_good() else {
        return have.take_failures.map_or(now, |failures| retry_at(failures, now));
    };
    let due = match newest.taken > now {
        // Taken in the future: the clock went back. One more makes the times right again.
        true => now,
        false => later(newest.taken, policy.interval.saturating_sub(policy.jitter)),
    };
    match have.take_failures {
        Some(failures) if due <= now => retry_at(failures, now),
        _ => due,
    }
}

/// When a failed attempt is repeated.
pub(super) fn retry_at(failures: Failures, now: Timestamp) -> Timestamp {
    let doublings = failures.count.saturating_sub(1).min(16);
    let pause = FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY);
    if failures.at > now { now } else { later(failures.at, pause) }
}

fn drill_at(every: Duration, drilled: Drilled, now: Timestamp) -> Timestamp {
    let pause = if drilled.skipped { every.min(SKIPPED_DRILL) } else { every };
    if drilled.at > now { now } else { later(drilled.at, pause) }
}

/// Good ones that are kept here and are not in the storage, newest first.
fn uploads(policy: &Policy, have: &Have, now: Timestamp) -> Vec<String> {
    let Some(remote) = &have.remote else { return Vec::new() };
    let stored: BTreeSet<Stamp> = remote.iter().map(|one| one.stamp).collect();
    let here = kept(good(have), policy.keep);
    // One that would be deleted there at once stays here.
    let ours = have.believable(now).map(|one| one.stamp);
    let there = kept(ours.chain(here.iter().copied()), policy.keep);
    let mut wanted: Vec<_> = have
        .local
        .iter()
        .filter(|one| one.good && here.contains(&one.stamp) && there.contains(&one.stamp))
        .filter(|one| !stored.contains(&one.stamp))
        .collect();
    wanted.sort_by_key(|one| std::cmp::Reverse(one.stamp));
    wanted.into_iter().map(|one| one.name.clone()).collect()
}

/// Good ones beyond the number, oldest first, and damaged ones as soon as there is a good one.
fn surplus_here(policy: &Policy, have: &Have) -> Vec<String> {
    let kept = kept(good(have), policy.keep);
    if kept.is_empty() {
        return Vec::new();
    }
    let mut gone: Vec<_> =
        have.local.iter().filter(|one| !(one.good && kept.contains(&one.stamp))).collect();
    gone.sort_by_key(|one| one.stamp);
    gone.into_iter().map(|one| one.name.clone()).collect()
}

fn surplus_remote(policy: &Policy, have: &Have, now: Timestamp) -> Vec<String> {
    let remote = || have.believable(now);
    let kept = kept(remote().map(|one| one.stamp), policy.keep);
    let mut gone: Vec<_> = remote().filter(|one| !kept.contains(&one.stamp)).collect();
    gone.sort_by_key(|one| one.stamp);
    gone.into_iter().map(|one| one.name.clone()).collect()
}

fn good(have: &Have) -> impl Iterator<Item = Stamp> {
    have.local.iter().filter(|one| one.good).map(|one| one.stamp)
}

/// Those that are kept: the newest `count`; the newest one that is at least a [`DAY`] older than
/// the newest of all; and the oldest one that is not, which takes its place one day.
fn kept(stamps: impl Iterator<Item = Stamp>, count: usize) -> BTreeSet<Stamp> {
    let all: BTreeSet<Stamp> = stamps.collect();
    let Some(newest) = all.last() else { return all };
    let old = |stamp: &&Stamp| stamp.0.saturating_add(DAY) <= newest.0;
    let older = all.iter().rev().find(old);
    let younger = all.iter().find(|stamp| !old(stamp));
    all.iter().rev().take(count).chain(older).chain(younger).copied().collect()
}

/// The end of time is as good as any later moment.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
