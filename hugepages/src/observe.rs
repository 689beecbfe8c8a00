//! Reads pools, memory, mounts and the command line of the machine below a root.
//!
//! What must be there is `/proc/meminfo` and, when there are nodes, their `meminfo`. Everything
//! else may be missing, as kernels differ: without NUMA the machine is node 0; without
//! `CONFIG_HUGETLBFS` there are no pools.

use crate::boot::KernelArguments;
use crate::model::{Bytes, Have, Memory, NodeHave, NodeId, PageSize, Pool};
use crate::mounts;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A file or directory of the kernel.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A number that is none.
    #[error("{} does not say {what}", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

impl ObserveError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        Reason::HugepagesFailed
    }
}

/// What there is below `root`, `/` for the running machine.
///
/// # Errors
/// [`ObserveError`], with the path.
pub fn observe(root: &Root) -> Result<Have, ObserveError> {
    let machine = memory(&root.join("proc/meminfo"))?;
    let pools_dir = root.join("sys/kernel/mm/hugepages");
    let mut nodes = numa_nodes(root)?;
    if let [only] = nodes.values_mut().collect::<Vec<_>>().as_mut_slice() {
        // A kernel that initialises memory late counts it to the node late.
        only.memory = machine;
    }
    if nodes.is_empty() {
        nodes.insert(NodeId(0), NodeHave { memory: machine, pools: pools(&pools_dir)? });
    }
    let sizes = sizes(&pools_dir)?;
    let mut reserved = BTreeMap::new();
    for size in &sizes {
        reserved.insert(*size, number(&pools_dir.join(size.directory()).join("resv_hugepages"))?);
    }
    let text = |path: &str| optional(&root.join(path));
    let able = if pools_dir.is_dir() { processor_sizes(&text("proc/cpuinfo")?) } else { vec![] };
    let boot_id = text("proc/sys/kernel/random/boot_id")?.trim().to_string();
    Ok(Have {
        nodes,
        memory: machine,
        reserved,
        boot_only: able.into_iter().filter(|size| !sizes.contains(size)).collect(),
        arguments: KernelArguments::parse(&text("proc/cmdline")?),
        boot_id: (!boot_id.is_empty()).then_some(boot_id),
        mounts: mounts::parse_mountinfo(&bytes(&root.join("proc/self/mountinfo"))?),
    })
}

/// Nodes with memory; memoryless ones (processors or devices only) have nothing to give.
fn numa_nodes(root: &Root) -> Result<BTreeMap<NodeId, NodeHave>, ObserveError> {
    let mut nodes = BTreeMap::new();
    for (name, dir) in entries(&root.join("sys/devices/system/node"))? {
        let Some(id) = name.strip_prefix("node").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        let memory = memory(&dir.join("meminfo"))?;
        if memory.total.0 > 0 {
            nodes.insert(NodeId(id), NodeHave { memory, pools: pools(&dir.join("hugepages"))? });
        }
    }
    Ok(nodes)
}

fn pools(dir: &Path) -> Result<BTreeMap<PageSize, Pool>, ObserveError> {
    let mut pools = BTreeMap::new();
    for size in sizes(dir)? {
        let at = |name: &str| dir.join(size.directory()).join(name);
        let demote_to = optional(&at("demote_size"))?;
        let demote_to = demote_to.trim().strip_suffix("kB").and_then(|kib| kib.parse().ok());
        let pool = Pool {
            total: number(&at("nr_hugepages"))?,
            free: number(&at("free_hugepages"))?,
            surplus: number(&at("surplus_hugepages"))?,
            demote_to: demote_to.and_then(|kib: u64| PageSize::try_from(kib).ok()),
        };
        pools.insert(size, pool);
    }
    Ok(pools)
}

fn sizes(dir: &Path) -> Result<Vec<PageSize>, ObserveError> {
    let size = |name: &str| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        PageSize::try_from(kib.parse::<u64>().ok()?).ok()
    };
    Ok(entries(dir)?.iter().filter_map(|(name, _)| size(name)).collect())
}

/// What the processor can do (x86: Intel SDM vol. 2, CPUID; other kinds say nothing here, and
/// their kernels show every size they can do).
fn processor_sizes(cpuinfo: &str) -> Vec<PageSize> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    [("pse", PageSize::M2), ("pdpe1gb", PageSize::G1)]
        .into_iter()
        .filter_map(|(flag, size)| has(flag).then_some(size))
        .collect()
}

/// `MemTotal: 16 kB`, in a node's file after `Node 0 `.
fn memory(path: &Path) -> Result<Memory, ObserveError> {
    let text = bytes_of(path)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let kib = |key: &str, what| {
        let line = text.lines().find_map(|line| line.split_once(key).map(|(_, rest)| rest.trim()));
        let number = line.and_then(|rest| rest.trim_end_matches(" kB").parse().ok());
        number.map(Bytes::kib).ok_or(ObserveError::Format { path: path.to_path_buf(), what })
    };
    Ok(Memory { total: kib("MemTotal:", "MemTotal")?, free: kib("MemFree:", "MemFree")? })
}

fn number(path: &Path) -> Result<u64, ObserveError> {
    let text = bytes_of(path)?;
    let text = String::from_utf8_lossy(&text);
    text.trim()
        .parse()
        .map_err(|_| ObserveError::Format { path: path.to_path_buf(), what: "a number" })
}

/// Names and paths in a directory; none when it is not there.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, ObserveError> {
    let fail = |source| ObserveError::Read { path: dir.to_path_buf(), source };
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        result => result.map_err(fail)?,
    };
    listing
        .map(|entry| {
            entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).map_err(fail)
        })
        .collect()
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, ObserveError> {
    std::fs::read(path).map_err(|source| ObserveError::Read { path: path.to_path_buf(), source })
}

fn bytes(path: &Path) -> Result<Vec<u8>, ObserveError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        result => result.map_err(|source| ObserveError::Read { path: path.to_path_buf(), source }),
    }
}

fn optional(path: &Path) -> Result<String, ObserveError> {
    bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
