//! TPM, disks, watchdog.

use super::tree::{Tree, number_of, text_of};
use crate::facts::{Disk, TpmVersion, Watchdog};

/// `/sys/block/<disk>/size` counts these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;

/// Block devices that are no disks: loop, RAM, compressed RAM, device mapper, software RAID,
/// optical, floppy, network block devices, and the boot partitions of eMMC.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

pub(super) fn read_tpm(tree: &Tree) -> Option<TpmVersion> {
    let dir = "sys/class/tpm";
    let name = first_numbered(tree, dir, "tpm")?;
    match tree.text(&format!("{dir}/{name}/tpm_version_major")).as_deref() {
        Some("1") => Some(TpmVersion::V1_2),
        // Kernels before 5.6 lack the file; only a TPM 1.2 has `caps` (Documentation/ABI/stable/sysfs-class-tpm).
        None if tree.path(&format!("{dir}/{name}/caps")).exists() => Some(TpmVersion::V1_2),
        Some(_) | None => Some(TpmVersion::V2_0),
    }
}

pub(super) fn read_disks(tree: &Tree) -> Vec<Disk> {
    let dir = "sys/block";
    let is_disk =
        |name: &String| !NO_DISKS.iter().any(|no| name.starts_with(no)) && !name.contains("boot");
    let mut disks: Vec<Disk> = Vec::new();
    for name in tree.names(dir).into_iter().filter(is_disk) {
        let path = tree.path(&format!("{dir}/{name}"));
        let sectors: u64 = number_of(&path.join("size")).unwrap_or(0);
        // An empty card reader.
        if sectors == 0 {
            continue;
        }
        disks.push(Disk {
            size_bytes: sectors.saturating_mul(SECTOR_BYTES),
            rotational: number_of(&path.join("queue/rotational")) == Some(1),
            model: text_of(&path.join("device/model"))
                .or_else(|| text_of(&path.join("device/name")))
                .unwrap_or_default(),
            name,
        });
    }
    disks
}

pub(super) fn read_watchdog(tree: &Tree) -> Option<Watchdog> {
    let dir = "sys/class/watchdog";
    let name = first_numbered(tree, dir, "watchdog")?;
    // Present with CONFIG_WATCHDOG_SYSFS only.
    Some(Watchdog {
        identity: tree.text(&format!("{dir}/{name}/identity")).unwrap_or_default(),
        timeout_secs: number_of(&tree.path(&format!("{dir}/{name}/timeout"))),
        name,
    })
}

/// The entry with the lowest number, such as `tpm0` (and not `tpmrm0`).
fn first_numbered(tree: &Tree, dir: &str, prefix: &str) -> Option<String> {
    let numbers = tree.names(dir).into_iter();
    let number = numbers.filter_map(|name| name.strip_prefix(prefix)?.parse::<u32>().ok()).min()?;
    Some(format!("{prefix}{number}"))
}
