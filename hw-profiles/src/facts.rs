//! What a machine is, as plain values.
//!
//! [`crate::probe()`] fills them from `/sys` and `/proc`; the manager sends them to the controller
//! with the registration. Everything may be missing: a machine that says nothing about itself
//! has [`Facts::default()`]. Readers ignore fields they do not know.

use crate::units::PageSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Everything that Holdfast knows about a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// What the firmware says.
    pub dmi: Dmi,
    /// Processors.
    pub cpus: Cpus,
    /// NUMA nodes by number; empty on a kernel without NUMA (see [`Facts::memory_nodes`]).
    pub numa_nodes: Vec<NumaNode>,
    /// `MemTotal`: what the kernel can use, a little less than what is plugged in.
    pub memory_bytes: u64,
    /// Sizes of huge pages that the kernel offers, in bytes, ascending.
    pub huge_page_sizes: Vec<u64>,
    /// Network interfaces, by PCI address, those without one last, then by name.
    pub nics: Vec<Nic>,
    /// Version of the first TPM, if there is one.
    pub tpm: Option<TpmVersion>,
    /// Disks by name, without loop, RAM, device-mapper and optical ones.
    pub disks: Vec<Disk>,
    /// The first watchdog, if there is one.
    pub watchdog: Option<Watchdog>,
    /// The hypervisor below us, if any.
    pub virtualisation: Virtualisation,
    /// The cloud around us, if any.
    pub cloud: Option<Cloud>,
}

impl Facts {
    /// The NUMA nodes; on a kernel without NUMA one node 0 with all CPUs and all memory.
    pub fn memory_nodes(&self) -> Vec<NumaNode> {
        if !self.numa_nodes.is_empty() || self.memory_bytes == 0 {
            return self.numa_nodes.clone();
        }
        vec![NumaNode {
            id: 0,
            cpus: (0..self.cpus.count).collect(),
            memory_bytes: self.memory_bytes,
        }]
    }

    /// Whether the kernel offers huge pages of this size.
    pub fn offers(&self, size: PageSize) -> bool {
        self.huge_page_sizes.contains(&size.bytes())
    }
}

/// `/sys/class/dmi/id`, trimmed; an empty string where the firmware says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the names are those of the files
pub struct Dmi {
    pub sys_vendor: String,
    pub product_name: String,
    pub product_version: String,
    pub product_family: String,
    pub product_sku: String,
    /// Readable by root only.
    pub product_serial: String,
    pub board_vendor: String,
    pub board_name: String,
    pub board_version: String,
    pub bios_vendor: String,
    pub bios_version: String,
    pub bios_date: String,
    pub chassis_vendor: String,
    pub chassis_type: String,
    pub chassis_asset_tag: String,
}

impl Dmi {
    /// Whether the firmware said nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Dmi::default()
    }
}

/// Processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpus {
    /// Logical processors that are online.
    pub count: u32,
    /// `model name` of the first.
    pub model: String,
    /// Physical packages.
    pub sockets: u32,
}

/// One NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumaNode {
    /// Number of the node.
    pub id: u32,
    /// Logical processors of the node.
    pub cpus: BTreeSet<u32>,
    /// `MemTotal` of the node.
    pub memory_bytes: u64,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// Name at the time of probing.
    pub name: String,
    /// PCI address such as `0000:00:1f.6`; for virtio that of the PCI function that carries it.
    pub pci_address: Option<String>,
    /// Kernel driver, such as `igc`.
    pub driver: Option<String>,
    /// Speed of the link in Mbit/s; nothing while it is down or when the driver cannot tell.
    pub speed_mbps: Option<u32>,
    /// Hardware address, lower case.
    pub mac: Option<String>,
    /// What sort of interface.
    pub kind: NicKind,
}

/// What sort of interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicKind {
    /// An Ethernet port of the machine, real or offered by a hypervisor.
    Ethernet,
    /// Wireless LAN.
    Wifi,
    /// Cellular modem.
    Wwan,
    /// The loopback interface.
    Loopback,
    /// Made by software: bridge, bond, VLAN, veth, TUN, WireGuard and the like.
    #[default]
    #[serde(other)]
    Virtual,
}

/// Version of the TPM's specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TpmVersion {
    /// TPM 1.2: cannot do what Holdfast needs.
    #[serde(rename = "1.2")]
    V1_2,
    /// TPM 2.0.
    #[serde(rename = "2.0")]
    V2_0,
}

impl TpmVersion {
    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TpmVersion::V1_2 => "1.2",
            TpmVersion::V2_0 => "2.0",
        }
    }
}

/// One disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Kernel name such as `nvme0n1`.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Whether it turns.
    pub rotational: bool,
    /// Model as the disk tells it; empty when it does not.
    pub model: String,
}

/// A hardware watchdog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// Kernel name such as `watchdog0`.
    pub name: String,
    /// What it is, such as `iTCO_wdt`; empty when the kernel does not tell.
    pub identity: String,
    /// Its present timeout, when the kernel tells.
    pub timeout_secs: Option<u32>,
}

/// The hypervisor below us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtualisation {
    /// A real machine.
    #[default]
    None,
    /// KVM or QEMU.
    Kvm,
    /// VMware ESXi, Workstation, Fusion.
    Vmware,
    /// Microsoft Hyper-V.
    HyperV,
    /// Xen.
    Xen,
    /// VirtualBox.
    VirtualBox,
    /// Some hypervisor that the firmware does not name.
    #[serde(other)]
    Other,
}

/// The cloud around us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cloud {
    /// Amazon EC2.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Compute Engine.
    Gcp,
    /// OpenStack, whoever runs it.
    OpenStack,
    /// One that a newer peer knows.
    #[serde(other)]
    Other,
}
