//! What the task remembers over a restart: the last drill, and what it restored by itself.

use super::super::automatic::Tried;
use super::super::error::SnapshotError;
use super::super::model::{Drilled, Stamp};
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::DrillResult;
use holdfast_durable::{Loaded, Slots};
use serde::{Deserialize, Serialize};

/// A drill, and of which snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptDrill {
    /// Of which.
    pub(super) stamp: Stamp,
    /// What it said.
    pub(super) result: DrillResult,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Kept {
    /// The last drill that was made.
    pub(super) drill: Option<KeptDrill>,
    /// Restores that nobody asked for, those of the last hour.
    pub(super) tried: Vec<Tried>,
}

impl Kept {
    fn slots(paths: &ClusterPaths) -> Slots {
        Slots::new(paths.state_dir().join("snapshots.json"), 0o600)
    }

    /// As it was stored. What cannot be read is forgotten: that costs one drill.
    pub(super) fn load(paths: &ClusterPaths) -> Self {
        match Self::slots(paths).load() {
            Ok(Loaded::Newest(kept) | Loaded::LastGood(kept, _)) => kept,
            Ok(Loaded::Empty) => Kept::default(),
            Err(error) => {
                tracing::warn!(%error, "the last drill is forgotten");
                Kept::default()
            }
        }
    }

    pub(super) fn store(&self, paths: &ClusterPaths) -> Result<(), SnapshotError> {
        Self::slots(paths).store(self).map_err(SnapshotError::Journal)
    }

    /// For the plan.
    pub(super) fn drilled(&self) -> Option<Drilled> {
        let drill = self.drill.as_ref()?;
        Some(Drilled { at: drill.result.at, stamp: drill.stamp, skipped: false })
    }
}
