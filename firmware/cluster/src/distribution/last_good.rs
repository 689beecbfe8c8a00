//! The files with which the distribution was ready last, for when it refuses newer ones.

use super::render::{self, MODE, Rendered};
use super::want::Wanted;
use crate::paths::ClusterPaths;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tracing::warn;
use zeroize::Zeroize;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Files {
    config: String,
    registries: Option<String>,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.config.zeroize();
        self.registries.zeroize();
    }
}

/// Where they are kept. The file holds the token and has mode 0600.
pub(super) fn path(paths: &ClusterPaths) -> PathBuf {
    paths.state_dir().join("distribution/last-good.json")
}

/// Keeps the files of `wanted`. A failure costs the way back only, and is logged.
pub(super) fn keep(paths: &ClusterPaths, wanted: &Wanted) {
    let files = Files {
        config: wanted.config.content.clone(),
        registries: wanted.registries.as_ref().map(|file| file.content.clone()),
    };
    let mut text = serde_json::to_vec(&files).unwrap_or_default();
    if let Err(error) = holdfast_durable::write_if_changed(&path(paths), &text, MODE) {
        warn!(error = %error, "the last good configuration of Kubernetes is not kept");
    }
    text.zeroize();
}

/// `wanted` with the files that were good last; none when there are none, or the same.
pub(super) fn instead_of(paths: &ClusterPaths, wanted: &Wanted) -> Option<Wanted> {
    let mut text = std::fs::read(path(paths)).ok()?;
    let files = serde_json::from_slice::<Files>(&text).ok();
    text.zeroize();
    let files = files?;
    let config = Rendered { path: render::config_path(paths), content: files.config.clone() };
    let registries = files
        .registries
        .clone()
        .map(|content| Rendered { path: render::registries_path(paths), content });
    let good = wanted.clone().with_files(config, registries);
    (good != *wanted).then_some(good)
}
