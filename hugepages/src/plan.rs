//! From what is to what is wanted, as steps that people can read. Pure.
//!
//! Per node: free large pages that are too many are split into small ones that are missing
//! (they are contiguous already, so nothing has to be searched for), then what is too much is
//! given back, then what is missing is taken, large pages first because small ones break up the
//! memory that large ones need. Nodes that give memory back come before nodes that take some.
//! A node that cannot be brought to what is wanted without breaking a promise is refused as a
//! whole, and its steps are left out.

use crate::boot::KernelArguments;
use crate::model::{Bytes, Have, Mount, NodeId, PageSize, Pool, Want};
use crate::mounts;
use holdfast_api::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// One change of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the persistent pages of a pool this many.
    SetPool {
        /// On this node.
        node: NodeId,
        /// Of this size.
        size: PageSize,
        /// Pages at the time of planning.
        from: u64,
        /// Pages afterwards.
        to: u64,
    },
    /// Split free large pages into small ones.
    Demote {
        /// On this node.
        node: NodeId,
        /// The size to split.
        from: PageSize,
        /// The size that comes out, as the kernel says.
        into: PageSize,
        /// How many large pages.
        pages: u64,
    },
    /// Forget clean file caches, so that their memory can be moved together.
    DropCaches,
    /// Move memory together on a node.
    Compact {
        /// The node.
        node: NodeId,
    },
    /// Mount a hugetlbfs; its directory is made when it is missing.
    Mount(Mount),
    /// Take away a hugetlbfs mount whose options are not the wanted ones.
    Unmount {
        /// Where.
        path: PathBuf,
    },
}

/// Why a node or a mount is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kernel has no pool of this size on the node.
    #[error("{node} has no huge pages of {size}")]
    Unsupported {
        /// The node.
        node: NodeId,
        /// The size.
        size: PageSize,
    },
    /// The size can only be had at boot.
    #[error("huge pages of {size} on {node} can only be had at boot")]
    BootOnly {
        /// The node.
        node: NodeId,
        /// The size.
        size: PageSize,
    },
    /// Pages beyond the wanted ones are in use.
    #[error(
        "{held} pages of {size} on {node} are in use or reserved; the pool cannot shrink to {want}"
    )]
    InUse {
        /// The node.
        node: NodeId,
        /// The size.
        size: PageSize,
        /// Wanted.
        want: u64,
        /// In use or reserved.
        held: u64,
    },
    /// It would take memory below the floor.
    #[error(
        "{node} needs {more} more for huge pages, and only {headroom} lie above the floor of {floor}"
    )]
    Floor {
        /// The node.
        node: NodeId,
        /// What the node's pools would take on top.
        more: Bytes,
        /// What may be taken.
        headroom: Bytes,
        /// The floor.
        floor: Bytes,
    },
    /// Another file system is mounted there.
    #[error("{} is taken by a mount that is no hugetlbfs", path.display())]
    MountTaken {
        /// Where.
        path: PathBuf,
    },
}

impl Refusal {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::Unsupported { .. } => Reason::HugepagesUnsupported,
            Refusal::BootOnly { .. } => Reason::HugepagesNeedReboot,
            Refusal::InUse { .. } => Reason::HugepagesInUse,
            Refusal::Floor { .. } => Reason::HugepagesFloor,
            Refusal::MountTaken { .. } => Reason::HugepagesMount,
        }
    }

    /// Whether the same request can succeed later without a person or a reboot.
    pub fn retryable(&self) -> bool {
        match self {
            Refusal::InUse { .. } | Refusal::Floor { .. } => true,
            Refusal::Unsupported { .. } | Refusal::BootOnly { .. } | Refusal::MountTaken { .. } => {
                false
            }
        }
    }
}

/// Whether carrying the plan out needs a boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reboot {
    /// No.
    #[default]
    No,
    /// Only if the kernel does not find the memory at run time; with these arguments then.
    Perhaps(KernelArguments),
    /// Yes, with these arguments.
    Needed(KernelArguments),
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What is left as it is, and why.
    pub refused: Vec<Refusal>,
    /// Whether it ends with a reboot.
    pub reboot: Reboot,
}

impl Plan {
    /// Whether the machine is as it should be.
    pub fn is_nothing(&self) -> bool {
        self.steps.is_empty() && self.refused.is_empty()
    }
}

/// What leads from `have` to `want`, as far as promises allow.
pub fn plan(want: &Want, have: &Have) -> Plan {
    let mut plan = Plan::default();
    let mut predicted = have.clone();
    let (mut at_boot, mut perhaps) = (BTreeSet::new(), BTreeSet::new());
    for node in order(want, have) {
        match plan_node(&want.pools[&node], want.floor, &predicted, node) {
            Ok(steps) => {
                for step in &steps {
                    step.predict(&mut predicted);
                    if let Step::SetPool { size, from, to, .. } = step
                        && to > from
                        && is_gigantic(*size)
                    {
                        perhaps.insert(*size);
                    }
                }
                plan.steps.extend(steps);
            }
            Err(refusal) => {
                if let Refusal::BootOnly { size, .. } = refusal {
                    at_boot.insert(size);
                }
                plan.refused.push(refusal);
            }
        }
    }
    let arguments = |sizes: &BTreeSet<PageSize>| KernelArguments::asking_for(want, have, sizes);
    if !at_boot.is_empty() {
        plan.reboot = Reboot::Needed(arguments(&at_boot));
    } else if !perhaps.is_empty() {
        plan.reboot = Reboot::Perhaps(arguments(&perhaps));
    }
    let (steps, refused) = mounts::plan(&want.mounts, &have.mounts);
    plan.steps.extend(steps);
    plan.refused.extend(refused);
    plan
}

