//! The token that nodes join with, as far as a restore is concerned.
//!
//! k3s keeps its authorities in the datastore, encrypted by the secret part of the token. Started on
//! a datastore of another token it ends with "bootstrap data already found and encrypted with
//! different token" (k3s documentation, "Snapshot Restore in new nodes": the token of the snapshot
//! is needed). So that is found out before anything is touched.

use super::error::{SnapshotError, io_error};
use crate::paths::ClusterPaths;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Makes sure that the distribution is given the token `carried`, or none but that.
///
/// # Errors
/// [`SnapshotError::OtherToken`] with the file that says otherwise.
pub(super) fn fits(paths: &ClusterPaths, carried: &Path) -> Result<(), SnapshotError> {
    let carried =
        Zeroizing::new(std::fs::read_to_string(carried).map_err(io_error("read", carried))?);
    match configured(paths)? {
        Some((configured, token)) if secret(&token) != secret(&carried) => {
            Err(SnapshotError::OtherToken { configured })
        }
        _ => Ok(()),
    }
}

/// The token that k3s is given, and by which file: a later one replaces what an earlier one says
/// (k3s documentation, "Configuration File", "Multiple Config Files").
fn configured(paths: &ClusterPaths) -> Result<Option<(PathBuf, Zeroizing<String>)>, SnapshotError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Config {
        token: String,
    }
    let folder = paths.config_dir().join("config.yaml.d");
    let mut fragments: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("read", &folder)(error)),
    };
    fragments.retain(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    fragments.sort();
    fragments.insert(0, paths.config_dir().join("config.yaml"));
    let mut found = None;
    for path in fragments {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        // What is no configuration the distribution complains of by itself.
        let config: Config = serde_yaml_ng::from_str(&text).unwrap_or_default();
        if !config.token.is_empty() {
            found = Some((path, Zeroizing::new(config.token)));
        }
    }
    Ok(found)
}

/// The secret part of a token (k3s documentation, "token"): `K10<hash>::<user>:<secret>`, or all.
fn secret(token: &str) -> &str {
    let token = token.trim();
    let full = token.strip_prefix("K10").and_then(|rest| rest.split_once("::"));
    full.map_or(token, |(_, user)| user.split_once(':').map_or(user, |(_, secret)| secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    #[test]
    fn the_secret_part_counts_and_the_last_file_that_names_one() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(dir.path()));
        let carried = dir.path().join("token");
        holdfast_durable::write(&carried, b"K10abc::server:a:secret\n", 0o600).unwrap();
        fits(&paths, &carried).unwrap();
        let write = |name: &str, text: &str| {
            let path = paths.config_dir().join(name);
            holdfast_durable::write(&path, text.as_bytes(), 0o600).unwrap();
        };
        write("config.yaml", "token: another\nnode-name: n\n");
        let error = fits(&paths, &carried).unwrap_err();
        assert!(
            matches!(&error, SnapshotError::OtherToken { configured }
            if configured.ends_with("config.yaml")),
            "{error}"
        );
        write("config.yaml.d/60-holdfast.yaml", "token: 'a:secret'\n");
        write("config.yaml.d/70-empty.yaml", "");
        write("config.yaml.d/80-readme.txt", "token: no\n");
        fits(&paths, &carried).unwrap();
        write("config.yaml.d/70-more.yml", "token: K10def::node:other\n");
        assert!(fits(&paths, &carried).is_err());
    }
}
