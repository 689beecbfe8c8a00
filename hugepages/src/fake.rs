//! A kernel that remembers, for tests: memory per node with what others use, caches that can be
//! dropped, fragments that compaction heals or not, and a way to be killed after any step.

use crate::apply::{ApplyError, Kernel, Outcome};
use crate::drive::Clock;
use crate::model::{
    Bytes, Have, HugetlbMount, Memory, Mount, MountHave, NodeHave, NodeId, PageSize, Pool,
};
use crate::observe::ObserveError;
use crate::plan::is_gigantic;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) have: Have,
    /// Memory that stays with the rest of the system, per node index.
    pub(crate) others: Vec<Bytes>,
    /// Memory in caches, per node index; free once dropped.
    pub(crate) caches: Vec<Bytes>,
    /// Memory that is free and too scattered, until compaction.
    pub(crate) scattered: Vec<Bytes>,
    /// Memory that is free and stays scattered.
    pub(crate) pinned: Vec<Bytes>,
    /// Gigantic pools answer EINVAL.
    pub(crate) gigantic_at_boot_only: bool,
    /// The kernel keeps the pages that it is asked to give back.
    pub(crate) stubborn: bool,
    /// Every write to a pool answers EACCES.
    pub(crate) forbidden: bool,
    /// The floor that no growing write may break.
    pub(crate) floor: Bytes,
    /// Whether one did.
    pub(crate) floor_broken: bool,
    /// Steps until the process is killed.
    pub(crate) fuse: Option<u32>,
    /// Steps that changed or tried to change anything.
    pub(crate) log: Vec<String>,
}

impl Machine {
    /// Nodes of 8 GiB, with 2 MiB and 1 GiB pages, all free.
    pub(crate) fn nodes(count: u32) -> Self {
        let pool = |demote_to| Pool { demote_to, ..Pool::default() };
        let pools = [(PageSize::M2, pool(None)), (PageSize::G1, pool(Some(PageSize::M2)))];
        let node = NodeHave { memory: Memory::default(), pools: pools.into() };
        let none = vec![Bytes(0); count as usize];
        Machine {
            have: Have {
                nodes: (0..count).map(|id| (NodeId(id), node.clone())).collect(),
                boot_id: Some("this boot".into()),
                ..Have::default()
            },
            others: none.clone(),
            caches: none.clone(),
            scattered: none.clone(),
            pinned: none,
            gigantic_at_boot_only: false,
            stubborn: false,
            forbidden: false,
            floor: Bytes(0),
            floor_broken: false,
            fuse: None,
            log: vec![],
        }
        .memory(Bytes::gib(8))
    }

    pub(crate) fn memory(mut self, each: Bytes) -> Self {
        let memory = Memory { total: each, free: each };
        self.have.nodes.values_mut().for_each(|node| node.memory = memory);
        let all = Bytes(each.0 * self.have.nodes.len() as u64);
        self.have.memory = Memory { total: all, free: all };
        self
    }

    pub(crate) fn pool(mut self, node: u32, size: PageSize, pages: u64) -> Self {
        let pool = self.pool_mut(NodeId(node), size);
        (pool.total, pool.free) = (pages, pages);
        self
    }

    pub(crate) fn in_use(mut self, node: u32, size: PageSize, pages: u64) -> Self {
        self.pool_mut(NodeId(node), size).free -= pages;
        self
    }

    pub(crate) fn have(&self) -> Have {
        self.have.clone()
    }

    pub(crate) fn pages(&self, node: u32, size: PageSize) -> u64 {
        self.have.pool(NodeId(node), size).map_or(0, Pool::persistent)
    }

    fn pool_mut(&mut self, node: NodeId, size: PageSize) -> &mut Pool {
        self.have
            .nodes
            .get_mut(&node)
            .and_then(|n| n.pools.get_mut(&size))
            .expect("a pool of the fake")
    }

    /// Memory that can become huge pages now.
    fn obtainable(&self, node: NodeId) -> Bytes {
        let at = node.0 as usize;
        let taken = [self.others[at], self.caches[at], self.scattered[at], self.pinned[at]];
        let node = &self.have.nodes[&node];
        taken.into_iter().fold(node.memory.total.less(node.huge()), Bytes::less)
    }

