//! containerd's folder, when its database is damaged: emptied, so that the next start makes it anew.
//!
//! What is in it comes again by itself: images are pulled, and containers made, as on a new node.
//! Volumes are the kubelet's and elsewhere. Only the database is damaged, but the snapshots and
//! layers beside it belong to it alone. Owned here: `io.containerd.*` and `damaged` in that folder, and
//! only then.

use crate::paths::ClusterPaths;
use std::io;
use std::path::{Path, PathBuf};

fn folder(paths: &ClusterPaths) -> PathBuf {
    paths.data_dir().join("agent/containerd")
}

fn damaged(paths: &ClusterPaths) -> PathBuf {
    folder(paths).join("damaged")
}

/// Moves everything of containerd's aside. Not the folder itself, which may be a disk of its own.
/// To be called while no containerd runs, and no container.
///
/// # Errors
/// A file cannot be moved; the database goes last, so that the next start is as damaged as this one.
pub(super) fn set_aside(paths: &ClusterPaths) -> io::Result<()> {
    let aside = damaged(paths);
    remove_aside(paths)?;
    std::fs::create_dir(&aside)?;
    let entries = std::fs::read_dir(folder(paths))?.collect::<io::Result<Vec<_>>>()?;
    let names = entries.iter().map(std::fs::DirEntry::file_name);
    let mut names: Vec<_> =
        names.filter(|name| name.to_string_lossy().starts_with("io.containerd.")).collect();
    names.sort_by_key(|name| name.to_string_lossy().starts_with("io.containerd.metadata."));
    for name in names {
        std::fs::rename(folder(paths).join(&name), aside.join(&name))?;
    }
    std::fs::File::open(folder(paths))?.sync_all()
}

/// Removes what was moved aside, also by an earlier manager.
///
/// # Errors
/// A file cannot be removed.
pub(super) fn remove_aside(paths: &ClusterPaths) -> io::Result<()> {
    match std::fs::remove_dir_all(damaged(paths)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether containers of this containerd run: each has a shim, which knows its socket and outlives
/// k3s.
pub(super) fn has_containers(proc: &Path, paths: &ClusterPaths) -> bool {
    let socket = paths.containerd_socket().into_os_string().into_encoded_bytes();
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default()).any(
        |line| {
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            program.windows(b"containerd-shim".len()).any(|part| part == b"containerd-shim")
                && words.any(|word| word == socket)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    #[test]
    fn everything_of_containerd_goes_and_its_log_stays() {
        let root = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(root.path()));
        let put = |name: &str| {
            holdfast_durable::write(&folder(&paths).join(name), b"x", 0o600).unwrap();
        };
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(folder(&paths))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for name in
            ["containerd.log", "io.containerd.content.v1.content/a", "damaged/of/a/killed/one"]
        {
            put(name);
        }
        put("io.containerd.metadata.v1.bolt/meta.db");
        set_aside(&paths).unwrap();
        assert_eq!(names(), ["containerd.log", "damaged"]);
        assert!(damaged(&paths).join("io.containerd.metadata.v1.bolt/meta.db").exists());
        remove_aside(&paths).unwrap();
        remove_aside(&paths).unwrap();
        assert_eq!(names(), ["containerd.log"]);
    }

    #[test]
    fn a_container_is_known_by_its_shim() {
        let root = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::default());
        let shim = |socket: &str| {
            let line =
                format!("/x/containerd-shim-runc-v2\0-namespace\0k8s.io\0-address\0{socket}\0");
            holdfast_durable::write(&root.path().join("7/cmdline"), line.as_bytes(), 0o600)
                .unwrap();
            has_containers(root.path(), &paths)
        };
        assert!(!has_containers(root.path(), &paths));
        assert!(!shim("/run/containerd/containerd.sock"), "somebody else's");
        assert!(shim("/run/k3s/containerd/containerd.sock"));
    }
}
