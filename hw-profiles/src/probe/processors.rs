//! Processors, NUMA nodes, memory, huge page sizes.

use super::tree::{Tree, number_of};
use crate::cpulist;
use crate::facts::{Cpus, NumaNode};
use crate::units::PageSize;
use holdfast_api::Reason;
use procfs::{CpuInfo, FromBufRead, Meminfo};
use std::collections::BTreeSet;

const CPUINFO: &str = "proc/cpuinfo";
const MEMINFO: &str = "proc/meminfo";
const CPU_DIR: &str = "sys/devices/system/cpu";
const NODE_DIR: &str = "sys/devices/system/node";

/// The processors, and whether they say that a hypervisor runs them.
pub(super) fn read_cpus(tree: &mut Tree) -> (Cpus, bool) {
    let info = read_cpuinfo(tree);
    let listed = info.as_ref().map_or(0, |info| info.cpus.len());
    let online = tree.text(&format!("{CPU_DIR}/online")).and_then(|text| cpulist::parse(&text));
    let count = online.as_ref().map_or(listed, BTreeSet::len);
    let model = info.as_ref().and_then(|info| info.model_name(0)).unwrap_or_default().to_owned();
    let hypervisor = info
        .as_ref()
        .and_then(|info| info.get_field(0, "flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    let mut packages: BTreeSet<u32> = online
        .iter()
        .flatten()
        .filter_map(|cpu| {
            number_of(&tree.path(&format!("{CPU_DIR}/cpu{cpu}/topology/physical_package_id")))
        })
        .collect();
    if packages.is_empty() {
        packages.extend(
            info.iter().flat_map(|info| (0..listed).filter_map(|cpu| info.physical_id(cpu))),
        );
    }
    // Some ARM and virtual machines name no package, yet their processors sit somewhere.
    let sockets = packages.len().max(usize::from(count > 0));
    let cpus = Cpus {
        count: u32::try_from(count).unwrap_or(u32::MAX),
        model,
        sockets: u32::try_from(sockets).unwrap_or(u32::MAX),
    };
    (cpus, hypervisor)
}

fn read_cpuinfo(tree: &mut Tree) -> Option<CpuInfo> {
    let text = tree.needed(CPUINFO)?;
    // procfs takes a text without processors for one with a nameless one.
    let has_processors =
        text.lines().any(|line| line.split(':').next().map(str::trim) == Some("processor"));
    match CpuInfo::from_buf_read(text.as_bytes()) {
        Ok(info) if has_processors => Some(info),
        Ok(_) => {
            tree.complain(Reason::HwFactsUnreadable, CPUINFO, "lists no processor");
            None
        }
        Err(error) => {
            tree.complain(
                Reason::HwFactsUnreadable,
                CPUINFO,
                format!("is not as expected: {error}"),
            );
            None
        }
    }
}

/// `MemTotal` in bytes.
pub(super) fn read_memory(tree: &mut Tree) -> u64 {
    let Some(text) = tree.needed(MEMINFO) else { return 0 };
    // procfs slices names by bytes and multiplies without a check; keep what could upset it out.
    let plausible = text.is_ascii()
        && !text.split_whitespace().any(|word| word.len() > 15 && word.parse::<u64>().is_ok());
    let parsed = if plausible { Meminfo::from_buf_read(text.as_bytes()).ok() } else { None };
    match parsed {
        Some(info) => info.mem_total,
        None => {
            tree.complain(Reason::HwFactsUnreadable, MEMINFO, "is not as expected");
            0
        }
    }
}

/// The NUMA nodes that have memory or processors, by number.
pub(super) fn read_numa_nodes(tree: &mut Tree) -> Vec<NumaNode> {
    let numbered = |name: &String| name.strip_prefix("node")?.parse::<u32>().ok();
    let mut ids: Vec<u32> = tree.names(NODE_DIR).iter().filter_map(numbered).collect();
    ids.sort_unstable();
    ids.into_iter().map(|id| read_node(tree, id)).collect()
}

fn read_node(tree: &mut Tree, id: u32) -> NumaNode {
    let cpus =
        tree.text(&format!("{NODE_DIR}/node{id}/cpulist")).and_then(|text| cpulist::parse(&text));
    let meminfo = format!("{NODE_DIR}/node{id}/meminfo");
    let text = tree.needed(&meminfo).unwrap_or_default();
    // "Node 0 MemTotal:       16318480 kB"; procfs does not know this file.
    let kib = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "MemTotal:");
        words.nth(1)?.parse::<u64>().ok()
    });
    NumaNode {
        id,
        cpus: cpus.unwrap_or_default(),
        memory_bytes: kib.and_then(|kib| kib.checked_mul(1024)).unwrap_or(0),
    }
}

/// In bytes, ascending, from names such as `hugepages-2048kB`.
pub(super) fn read_huge_page_sizes(tree: &Tree) -> Vec<u64> {
    let mut sizes: Vec<u64> = tree
        .names("sys/kernel/mm/hugepages")
        .iter()
        .filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
        .filter_map(|kib| PageSize::from_bytes(kib.checked_mul(1024)?))
        .map(PageSize::bytes)
        .collect();
    sizes.sort_unstable();
    sizes
}
