//! What to do when the kernel gave less than it was asked for. Pure.
//!
//! ```text
//!  write ──all there──► reached
//!    │ ▲
//!    │ └──── wait ◄─── compact ◄─── drop caches     (as often as Patience allows)
//!    ▼                                  ▲
//!  short ───────────────────────────────┘──► gave up
//! ```
//!
//! Every round plans anew from what is there, so pages that were split or freed in the meantime
//! are used.

use crate::model::{Bytes, Have, NodeId, PageSize, Pool};
use crate::plan::{Refusal, Step, plan_node};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Writes of one node's pools, the first one included; at least one is made.
    pub rounds: u32,
    /// The wait before the second write; each later one is twice as long.
    pub first_wait: Duration,
    /// No wait is longer.
    pub longest_wait: Duration,
}

impl Default for Patience {
    /// Four rounds within about 1.5 s: dropping caches and compacting is done after tens of
    /// milliseconds, and memory that is still pinned after a second is pinned for good.
    fn default() -> Self {
        Patience {
            rounds: 4,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(1),
        }
    }
}

impl Patience {
    fn wait(&self, round: u32) -> Duration {
        self.first_wait.saturating_mul(1 << round.min(16)).min(self.longest_wait)
    }
}

/// The pursuit of one node's pools.
#[derive(Debug)]
pub(crate) struct Reach {
    node: NodeId,
    target: BTreeMap<PageSize, u64>,
    round: u32,
    phase: Phase,
    /// Whether a step was ever handed out.
    pub(crate) touched: bool,
}

#[derive(Debug)]
enum Phase {
    Plan,
    Write(VecDeque<Step>),
    Relieve(VecDeque<Step>),
    Wait(Instant),
}

/// What to do next for the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Do(Step),
    Wait(Instant),
    Reached,
    Refused(Refusal),
    Short { size: PageSize, want: u64, got: u64 },
}

impl Reach {
    pub(crate) fn new(node: NodeId, target: BTreeMap<PageSize, u64>) -> Self {
        Reach { node, target, round: 0, phase: Phase::Plan, touched: false }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// What next, seeing `have`.
    pub(crate) fn next(
        &mut self,
        floor: Bytes,
        have: &Have,
        now: Instant,
        patience: &Patience,
    ) -> Next {
        loop {
            match &mut self.phase {
                Phase::Plan => match plan_node(&self.target, floor, have, self.node) {
                    Ok(steps) if steps.is_empty() => return Next::Reached,
                    Ok(steps) => self.phase = Phase::Write(steps.into()),
                    Err(refusal) => return Next::Refused(refusal),
                },
                Phase::Write(steps) => match steps.pop_front() {
                    // An earlier step may have given back less than planned; the floor is
                    // checked against what is there now.
                    Some(step) if step.takes(have) <= have.headroom(self.node, floor) => {
                        self.touched = true;
                        return Next::Do(step);
                    }
                    Some(_) | None => {
                        if let Some(next) = self.look_back(floor, have, patience) {
                            return next;
                        }
                    }
                },
                Phase::Relieve(steps) => match steps.pop_front() {
                    Some(step) => return Next::Do(step),
                    None => self.phase = Phase::Wait(now + patience.wait(self.round - 1)),
                },
                Phase::Wait(until) if now < *until => return Next::Wait(*until),
                Phase::Wait(_) => self.phase = Phase::Plan,
            }
        }
    }

    /// After a round of writes: reached, given up, or relief and another round.
    fn look_back(&mut self, floor: Bytes, have: &Have, patience: &Patience) -> Option<Next> {
        match plan_node(&self.target, floor, have, self.node) {
            Ok(steps) if steps.is_empty() => return Some(Next::Reached),
            Ok(_) => {}
            Err(refusal) => return Some(Next::Refused(refusal)),
        }
        self.round += 1;
        if self.round >= patience.rounds {
            return Some(self.short(have));
        }
        self.phase =
            Phase::Relieve(VecDeque::from([Step::DropCaches, Step::Compact { node: self.node }]));
        None
    }

    /// The first size that is not as it should be, largest pages first.
    fn short(&self, have: &Have) -> Next {
        let got = |size| have.pool(self.node, size).map_or(0, Pool::persistent);
        let sizes = || self.target.iter().rev().map(|(size, want)| (*size, *want, got(*size)));
        let worst = sizes()
            .find(|(_, want, got)| got < want)
            .or_else(|| sizes().find(|(_, want, got)| got != want));
        worst.map_or(Next::Reached, |(size, want, got)| Next::Short { size, want, got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let patience = Patience::default();
        let waits: Vec<u128> = (0..5).map(|round| patience.wait(round).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
    }
}