/// Pages so large that the kernel's page allocator does not hand them out by itself; it has to
/// clear a contiguous range, which often only works at boot.
pub(crate) fn is_gigantic(size: PageSize) -> bool {
    size >= PageSize::G1
}

/// Wanted nodes, those that give memory back first.
pub(crate) fn order(want: &Want, have: &Have) -> Vec<NodeId> {
    let change = |node: &NodeId| -> i128 {
        let pages = |size: &PageSize| have.pool(*node, *size).map_or(0, Pool::persistent);
        want.pools[node]
            .iter()
            .map(|(s, n)| i128::from(s.times(*n).0) - i128::from(s.times(pages(s)).0))
            .sum()
    };
    let mut nodes: Vec<NodeId> = want.pools.keys().copied().collect();
    nodes.sort_by_key(change);
    nodes
}

/// The steps for one node.
pub(crate) fn plan_node(
    want: &BTreeMap<PageSize, u64>,
    floor: Bytes,
    have: &Have,
    node: NodeId,
) -> Result<Vec<Step>, Refusal> {
    check(want, have, node)?;
    let mut predicted = have.clone();
    let mut steps = Vec::new();
    for size in want.keys().rev() {
        if let Some(step) = demotion(want, &predicted, node, *size) {
            step.predict(&mut predicted);
            steps.push(step);
        }
    }
    for shrinking in [true, false] {
        for (&size, &to) in want.iter().rev() {
            let from = predicted.pool(node, size).map_or(0, Pool::persistent);
            if from == to || (to < from) != shrinking {
                continue;
            }
            let step = Step::SetPool { node, size, from, to };
            let (more, headroom) = (step.takes(&predicted), predicted.headroom(node, floor));
            if more > headroom {
                return Err(Refusal::Floor { node, more, headroom, floor });
            }
            step.predict(&mut predicted);
            steps.push(step);
        }
    }
    Ok(steps)
}

fn check(want: &BTreeMap<PageSize, u64>, have: &Have, node: NodeId) -> Result<(), Refusal> {
    for (&size, &pages) in want {
        match have.pool(node, size) {
            None if pages == 0 => {}
            None if have.boot_only.contains(&size) => return Err(Refusal::BootOnly { node, size }),
            None => return Err(Refusal::Unsupported { node, size }),
            Some(pool) => {
                let held = have.held(node, size);
                if pages < pool.persistent() && pages < held {
                    return Err(Refusal::InUse { node, size, want: pages, held });
                }
            }
        }
    }
    Ok(())
}

/// Splits pages of `from` that are too many when the size that comes out is short.
fn demotion(
    want: &BTreeMap<PageSize, u64>,
    have: &Have,
    node: NodeId,
    from: PageSize,
) -> Option<Step> {
    let large = have.pool(node, from)?;
    let into = large.demote_to?;
    let small = have.pool(node, into)?;
    let spare = large
        .persistent()
        .saturating_sub(want[&from])
        .min(large.total - have.held(node, from).min(large.total));
    let short = want.get(&into)?.saturating_sub(small.persistent());
    let pages = spare.min(short.div_ceil(from.split_into(into)));
    (pages > 0).then_some(Step::Demote { node, from, into, pages })
}

impl Step {
    /// What an ideal kernel would make of this step.
    pub(crate) fn predict(&self, have: &mut Have) {
        match self {
            Step::SetPool { node, size, to, .. } => {
                let held = have.held(*node, *size);
                if let Some(pool) = pool_mut(have, *node, *size) {
                    // Pages in use cannot go away: they stay as surplus.
                    let total = if *to >= pool.total { *to } else { (*to).max(held) };
                    pool.free = total.saturating_sub(pool.used());
                    pool.total = total;
                    pool.surplus = total - to;
                }
            }
            Step::Demote { node, from, into, pages } => {
                if let Some(large) = pool_mut(have, *node, *from) {
                    large.total = large.total.saturating_sub(*pages);
                    large.free = large.free.saturating_sub(*pages);
                }
                if let Some(small) = pool_mut(have, *node, *into) {
                    small.total += pages * from.split_into(*into);
                    small.free += pages * from.split_into(*into);
                }
            }
            Step::DropCaches | Step::Compact { .. } | Step::Mount(_) | Step::Unmount { .. } => {}
        }
    }

    /// How much memory this step takes for huge pages on top of what they have.
    pub(crate) fn takes(&self, have: &Have) -> Bytes {
        match self {
            Step::SetPool { node, size, to, .. } => {
                size.times(to.saturating_sub(have.pool(*node, *size).map_or(0, |pool| pool.total)))
            }
            Step::Demote { .. }
            | Step::DropCaches
            | Step::Compact { .. }
            | Step::Mount(_)
            | Step::Unmount { .. } => Bytes(0),
        }
    }
}

fn pool_mut(have: &mut Have, node: NodeId, size: PageSize) -> Option<&mut Pool> {
    have.nodes.get_mut(&node)?.pools.get_mut(&size)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::SetPool { node, size, from, to } => {
                write!(f, "set the pool of {size} pages on {node} from {from} to {to}")
            }
            Step::Demote { node, from, into, pages } => {
                write!(f, "split {pages} free pages of {from} on {node} into pages of {into}")
            }
            Step::DropCaches => f.write_str("drop clean file caches"),
            Step::Compact { node } => write!(f, "compact the memory of {node}"),
            Step::Mount(mount) => {
                write!(f, "mount hugetlbfs with {} pages at {}", mount.size, mount.path.display())?;
                mount.limit.map_or(Ok(()), |limit| write!(f, ", at most {limit}"))
            }
            Step::Unmount { path } => write!(f, "unmount the hugetlbfs at {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
