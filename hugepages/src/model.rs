//! What is wanted and what is there, as plain values.

use crate::boot::KernelArguments;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` kibibytes.
    pub const fn kib(n: u64) -> Self {
        Bytes(n.saturating_mul(1 << 10))
    }
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Bytes(n.saturating_mul(1 << 20))
    }
    /// `n` gibibytes.
    pub const fn gib(n: u64) -> Self {
        Bytes(n.saturating_mul(1 << 30))
    }
    /// The sum, at most [`u64::MAX`].
    pub const fn plus(self, other: Bytes) -> Self {
        Bytes(self.0.saturating_add(other.0))
    }
    /// The difference, at least zero.
    pub const fn less(self, other: Bytes) -> Self {
        Bytes(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{} GiB", n >> 30),
            n if n >= 1 << 20 => write!(f, "{} MiB", n >> 20),
            n => write!(f, "{} KiB", n >> 10),
        }
    }
}

/// A size of huge page that the kernel knows, in KiB. Anything with a directory
/// `hugepages-<n>kB` fits; the product uses [`PageSize::M2`] and [`PageSize::G1`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PageSize(u64);

/// Not a power of two between 64 KiB and 16 GiB, the range of the kernel's architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} KiB is no size of a huge page")]
pub struct PageSizeError(pub u64);

impl PageSize {
    /// 2 MiB.
    pub const M2: PageSize = PageSize(2 << 10);
    /// 1 GiB.
    pub const G1: PageSize = PageSize(1 << 20);

    /// The size in KiB.
    pub const fn kib(self) -> u64 {
        self.0
    }
    /// The memory that `pages` of this size take.
    pub const fn times(self, pages: u64) -> Bytes {
        Bytes(self.0.saturating_mul(1 << 10).saturating_mul(pages))
    }
    /// Whole pages of this size in `memory`.
    pub const fn fitting(self, memory: Bytes) -> u64 {
        memory.0 / (self.0 << 10)
    }
    /// How many pages of size `small` one page of this size is made of.
    pub const fn split_into(self, small: PageSize) -> u64 {
        self.0 / small.0
    }
    /// Name of the directory under `hugepages/` in sysfs.
    pub fn directory(self) -> String {
        format!("hugepages-{}kB", self.0)
    }
}

impl TryFrom<u64> for PageSize {
    type Error = PageSizeError;
    fn try_from(kib: u64) -> Result<Self, PageSizeError> {
        if kib.is_power_of_two() && (64..=16 << 20).contains(&kib) {
            Ok(PageSize(kib))
        } else {
            Err(PageSizeError(kib))
        }
    }
}

impl From<PageSize> for u64 {
    fn from(size: PageSize) -> u64 {
        size.0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes::kib(self.0).fmt(f)
    }
}

/// A NUMA node, as the kernel numbers them. A machine without NUMA is node 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// What the profile asks for, before the machine is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Pools; one for a node outranks one for each node.
    pub pools: Vec<PoolRequest>,
    /// Memory that is never taken for huge pages, over the whole machine.
    pub floor: Bytes,
    /// hugetlbfs mounts.
    pub mounts: Vec<Mount>,
}

/// One pool that the profile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRequest {
    /// On which node.
    pub at: Where,
    /// Of which pages.
    pub size: PageSize,
    /// How many.
    pub amount: Amount,
}

/// Which NUMA nodes a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// The same on every node that has memory.
    EachNode,
    /// On this node only.
    Node(NodeId),
}

/// How many pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Pages(u64),
    /// This share of the node's memory, 1 to 100, rounded down to whole pages.
    Percent(u8),
}

/// A hugetlbfs mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Where, as an absolute path below the machine's root.
    pub path: PathBuf,
    /// Of which pages.
    pub size: PageSize,
    /// At most this much (`size=`); no limit but the pool when absent.
    pub limit: Option<Bytes>,
    /// Mode of the mount's root directory; set when it is mounted, not compared later.
    pub mode: u32,
    /// Owner of the mount's root directory; set when it is mounted, not compared later.
    pub uid: u32,
    /// Group of the mount's root directory; set when it is mounted, not compared later.
    pub gid: u32,
}

/// What this machine shall have. Made by [`demand`](crate::demand()).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Want {
    /// Persistent pages per node and size. Sizes that are not named are left alone.
    pub pools: BTreeMap<NodeId, BTreeMap<PageSize, u64>>,
    /// Memory that is never taken, over the whole machine.
    pub floor: Bytes,
    /// hugetlbfs mounts.
    pub mounts: Vec<Mount>,
}

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Have {
    /// Nodes that have memory.
    pub nodes: BTreeMap<NodeId, NodeHave>,
    /// Memory of the whole machine.
    pub memory: Memory,
    /// Reserved pages per size: promised to a mapping that has not touched them yet. The kernel
    /// counts them for the whole machine only.
    pub reserved: BTreeMap<PageSize, u64>,
    /// Sizes for which the processor is able but the kernel has no pool; they can only be had
    /// by a kernel argument.
    pub boot_only: Vec<PageSize>,
    /// What the running kernel was asked for on its command line.
    pub arguments: KernelArguments,
    /// The kernel's id of this boot; absent when it does not tell.
    pub boot_id: Option<String>,
    /// Every mount, topmost last: path, and the details when it is a hugetlbfs.
    pub mounts: Vec<MountHave>,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeHave {
    /// Its memory.
    pub memory: Memory,
    /// Its pools by page size.
    pub pools: BTreeMap<PageSize, Pool>,
}

/// Memory of a node or of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// All that the kernel manages, huge pages included.
    pub total: Bytes,
    /// Unused at the moment, huge pages not included.
    pub free: Bytes,
}

/// One pool, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// All pages, surplus included.
    pub total: u64,
    /// Pages that nobody has mapped.
    pub free: u64,
    /// Pages beyond the persistent ones; they vanish when their user lets go.
    pub surplus: u64,
    /// The size into which the kernel can split pages of this pool.
    pub demote_to: Option<PageSize>,
}

impl Pool {
    /// Pages that stay when they are free; what `nr_hugepages` sets.
    pub const fn persistent(&self) -> u64 {
        self.total.saturating_sub(self.surplus)
    }
    /// Pages that are mapped.
    pub const fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

impl Have {
    /// The pool of this size on this node.
    pub fn pool(&self, node: NodeId, size: PageSize) -> Option<&Pool> {
        self.nodes.get(&node)?.pools.get(&size)
    }

    /// Pages of this pool that cannot be taken away: mapped ones, and those reserved ones that no
    /// other node has room for.
    pub fn held(&self, node: NodeId, size: PageSize) -> u64 {
        let Some(pool) = self.pool(node, size) else { return 0 };
        let elsewhere: u64 = self
            .nodes
            .iter()
            .filter(|(id, _)| **id != node)
            .filter_map(|(_, n)| n.pools.get(&size))
            .map(|p| p.free)
            .sum();
        let reserved = self.reserved.get(&size).copied().unwrap_or(0);
        pool.used() + reserved.saturating_sub(elsewhere).min(pool.free)
    }

    /// Memory in huge pages, over all nodes and sizes.
    pub fn huge(&self) -> Bytes {
        self.nodes.values().map(NodeHave::huge).fold(Bytes(0), Bytes::plus)
    }

    /// How much more memory huge pages may take on a node: what the machine has above the floor,
    /// and no more than the node has.
    pub fn headroom(&self, node: NodeId, floor: Bytes) -> Bytes {
        let machine = self.memory.total.less(floor).less(self.huge());
        self.nodes
            .get(&node)
            .map_or(Bytes(0), |found| found.memory.total.less(found.huge()).min(machine))
    }
}

impl NodeHave {
    /// Memory in huge pages on this node.
    pub fn huge(&self) -> Bytes {
        self.pools.iter().map(|(size, pool)| size.times(pool.total)).fold(Bytes(0), Bytes::plus)
    }
}

/// A mount that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountHave {
    /// Where.
    pub path: PathBuf,
    /// What, when it is a hugetlbfs; `None` for any other file system.
    pub hugetlb: Option<HugetlbMount>,
}

/// Options of a hugetlbfs mount that we compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugetlbMount {
    /// Size of its pages.
    pub size: PageSize,
    /// Its `size=` limit.
    pub limit: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_the_kernel_names_them() {
        assert_eq!(PageSize::G1.directory(), "hugepages-1048576kB");
        assert_eq!(PageSize::M2.to_string(), "2 MiB");
        assert_eq!(PageSize::G1.split_into(PageSize::M2), 512);
        assert_eq!(PageSize::try_from(2048), Ok(PageSize::M2));
        assert_eq!(PageSize::try_from(2049), Err(PageSizeError(2049)));
        assert_eq!(PageSize::try_from(4), Err(PageSizeError(4)));
    }

    /// Reserved pages bind a node only as far as the others cannot serve them.
    #[test]
    fn reserved_pages_hold_what_no_other_node_can_give() {
        let pool = |total, free| Pool { total, free, ..Pool::default() };
        let node =
            |p| NodeHave { pools: BTreeMap::from([(PageSize::M2, p)]), ..NodeHave::default() };
        let have = Have {
            nodes: BTreeMap::from([(NodeId(0), node(pool(10, 6))), (NodeId(1), node(pool(4, 3)))]),
            reserved: BTreeMap::from([(PageSize::M2, 5)]),
            ..Have::default()
        };
        assert_eq!(have.held(NodeId(0), PageSize::M2), 4 + 2);
        assert_eq!(have.held(NodeId(1), PageSize::M2), 1);
    }
}
