//! Draining a node: which pods leave it, in which order, and for how long that is tried.
//!
//! [`plan`] sorts a node's pods; [`Drain`] is the machine around it:
//!
//! ```text
//!  look ─► Cordon ─► look ─► Evict… ─► look ─► … ─► Done          all pods that go are gone
//!                      │        └ refused by a budget: again after a pause
//!                      ├─► deadline: Uncordon (when the cordon is ours)     ─► TimedOut
//!                      ├─► the lock is gone: Uncordon (the same)            ─► Withdrawn
//!                      └─► the node does not speak any more, or is gone    ─► Vanished
//! ```
//!
//! Each look is a fresh picture of node, pods and budgets, so the machine can be thrown away and
//! begun anew at any point, and what others do meanwhile is taken as it is.
//!
//! Whom it takes: like `kubectl drain --ignore-daemonsets --delete-emptydir-data --force`, since
//! nobody is there to be asked. A pod that no controller makes anew is lost by it, as it is by
//! the reboot itself; the plan says which. Not evicted: pods of DaemonSets (the data plane among
//! them: it carries traffic until the node goes down), mirrors of static pods, and what has ended.
//! Of a node without another one to take its pods nothing is evicted: pods that cannot run
//! elsewhere are better ended by the reboot itself, and a budget could never be met.
//!
//! What it leaves out: the disruption budgets' arithmetic, which is the API server's. A budget
//! read here only decides the order.

use super::model::{BudgetView, NodeView, PodRef, PodView, Readiness};
use holdfast_api::Reason;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How a drain is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long it may take; the node takes pods again afterwards.
    pub deadline: Duration,
    /// Pause after a refusal by a budget; doubles up to `retry_most`.
    pub retry: Duration,
    /// The longest pause after a refusal.
    pub retry_most: Duration,
    /// Pause between two looks at pods that are on their way out.
    pub look: Duration,
}

impl Default for DrainSettings {
    /// Five minutes, for pods have 30 s to end by default and move one after the other where
    /// budgets allow one at a time; 5 s after a refusal, as kubectl waits.
    fn default() -> Self {
        DrainSettings {
            deadline: Duration::from_secs(300),
            retry: Duration::from_secs(5),
            retry_most: Duration::from_secs(20),
            look: Duration::from_secs(1),
        }
    }
}

/// Why a pod is not evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Its DaemonSet would put it back at once.
    DaemonSet,
    /// The kubelet alone starts and ends it.
    Mirror,
    /// It has ended.
    Completed,
    /// It is ending already; it is waited for.
    Terminating,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Skip::DaemonSet => "belongs to a DaemonSet",
            Skip::Mirror => "is static",
            Skip::Completed => "has ended",
            Skip::Terminating => "is ending",
        })
    }
}

/// A pod that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Which.
    pub pod: PodRef,
    /// Budgets that guard it, as `namespace/name`.
    pub budgets: Vec<String>,
    /// One of them lets no pod go at the moment.
    pub blocked: bool,
    /// No controller makes it anew.
    pub lost: bool,
    /// Its `emptyDir` volumes end with it.
    pub loses_files: bool,
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evict {}", self.pod)?;
        if self.lost {
            f.write_str(", which nobody makes anew")?;
        }
        if self.loses_files {
            f.write_str(", with the files of its emptyDir")?;
        }
        if self.blocked {
            write!(f, ", when {} lets it go", self.budgets.join(" and "))?;
        }
        Ok(())
    }
}

/// The pods of a node, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainPlan {
    /// Those that go, in this order.
    pub evict: Vec<Leaving>,
    /// Those that do not.
    pub skip: Vec<(PodRef, Skip)>,
}

impl DrainPlan {
    /// Pods that are still to be waited for.
    pub fn left(&self) -> usize {
        let ending = self.skip.iter().filter(|(_, skip)| *skip == Skip::Terminating).count();
        self.evict.len() + ending
    }
}

