//! A control group of a node's own in every hierarchy, so that nodes share nothing and leave
//! nothing. Works on version 1, version 2 and both at once (cgroups(7)).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MOUNTED: &str = "/sys/fs/cgroup";

/// The group of that name in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Every name begins with it.
    pub const PREFIX: &str = "holdfast-k3s-";

    /// A group by its own part of the name.
    pub fn named(id: &str) -> Self {
        Self { name: format!("{}{id}", Self::PREFIX) }
    }

    /// Those whose own part of the name begins with `prefix`, in the order of their names.
    pub fn with_prefix(prefix: &str) -> Vec<Self> {
        let prefix = Self::named(prefix).name;
        let entries = hierarchies().into_iter().flat_map(fs::read_dir).flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        names.sort();
        names.dedup();
        names.into_iter().map(|name| Self { name }).collect()
    }

    /// As Kubernetes names it.
    pub fn root(&self) -> String {
        format!("/{}", self.name)
    }

    /// Makes it.
    ///
    /// # Errors
    /// The kernel refuses, for example without the rights.
    pub fn make(&self) -> io::Result<()> {
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&self.name);
            match fs::create_dir(&group) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            // A new group of version 1 has no processors and takes no processes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let inherited = hierarchy.join(file);
                if inherited.exists() {
                    let value = fs::read(&inherited)?;
                    fs::OpenOptions::new().write(true).open(group.join(file))?.write_all(&value)?;
                }
            }
        }
        Ok(())
    }

    /// Removes it with everything below, giving dying processes up to `patience`.
    ///
    /// # Errors
    /// Something in it still lives.
    pub fn remove(&self, patience: Duration) -> io::Result<()> {
        holdfast_poll::retry(patience, || {
            // Every one is tried, also after one that refused.
            let results: Vec<_> = self.groups().map(|group| remove_tree(&group)).collect();
            results.into_iter().collect()
        })
    }

    /// Whether it is anywhere.
    pub fn exists(&self) -> bool {
        self.groups().any(|group| group.exists())
    }

    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.name))
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new(MOUNTED);
    if top.join("cgroup.controllers").exists() {
        return vec![top.to_path_buf()];
    }
    let mut found: Vec<PathBuf> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        // Some controllers are links to those that they share a hierarchy with.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
