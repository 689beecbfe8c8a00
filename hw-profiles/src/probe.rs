//! Reads the facts of a machine from the `sys` and `proc` below a root directory.
//!
//! The root is `/` on a real machine and a tree of files in a test or the laboratory. Nothing is
//! ever sent anywhere. Probing does not fail: what cannot be read is left out, and what a person
//! should know about that is a [`Complaint`]. A part that a machine may well lack (a TPM, NUMA,
//! a watchdog) is no complaint when it is missing; that is for assertions to say.
//!
//! `/proc` is parsed by `procfs`, which takes files below any root. `sysinfo` reads `/sys` and
//! `/proc` of the running machine only, whatever root one means, so DMI, ports and disks are read
//! here.

mod devices;
mod ports;
mod processors;
mod tree;

use crate::facts::{Dmi, Facts};
use crate::platform;
use holdfast_api::Reason;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use tree::Tree;

/// Something about a machine that could not be found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// `hw.no-dmi` or `hw.facts-unreadable`.
    pub reason: Reason,
    /// The file or directory.
    pub path: PathBuf,
    /// What was wrong with it.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// The facts of the machine whose `/sys` and `/proc` are at `root`, and what could not be read.
pub fn probe(root: &Path) -> (Facts, Vec<Complaint>) {
    let mut tree = Tree::new(root);
    let dmi = read_dmi(&mut tree);
    let (cpus, hypervisor_flag) = processors::read_cpus(&mut tree);
    let facts = Facts {
        virtualisation: platform::virtualisation(&dmi, hypervisor_flag),
        cloud: platform::cloud(&dmi),
        cpus,
        numa_nodes: processors::read_numa_nodes(&mut tree),
        memory_bytes: processors::read_memory(&mut tree),
        huge_page_sizes: processors::read_huge_page_sizes(&tree),
        nics: ports::read(&mut tree),
        tpm: devices::read_tpm(&tree),
        disks: devices::read_disks(&tree),
        watchdog: devices::read_watchdog(&tree),
        dmi,
    };
    (facts, tree.complaints)
}

const DMI_DIR: &str = "sys/class/dmi/id";

fn read_dmi(tree: &mut Tree) -> Dmi {
    // product_serial is readable by root only; without it everything else still is.
    let text = |field: &str| tree.text(&format!("{DMI_DIR}/{field}")).unwrap_or_default();
    let dmi = Dmi {
        sys_vendor: text("sys_vendor"),
        product_name: text("product_name"),
        product_version: text("product_version"),
        product_family: text("product_family"),
        product_sku: text("product_sku"),
        product_serial: text("product_serial"),
        board_vendor: text("board_vendor"),
        board_name: text("board_name"),
        board_version: text("board_version"),
        bios_vendor: text("bios_vendor"),
        bios_version: text("bios_version"),
        bios_date: text("bios_date"),
        chassis_vendor: text("chassis_vendor"),
        chassis_type: text("chassis_type"),
        chassis_asset_tag: text("chassis_asset_tag"),
    };
    if dmi.is_empty() {
        tree.complain(Reason::HwNoDmi, DMI_DIR, "the firmware says nothing about this machine");
    }
    dmi
}