/// Sorts the pods of a node. First go those that no budget holds back, so that their new copies
/// can become ready meanwhile; among them the least important ones, as the kubelet ends them when
/// a node shuts down. At most as many pods of one budget are unblocked as it lets go now.
pub fn plan(pods: &[PodView], budgets: &[BudgetView]) -> DrainPlan {
    let mut plan = DrainPlan::default();
    let mut going: Vec<&PodView> = Vec::new();
    for pod in pods {
        match skip(pod) {
            Some(skip) => plan.skip.push((pod.pod.clone(), skip)),
            None => going.push(pod),
        }
    }
    going.sort_by_key(|pod| (pod.priority, &pod.pod));
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    for pod in going {
        let guards: Vec<usize> = (0..budgets.len()).filter(|at| budgets[*at].guards(pod)).collect();
        let blocked = guards.iter().any(|at| allowed[*at] <= 0);
        if !blocked {
            guards.iter().for_each(|at| allowed[*at] -= 1);
        }
        plan.evict.push(Leaving {
            pod: pod.pod.clone(),
            budgets: guards.iter().map(|at| budgets[*at].to_string()).collect(),
            blocked,
            lost: pod.controller.is_none(),
            loses_files: pod.empty_dir,
        });
    }
    plan.evict.sort_by_key(|leaving| leaving.blocked);
    plan
}

fn skip(pod: &PodView) -> Option<Skip> {
    if pod.mirror {
        Some(Skip::Mirror)
    } else if pod.completed {
        Some(Skip::Completed)
    } else if pod.controller.as_deref() == Some("DaemonSet") {
        Some(Skip::DaemonSet)
    } else if pod.terminating {
        Some(Skip::Terminating)
    } else {
        None
    }
}

/// What a look shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The node; none when it was removed.
    pub node: Option<NodeView>,
    /// The lock is still held for it; without that nobody waits for the drain any more.
    pub wanted: bool,
    /// Another node is there to take pods.
    pub elsewhere: bool,
    /// Pods on the node.
    pub pods: Vec<PodView>,
    /// Budgets of all namespaces.
    pub budgets: Vec<BudgetView>,
}

/// What the API server says to an eviction (Kubernetes: API-initiated eviction).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is ending (201), or was not there any more (404).
    Leaving,
    /// A budget holds it (429), or more than one guards it (500).
    Refused {
        /// The API server's words.
        message: String,
    },
}

/// A pod that a budget holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The pod.
    pub pod: PodRef,
    /// Its budgets, as `namespace/name`.
    pub budgets: Vec<String>,
    /// The API server's words.
    pub message: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.budgets.is_empty() {
            true => write!(f, "pod {} may not go: {}", self.pod, self.message),
            false => write!(
                f,
                "budget {} does not let pod {} go: {}",
                self.budgets.join(" and "),
                self.pod,
                self.message
            ),
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Mark the node as unschedulable and the mark as ours; then look.
    Cordon,
    /// Ask for these evictions, tell their answers by [`Drain::evicted`]; then look.
    Evict(Vec<PodRef>),
    /// Look again at this moment.
    LookAt(Instant),
    /// Take the mark away; then look.
    Uncordon,
    /// It is over.
    End(Outcome),
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left that goes.
    Done,
    /// The node was removed, or its kubelet fell silent: nobody is left to end its pods. A cordon
    /// stays until the node reports that it is back.
    Vanished,
    /// The lock was released or broken meanwhile; the node takes pods again.
    Withdrawn,
    /// It took too long; the node takes pods again unless an operator had cordoned it.
    TimedOut {
        /// Pods that were still there, at most [`NAMED`].
        left: Vec<PodRef>,
        /// What held the last of them.
        blocked: Option<Blocked>,
    },
}

/// How many pods a message names.
pub const NAMED: usize = 10;

