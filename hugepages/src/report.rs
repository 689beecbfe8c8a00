//! What came out of it, per node and per mount, with reason codes.

use crate::boot::KernelArguments;
use crate::model::{Have, Mount, NodeId, PageSize, Want};
use crate::plan::{Refusal, is_gigantic};
use holdfast_api::Reason;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The code.
    pub reason: Reason,
    /// The case at hand, for people.
    pub message: String,
    /// Where, when it is about one node.
    pub node: Option<NodeId>,
    /// Which pages, when it is about one size.
    pub size: Option<PageSize>,
}

/// Why a node did not get what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It would break a promise, or the kernel cannot do it.
    Refused(Refusal),
    /// The kernel gave another number of pages than it was asked for, after all relief.
    Short {
        /// Of these pages.
        size: PageSize,
        /// Asked for.
        want: u64,
        /// There in the end.
        got: u64,
    },
    /// A write failed.
    Failed {
        /// The code.
        reason: Reason,
        /// The attempt and the kernel's answer.
        message: String,
    },
}

/// What became of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeOutcome {
    /// It was as wanted.
    Unchanged,
    /// It is as wanted now.
    Changed,
    /// Nothing was touched.
    Refused(Refusal),
    /// It could not be had.
    Failed {
        /// The first cause.
        cause: Cause,
        /// Whether the earlier pools are back.
        restored: bool,
    },
}

/// What became of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountOutcome {
    /// It was there.
    Unchanged,
    /// It was made.
    Mounted,
    /// It could not be made.
    Failed {
        /// The code.
        reason: Reason,
        /// The attempt and the kernel's answer.
        message: String,
    },
}

/// What became of everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Per node.
    pub nodes: BTreeMap<NodeId, NodeOutcome>,
    /// Per mount.
    pub mounts: BTreeMap<Mount, MountOutcome>,
    /// What the kernel command line has to say at the next boot so that short pools are there
    /// from the start. Empty when nothing is short, or when it says so already.
    pub arguments: KernelArguments,
}

impl Report {
    pub(crate) fn new(
        want: &Want,
        have: &Have,
        nodes: BTreeMap<NodeId, NodeOutcome>,
        mounts: BTreeMap<Mount, MountOutcome>,
    ) -> Self {
        let short: BTreeSet<PageSize> = nodes
            .values()
            .filter_map(|outcome| match outcome {
                NodeOutcome::Refused(refusal) => boot_size(refusal),
                NodeOutcome::Failed { cause: Cause::Refused(refusal), .. } => boot_size(refusal),
                NodeOutcome::Failed { cause: Cause::Short { size, want, got }, .. }
                    if got < want =>
                {
                    Some(*size)
                }
                NodeOutcome::Unchanged | NodeOutcome::Changed | NodeOutcome::Failed { .. } => None,
            })
            .filter(|size| !have.arguments.covers(want, *size))
            .collect();
        Report { nodes, mounts, arguments: KernelArguments::asking_for(want, have, &short) }
    }

    /// Whether a reboot with [`Report::arguments`] is what is missing: gigantic pages that the
    /// running kernel could not give.
    pub fn needs_reboot(&self) -> bool {
        self.findings().iter().any(|finding| finding.reason == Reason::HugepagesNeedReboot)
    }

    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        let node = |outcome: &NodeOutcome| matches!(outcome, NodeOutcome::Changed);
        self.nodes.values().any(node) || self.mounts.values().any(|m| *m == MountOutcome::Mounted)
    }

    /// Whether trying again later can help without a person or a reboot.
    pub fn retryable(&self) -> bool {
        self.nodes.values().any(|outcome| match outcome {
            NodeOutcome::Unchanged | NodeOutcome::Changed => false,
            NodeOutcome::Refused(refusal) => refusal.retryable(),
            NodeOutcome::Failed { cause: Cause::Refused(refusal), .. } => refusal.retryable(),
            NodeOutcome::Failed { .. } => true,
        }) || self.mounts.values().any(|outcome| matches!(outcome, MountOutcome::Failed { .. }))
    }

    /// Everything that is not as it should be; empty when all is well.
    pub fn findings(&self) -> Vec<Finding> {
        let nodes =
            self.nodes.iter().flat_map(|(node, outcome)| self.node_findings(*node, outcome));
        let mounts = self.mounts.values().filter_map(|outcome| match outcome {
            MountOutcome::Unchanged | MountOutcome::Mounted => None,
            MountOutcome::Failed { reason, message } => {
                Some(Finding { reason: *reason, message: message.clone(), node: None, size: None })
            }
        });
        nodes.chain(mounts).collect()
    }

    fn node_findings(&self, node: NodeId, outcome: &NodeOutcome) -> Vec<Finding> {
        match outcome {
            NodeOutcome::Unchanged | NodeOutcome::Changed => vec![],
            NodeOutcome::Refused(refusal) => vec![self.refused(node, refusal)],
            NodeOutcome::Failed { cause, restored } => {
                let mut finding = self.caused(node, cause);
                finding.message += if *restored {
                    "; the earlier pools stand"
                } else {
                    "; the earlier pools could not be restored either"
                };
                vec![finding]
            }
        }
    }

    fn refused(&self, node: NodeId, refusal: &Refusal) -> Finding {
        let size = boot_size(refusal);
        let (reason, message) = match size {
            // Asked for at boot already: another reboot would not help.
            Some(_) if self.arguments.is_empty() => (
                Reason::HugepagesUnsupported,
                format!("{refusal}, and were asked for at boot in vain"),
            ),
            Some(_) => (refusal.reason(), format!("{refusal}, with {}", self.arguments)),
            None => (refusal.reason(), refusal.to_string()),
        };
        Finding { reason, message, node: Some(node), size }
    }

    fn caused(&self, node: NodeId, cause: &Cause) -> Finding {
        match cause {
            Cause::Refused(refusal) => self.refused(node, refusal),
            Cause::Failed { reason, message } => {
                Finding { reason: *reason, message: message.clone(), node: Some(node), size: None }
            }
            Cause::Short { size, want, got } => {
                let mut message =
                    format!("asked for {want} pages of {size} on {node}, the kernel gave {got}");
                let by_boot = !self.arguments.is_empty();
                if by_boot {
                    message += &format!("; a boot with {} gives them", self.arguments);
                }
                let reason = match by_boot && is_gigantic(*size) {
                    true => Reason::HugepagesNeedReboot,
                    false => Reason::HugepagesShort,
                };
                Finding { reason, message, node: Some(node), size: Some(*size) }
            }
        }
    }
}

fn boot_size(refusal: &Refusal) -> Option<PageSize> {
    match refusal {
        Refusal::BootOnly { size, .. } => Some(*size),
        Refusal::Unsupported { .. }
        | Refusal::InUse { .. }
        | Refusal::Floor { .. }
        | Refusal::MountTaken { .. } => None,
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}