    /// Panics when the fuse has burnt down: the process is gone, the kernel stays.
    fn burn(&mut self, what: String) {
        self.log.push(what);
        if let Some(left) = &mut self.fuse {
            assert!(*left > 0, "killed");
            *left -= 1;
        }
    }

    fn refuse(&self, size: PageSize, value: u64) -> Result<(), ApplyError> {
        let fail = |kind: io::ErrorKind| ApplyError::Write {
            path: format!("nodeN/{}/nr_hugepages", size.directory()).into(),
            value: value.to_string(),
            source: kind.into(),
        };
        if self.forbidden {
            return Err(fail(io::ErrorKind::PermissionDenied));
        }
        if self.gigantic_at_boot_only && is_gigantic(size) {
            Err(fail(io::ErrorKind::InvalidInput))
        } else {
            Ok(())
        }
    }
}

impl Kernel for Machine {
    fn observe(&self) -> Result<Have, ObserveError> {
        Ok(self.have.clone())
    }

    fn set_pool(
        &mut self,
        node: NodeId,
        size: PageSize,
        pages: u64,
    ) -> Result<Outcome, ApplyError> {
        self.burn(format!("{node} {size} {pages}"));
        self.refuse(size, pages)?;
        if self.stubborn && pages < self.have.pool(node, size).map_or(0, |pool| pool.total) {
            return Ok(Outcome::Unchanged);
        }
        let can = size.fitting(self.obtainable(node));
        let held = self.have.held(node, size);
        let before = self.have.huge();
        let pool = self.pool_mut(node, size);
        let old = *pool;
        let (used, total) = (
            pool.used(),
            if pages > pool.total { pages.min(pool.total + can) } else { pages.max(held) },
        );
        // Pages in use beyond the persistent ones are surplus.
        pool.surplus = total.saturating_sub(pages);
        pool.free = total - used;
        pool.total = total;
        let changed = *pool != old;
        let huge = self.have.huge();
        if huge > before && huge.plus(self.floor) > self.have.memory.total {
            self.floor_broken = true;
        }
        Ok(if changed { Outcome::Changed } else { Outcome::Unchanged })
    }

    fn demote(&mut self, node: NodeId, size: PageSize, pages: u64) -> Result<Outcome, ApplyError> {
        self.burn(format!("{node} demote {pages}"));
        self.refuse(PageSize::M2, pages)?;
        let large = self.pool_mut(node, size);
        let pages = pages.min(large.free);
        large.total -= pages;
        large.free -= pages;
        let small = self.pool_mut(node, PageSize::M2);
        small.total += pages * 512;
        small.free += pages * 512;
        Ok(if pages > 0 { Outcome::Changed } else { Outcome::Unchanged })
    }

    fn drop_caches(&mut self) -> Result<Outcome, ApplyError> {
        self.burn("drop caches".into());
        self.caches.fill(Bytes(0));
        Ok(Outcome::Changed)
    }

    fn compact(&mut self, node: NodeId) -> Result<Outcome, ApplyError> {
        self.burn(format!("compact {node}"));
        self.scattered[node.0 as usize] = Bytes(0);
        Ok(Outcome::Changed)
    }

    fn mount(&mut self, mount: &Mount) -> Result<Outcome, ApplyError> {
        self.burn(format!("mount {}", mount.path.display()));
        let limit = mount.limit.map(|limit| mount.size.times(mount.size.fitting(limit)));
        let hugetlb = Some(HugetlbMount { size: mount.size, limit });
        self.have.mounts.push(MountHave { path: mount.path.clone(), hugetlb });
        Ok(Outcome::Created)
    }

    fn unmount(&mut self, path: &Path) -> Result<Outcome, ApplyError> {
        self.burn(format!("unmount {}", path.display()));
        let at = self.have.mounts.iter().rposition(|mount| mount.path == path);
        Ok(at.map_or(Outcome::Unchanged, |at| {
            self.have.mounts.remove(at);
            Outcome::Changed
        }))
    }
}

/// A clock that only waiting moves.
#[derive(Debug)]
pub(crate) struct Watch {
    now: Instant,
    pub(crate) waited: Duration,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Watch { now: Instant::now(), waited: Duration::ZERO }
    }
}

impl Clock for Watch {
    fn now(&self) -> Instant {
        self.now
    }
    fn wait_until(&mut self, until: Instant) {
        self.waited += until - self.now;
        self.now = until;
    }
}