impl Outcome {
    /// Why it ended otherwise than asked for.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Outcome::Done | Outcome::Withdrawn => None,
            Outcome::Vanished => Some(Reason::NodeVanished),
            Outcome::TimedOut { .. } => Some(Reason::NodeDrainTimeout),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => f.write_str("drained"),
            Outcome::Withdrawn => f.write_str("the lock is not held any more"),
            Outcome::Vanished => f.write_str("the node does not answer any more"),
            Outcome::TimedOut { left, blocked } => {
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                write!(f, "not drained in time; left: {}", left.join(", "))?;
                blocked.iter().try_for_each(|blocked| write!(f, "; {blocked}"))
            }
        }
    }
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Drain {
    settings: DrainSettings,
    until: Instant,
    refused: BTreeMap<PodRef, Refusal>,
    guards: BTreeMap<PodRef, Vec<String>>,
    over: Option<Outcome>,
}

#[derive(Debug, Clone)]
struct Refusal {
    again: Instant,
    pause: Duration,
    message: String,
}

impl Drain {
    /// A drain that begins `now`.
    pub fn begin(settings: DrainSettings, now: Instant) -> Self {
        Drain {
            settings,
            until: now + settings.deadline,
            refused: BTreeMap::new(),
            guards: BTreeMap::new(),
            over: None,
        }
    }

    /// What to do, given what was just seen.
    pub fn look(&mut self, seen: &Seen, now: Instant) -> Next {
        let Some(node) = seen.node.as_ref().filter(|node| !node.deleting) else {
            return Next::End(Outcome::Vanished);
        };
        if let Some(over) = &self.over {
            return match node.unschedulable && node.cordoned_by_us {
                true => Next::Uncordon,
                false => Next::End(over.clone()),
            };
        }
        if !seen.wanted {
            self.over = Some(Outcome::Withdrawn);
            return self.look(seen, now);
        }
        if node.readiness == Readiness::Unknown {
            return Next::End(Outcome::Vanished);
        }
        if !node.unschedulable {
            return Next::Cordon;
        }
        let plan = plan(&seen.pods, &seen.budgets);
        let guards =
            plan.evict.iter().map(|leaving| (leaving.pod.clone(), leaving.budgets.clone()));
        self.guards = guards.collect();
        self.refused.retain(|pod, _| self.guards.contains_key(pod));
        if plan.left() == 0 || !seen.elsewhere {
            return Next::End(Outcome::Done);
        }
        if now >= self.until {
            self.over = Some(Outcome::TimedOut { left: left(&plan), blocked: self.blocked() });
            return self.look(seen, now);
        }
        let due: Vec<PodRef> = plan
            .evict
            .iter()
            .filter(|leaving| self.refused.get(&leaving.pod).is_none_or(|r| r.again <= now))
            .map(|leaving| leaving.pod.clone())
            .collect();
        match due.is_empty() {
            false => Next::Evict(due),
            true => Next::LookAt((now + self.settings.look).min(self.until)),
        }
    }

    /// The API server's answer to an eviction.
    pub fn evicted(&mut self, pod: &PodRef, answer: Evicted, now: Instant) {
        match answer {
            Evicted::Leaving => {
                self.refused.remove(pod);
            }
            Evicted::Refused { message } => {
                let DrainSettings { retry, retry_most, .. } = self.settings;
                let before = self.refused.get(pod);
                let pause = before.map_or(retry, |before| (before.pause * 2).min(retry_most));
                let refusal = Refusal { again: now + pause, pause, message };
                self.refused.insert(pod.clone(), refusal);
            }
        }
    }

    /// What holds it at the moment, when a budget does.
    pub fn blocked(&self) -> Option<Blocked> {
        self.refused.iter().next().map(|(pod, refusal)| Blocked {
            pod: pod.clone(),
            budgets: self.guards.get(pod).cloned().unwrap_or_default(),
            message: refusal.message.clone(),
        })
    }
}

fn left(plan: &DrainPlan) -> Vec<PodRef> {
    let ending = plan.skip.iter().filter(|(_, skip)| *skip == Skip::Terminating);
    let left = plan.evict.iter().map(|leaving| &leaving.pod).chain(ending.map(|(pod, _)| pod));
    left.take(NAMED).cloned().collect()
}

#[cfg(test)]
mod tests;
