//! The machine that brings all nodes to what is wanted. Sans-IO: it looks at what is there and
//! says what to do; who drives it observes before every call.
//!
//! ```text
//!            ┌────────── next node ◄──────────────────────────────┐
//!            ▼                                                    │
//!  start ─► Settle ──reached──► Unchanged | Changed ──────────────┤
//!            │  │ refused, nothing touched ──► Refused ───────────┤
//!            │  └ short, refused or failed                        │
//!            ▼                                                    │
//!          Restore (the earlier pools) ──► Failed{restored} ──────┘
//!
//!  after the last node ─► Mounts ─► Done
//! ```
//!
//! A step that fails is told by [`Converge::failed`]; relief steps (drop caches, compact) may
//! fail without consequence, as kernels lack them. A machine can be dropped at any time: a new
//! one with the same [`Baseline`] carries on.

use crate::apply::ApplyError;
use crate::baseline::Baseline;
use crate::model::{Have, Mount, NodeId, Want};
use crate::mounts;
use crate::plan::{Refusal, Step, is_gigantic, order};
use crate::recover::{Next, Patience, Reach};
use crate::report::{Cause, MountOutcome, NodeOutcome, Report};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Instant;

/// What the driver is to do, before it observes and asks again.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Apply this step; tell [`Converge::failed`] if it fails.
    Do(Step),
    /// Nothing before this moment.
    WaitUntil(Instant),
    /// Finished.
    Done(Report),
}

/// See the module head.
#[derive(Debug)]
pub struct Converge {
    want: Want,
    baseline: Baseline,
    patience: Patience,
    waiting: VecDeque<NodeId>,
    stage: Stage,
    nodes: BTreeMap<NodeId, NodeOutcome>,
    mounts: BTreeMap<Mount, MountOutcome>,
    /// A failure that was told and not yet looked at.
    failure: Option<Cause>,
}

#[derive(Debug)]
enum Stage {
    NextNode,
    Settle(Reach),
    Restore(Reach, Cause),
    Mounts(Vec<(Mount, VecDeque<Step>)>),
    Done,
}

impl Converge {
    /// A machine that brings what `have` shows to `want`, and nodes that fail back to `baseline`.
    pub fn new(want: Want, have: &Have, baseline: Baseline, patience: Patience) -> Self {
        let waiting = order(&want, have).into();
        let (nodes, mounts) = (BTreeMap::new(), BTreeMap::new());
        Converge {
            want,
            baseline,
            patience,
            waiting,
            stage: Stage::NextNode,
            nodes,
            mounts,
            failure: None,
        }
    }

