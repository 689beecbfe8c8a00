//! The pools before a run, so that a run that was killed can still be taken back.
//!
//! Kept in the run directory while a run lasts, and removed at its end. Pools do not survive a
//! boot, so a record of an earlier boot is worth nothing and is not used.

use crate::model::{Have, NodeId, PageSize, Want};
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_durable::WriteError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Persistent pages per node and size, at the start of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Baseline {
    boot_id: Option<String>,
    pools: BTreeMap<NodeId, BTreeMap<PageSize, u64>>,
}

/// The record could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the record of the earlier pools")]
pub struct BaselineError {
    /// What failed.
    #[source]
    pub source: WriteError,
}

impl BaselineError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        if self.source.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable }
    }
}

impl Baseline {
    /// The pools that are there.
    pub fn of(have: &Have) -> Self {
        let persistent = |pools: &BTreeMap<PageSize, crate::model::Pool>| {
            pools.iter().map(|(size, pool)| (*size, pool.persistent())).collect()
        };
        let pools =
            have.nodes.iter().map(|(node, found)| (*node, persistent(&found.pools))).collect();
        Baseline { boot_id: have.boot_id.clone(), pools }
    }

    /// Where the record is kept.
    pub fn path(root: &Root) -> PathBuf {
        root.run_dir().join("hugepages-earlier.json")
    }

    /// The record of a run in this boot that did not end.
    pub fn unfinished(root: &Root, have: &Have) -> Option<Self> {
        let kept = std::fs::read(Self::path(root)).ok()?;
        let kept: Baseline = serde_json::from_slice(&kept).ok()?;
        (kept.boot_id.is_some() && kept.boot_id == have.boot_id).then_some(kept)
    }

    /// The record of an unfinished run, or else a new one.
    ///
    /// # Errors
    /// The record cannot be written; nothing should be changed then.
    pub fn begin(root: &Root, have: &Have) -> Result<Self, BaselineError> {
        if let Some(kept) = Self::unfinished(root, have) {
            return Ok(kept);
        }
        let new = Self::of(have);
        let json = serde_json::to_vec(&new).expect("maps with integer keys have a JSON form");
        holdfast_durable::write(&Self::path(root), &json, 0o600)
            .map_err(|source| BaselineError { source })?;
        Ok(new)
    }

    /// Ends the run: what is there now is the earlier pool of the next one.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub fn end(root: &Root) -> Result<(), BaselineError> {
        holdfast_durable::remove(&Self::path(root))
            .map(|_| ())
            .map_err(|source| BaselineError { source })
    }

    /// What this node had, of the sizes that are wanted of it.
    pub(crate) fn pools(&self, node: NodeId, want: &Want) -> BTreeMap<PageSize, u64> {
        let wanted = want.pools.get(&node);
        let earlier = self.pools.get(&node).into_iter().flatten();
        earlier
            .filter(|(size, _)| wanted.is_some_and(|sizes| sizes.contains_key(size)))
            .map(|(size, pages)| (*size, *pages))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Machine;

    #[test]
    fn an_unfinished_record_is_kept_within_a_boot_and_dropped_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let before = Machine::nodes(1).pool(0, PageSize::M2, 3).have();
        let first = Baseline::begin(&root, &before).unwrap();
        let mut later = Machine::nodes(1).pool(0, PageSize::M2, 9).have();
        assert_eq!(Baseline::begin(&root, &later).unwrap(), first);
        later.boot_id = Some("another".into());
        assert_ne!(Baseline::begin(&root, &later).unwrap(), first);
        Baseline::end(&root).unwrap();
        Baseline::end(&root).unwrap();
        assert_eq!(Baseline::begin(&root, &before).unwrap(), first);
    }

    #[test]
    fn without_a_place_for_the_record_nothing_begins() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/nowhere", dir.path().join("run")).unwrap();
        let error = Baseline::begin(&Root::new(dir.path()), &Have::default()).unwrap_err();
        assert_eq!(error.reason(), Reason::StateUnwritable);
    }
}
