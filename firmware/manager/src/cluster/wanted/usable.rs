//! The last word of the controller about Kubernetes that could be used, on the disk: what it says
//! now may be wrong, and a manager that starts after a power cut has nothing else to go by.
//!
//! The ledger keeps what the controller says, right or wrong. The file holds the site's token and
//! has mode 0600, as the ledger does.

use super::Wanted;
use holdfast_api::chain;
use holdfast_api::kubernetes::KubernetesIntent;
use holdfast_api::paths::Root;
use holdfast_cluster::distribution::Wish;
use holdfast_cluster::paths::ClusterPaths;
use hw_profiles::PageSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tracing::warn;

/// What it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usable {
    /// The node's name.
    pub node: String,
    /// The controller's word.
    pub intent: KubernetesIntent,
    /// Huge pages as they were, for when they cannot be read.
    pub hugepages: BTreeMap<PageSize, u64>,
}

impl Usable {
    fn path(root: &Root) -> PathBuf {
        ClusterPaths::new(root).state_dir().join("wanted.json")
    }

    /// What is kept below `root`; none when nothing can be read.
    pub fn load(root: &Root) -> Option<Usable> {
        let path = Self::path(root);
        let text = std::fs::read(&path).ok()?;
        let kept = serde_json::from_slice(&text);
        kept.inspect_err(|error| warn!(path = %path.display(), %error, "cannot be used")).ok()
    }

    /// Keeps what `wanted` was made of, when it could be used; nothing once nobody asks for
    /// Kubernetes. A failure costs the way back only, and is logged.
    pub(super) fn keep(root: &Root, wanted: &Wanted) {
        let path = Self::path(root);
        let done = match (&wanted.wish, &wanted.intent) {
            (Wish::Off, _) => holdfast_durable::remove(&path),
            (Wish::Run(wants), Some(intent)) if wanted.is_usable => {
                let usable = Usable {
                    node: wants.node_name.clone(),
                    intent: intent.clone(),
                    hugepages: wants.hugepages.clone(),
                };
                let text = serde_json::to_vec(&usable).unwrap_or_default();
                holdfast_durable::write_if_changed(&path, &text, 0o600)
            }
            (Wish::Run(_) | Wish::Unknown, _) => return,
        };
        if let Err(error) = done {
            warn!(error = chain(&error), "what Kubernetes was asked for last is not kept");
        }
    }
}