    /// What to do next, seeing `have` at `now`.
    pub fn next(&mut self, have: &Have, now: Instant) -> Action {
        if let Some(cause) = self.failure.take() {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Settle(reach) => self.give_up(reach, cause, have),
                // The first cause is the one to report.
                Stage::Restore(reach, first) => {
                    self.finish(reach.node(), NodeOutcome::Failed { cause: first, restored: false })
                }
                other @ (Stage::NextNode | Stage::Mounts(_) | Stage::Done) => other,
            };
        }
        loop {
            // Taken out so that arms can put another one in.
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::NextNode => match self.waiting.pop_front() {
                    Some(node) => Stage::Settle(Reach::new(node, self.want.pools[&node].clone())),
                    None => self.start_mounts(have),
                },
                Stage::Settle(mut reach) => {
                    match reach.next(self.want.floor, have, now, &self.patience) {
                        Next::Do(step) => return self.keep(Stage::Settle(reach), Action::Do(step)),
                        Next::Wait(until) => {
                            return self.keep(Stage::Settle(reach), Action::WaitUntil(until));
                        }
                        Next::Reached if reach.touched => {
                            self.finish(reach.node(), NodeOutcome::Changed)
                        }
                        Next::Reached => self.finish(reach.node(), NodeOutcome::Unchanged),
                        Next::Refused(refusal) => {
                            self.give_up(reach, Cause::Refused(refusal), have)
                        }
                        Next::Short { size, want, got } => {
                            self.give_up(reach, Cause::Short { size, want, got }, have)
                        }
                    }
                }
                Stage::Restore(mut reach, cause) => {
                    match reach.next(self.want.floor, have, now, &self.patience) {
                        Next::Do(step) => {
                            return self.keep(Stage::Restore(reach, cause), Action::Do(step));
                        }
                        Next::Wait(until) => {
                            return self
                                .keep(Stage::Restore(reach, cause), Action::WaitUntil(until));
                        }
                        Next::Reached => {
                            self.finish(reach.node(), NodeOutcome::Failed { cause, restored: true })
                        }
                        Next::Refused(_) | Next::Short { .. } => self
                            .finish(reach.node(), NodeOutcome::Failed { cause, restored: false }),
                    }
                }
                Stage::Mounts(mut todo) => {
                    match todo.iter_mut().find_map(|(_, steps)| steps.pop_front()) {
                        Some(step) => return self.keep(Stage::Mounts(todo), Action::Do(step)),
                        None => Stage::Done,
                    }
                }
                Stage::Done => return Action::Done(self.report(have)),
            }
        }
    }

    /// Tells that a step could not be applied.
    pub fn failed(&mut self, step: &Step, error: &ApplyError) {
        match step {
            Step::DropCaches | Step::Compact { .. } => {
                tracing::debug!(%step, %error, "relief did not work");
            }
            Step::Mount(Mount { path, .. }) | Step::Unmount { path } => {
                self.mount_failed(path, error)
            }
            Step::SetPool { node, size, from, to }
                if to > from && is_gigantic(*size) && error.not_at_run_time() =>
            {
                self.failure = Some(Cause::Refused(Refusal::BootOnly { node: *node, size: *size }));
            }
            Step::SetPool { .. } | Step::Demote { .. } => {
                self.failure = Some(Cause::Failed {
                    reason: error.reason(),
                    message: holdfast_api::chain(error),
                });
            }
        }
    }

    fn keep(&mut self, stage: Stage, action: Action) -> Action {
        self.stage = stage;
        action
    }

    fn finish(&mut self, node: NodeId, outcome: NodeOutcome) -> Stage {
        self.nodes.insert(node, outcome);
        Stage::NextNode
    }

    /// A node that is not as its baseline says, by this run or by one that was killed, goes back.
    fn give_up(&mut self, reach: Reach, cause: Cause, have: &Have) -> Stage {
        let node = reach.node();
        let earlier = self.baseline.pools(node, &self.want);
        let there = |size| have.pool(node, size).map_or(0, |pool| pool.persistent());
        let intact = earlier.iter().all(|(size, pages)| there(*size) == *pages);
        match (intact, reach.touched, cause) {
            (true, false, Cause::Refused(refusal)) => {
                self.finish(node, NodeOutcome::Refused(refusal))
            }
            (true, _, cause) => self.finish(node, NodeOutcome::Failed { cause, restored: true }),
            (false, _, cause) => Stage::Restore(Reach::new(node, earlier), cause),
        }
    }

    fn start_mounts(&mut self, have: &Have) -> Stage {
        let mut todo = Vec::new();
        for mount in self.want.mounts.clone() {
            let (steps, refused) = mounts::plan(std::slice::from_ref(&mount), &have.mounts);
            let outcome = match refused.into_iter().next() {
                Some(refusal) => {
                    MountOutcome::Failed { reason: refusal.reason(), message: refusal.to_string() }
                }
                None if steps.is_empty() => MountOutcome::Unchanged,
                None => MountOutcome::Mounted,
            };
            self.mounts.insert(mount.clone(), outcome);
            todo.push((mount, steps.into()));
        }
        Stage::Mounts(todo)
    }

    fn mount_failed(&mut self, at: &Path, error: &ApplyError) {
        let failed =
            MountOutcome::Failed { reason: error.reason(), message: holdfast_api::chain(error) };
        if let Stage::Mounts(todo) = &mut self.stage {
            for (mount, steps) in todo.iter_mut().filter(|(mount, _)| mount.path == at) {
                steps.clear();
                self.mounts.insert(mount.clone(), failed.clone());
            }
        }
    }

    fn report(&self, have: &Have) -> Report {
        Report::new(&self.want, have, self.nodes.clone(), self.mounts.clone())
    }
}

#[cfg(test)]
mod tests;
