//! The machine's huge page pools: remembered before the first world, put back after the last.
//!
//! A node's manager changes the real pools, since they belong to the kernel and not to a
//! namespace. The laboratory only remembers the counts of each size and NUMA node
//! (`/sys/devices/system/node/node*/hugepages`, kernel: admin-guide/mm/hugetlbpage.rst) and writes them back. All
//! worlds of the machine share one note of them: [`Record`].

mod record;

pub use record::{Record, RecordError};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Pages of each pool, by the path of its `nr_hugepages`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools(BTreeMap<PathBuf, u64>);

/// A pool that could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The kernel refused the write.
    #[error("cannot set {} to {want}", path.display())]
    Write {
        /// The pool.
        path: PathBuf,
        /// Pages that it had.
        want: u64,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The kernel took the number and gave another.
    #[error("{} has {got} pages and had {want} before the world", path.display())]
    Differs {
        /// The pool.
        path: PathBuf,
        /// Pages that it had.
        want: u64,
        /// Pages that it has.
        got: u64,
    },
}

/// Reads every pool below `sys` (`/sys` but in tests). Pools that cannot be read are left out.
pub fn observe(sys: &Path) -> Pools {
    let list = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let nodes = list(&sys.join("devices/system/node"));
    let of_nodes: Vec<PathBuf> =
        nodes.iter().flat_map(|node| list(&node.join("hugepages"))).collect();
    // A kernel without NUMA has only the pools of the whole machine.
    let dirs = if of_nodes.is_empty() { list(&sys.join("kernel/mm/hugepages")) } else { of_nodes };
    let pools = dirs.into_iter().map(|dir| dir.join("nr_hugepages"));
    Pools(pools.filter_map(|pool| Some((pool.clone(), pages(&pool)?))).collect())
}

/// Puts the pools back, and gives those that differ all the same.
pub fn restore(want: &Pools) -> Vec<PoolError> {
    let differing: Vec<(&PathBuf, u64)> = want
        .0
        .iter()
        .filter(|(path, pages_then)| pages(path) != Some(**pages_then))
        .map(|(p, n)| (p, *n))
        .collect();
    let write = |path: &PathBuf, want: u64| {
        let written = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .and_then(|mut file| file.write_all(want.to_string().as_bytes()));
        written.map_err(|source| PoolError::Write { path: path.clone(), want, source })
    };
    // Twice: a pool that grows back may need the memory that another one gives up.
    for (path, want) in &differing {
        let _ = write(path, *want);
    }
    differing
        .into_iter()
        .filter_map(|(path, want)| {
            if let Err(error) = write(path, want) {
                return Some(error);
            }
            let got = pages(path).unwrap_or(0);
            (got != want).then(|| PoolError::Differs { path: path.clone(), want, got })
        })
        .collect()
}

fn pages(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(sys: &Path, place: &str, pages: u64) -> PathBuf {
        let path = sys.join(place).join("nr_hugepages");
        holdfast_durable::write(&path, format!("{pages}\n").as_bytes(), 0o644).unwrap();
        path
    }

    #[test]
    fn pools_of_every_node_and_size_are_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = [
            "devices/system/node/node0/hugepages/hugepages-2048kB",
            "devices/system/node/node1/hugepages/hugepages-1048576kB",
        ];
        let paths: Vec<PathBuf> = places.iter().map(|place| pool(dir.path(), place, 3)).collect();
        let before = observe(dir.path());
        assert_eq!(before.0.len(), 2);
        for place in places {
            pool(dir.path(), place, 700);
        }
        assert!(restore(&before).is_empty());
        assert!(paths.iter().all(|path| pages(path) == Some(3)));
    }

    #[test]
    fn a_pool_that_cannot_be_put_back_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = pool(dir.path(), "kernel/mm/hugepages/hugepages-2048kB", 3);
        let before = observe(dir.path());
        std::fs::remove_file(&path).unwrap();
        let errors = restore(&before);
        assert!(matches!(&errors[..], [PoolError::Write { want: 3, .. }]), "{errors:?}");
    }
}
