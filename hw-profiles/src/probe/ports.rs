//! Network interfaces, from `/sys/class/net`.
//!
//! The entries of that directory are symbolic links into `/sys/devices`, and the directory may
//! itself be a link (the laboratory points it at the real one); the kernel follows both for us.

use super::tree::{Tree, link_name, names_in, number_of, text_of};
use crate::facts::{Nic, NicKind};
use crate::roles::order_key;
use holdfast_api::Reason;
use std::path::Path;

const NET_DIR: &str = "sys/class/net";

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` (linux/if_arp.h).
const ARPHRD_ETHER: u32 = 1;
const ARPHRD_LOOPBACK: u32 = 772;

pub(super) fn read(tree: &mut Tree) -> Vec<Nic> {
    let names = match names_in(&tree.path(NET_DIR)) {
        Ok(names) => names,
        Err(error) => {
            tree.complain(Reason::HwFactsUnreadable, NET_DIR, format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let dir = tree.path(NET_DIR);
    // Files such as `bonding_masters` lie between the interfaces.
    let mut nics: Vec<Nic> = names
        .iter()
        .filter(|name| dir.join(name).is_dir())
        .map(|name| read_one(&dir.join(name), name))
        .collect();
    nics.sort_by_key(order_key);
    nics
}

fn read_one(dir: &Path, name: &str) -> Nic {
    let device = dir.join("device");
    let mac = text_of(&dir.join("address")).map(|mac| mac.to_ascii_lowercase());
    Nic {
        name: name.to_owned(),
        pci_address: pci_address(&device),
        driver: link_name(&device.join("driver")),
        // Reads as an error or as -1 while the link is down.
        speed_mbps: number_of(&dir.join("speed")),
        mac: mac.filter(|mac| mac.chars().any(|c| !matches!(c, '0' | ':'))),
        kind: kind(dir),
    }
}

fn kind(dir: &Path) -> NicKind {
    let uevent = text_of(&dir.join("uevent")).unwrap_or_default();
    let devtype = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    match (number_of(&dir.join("type")), devtype) {
        (Some(ARPHRD_LOOPBACK), _) => NicKind::Loopback,
        (_, Some("wlan")) => NicKind::Wifi,
        (_, Some("wwan")) => NicKind::Wwan,
        // A part of a bigger device (an SR-IOV port's representor, a DSA port) has a device too.
        (Some(ARPHRD_ETHER), None | Some("dsa")) if dir.join("device").exists() => {
            NicKind::Ethernet
        }
        _ => NicKind::Virtual,
    }
}

/// The PCI function behind a device: the device itself, or the carrier of a virtio device. A USB
/// adapter has none: the controller's address would not tell two adapters apart.
fn pci_address(device: &Path) -> Option<String> {
    let real = std::fs::canonicalize(device).ok()?;
    let own = real.file_name()?.to_str()?;
    let name = if own.starts_with("virtio") { real.parent()?.file_name()?.to_str()? } else { own };
    is_pci_address(name).then(|| name.to_owned())
}

/// `dddd:bb:ss.f` in lower-case hexadecimal; the domain may be longer (VMD).
fn is_pci_address(name: &str) -> bool {
    let mut parts = name.split([':', '.']);
    let mut hexadecimal = |width: std::ops::RangeInclusive<usize>| {
        parts.next().is_some_and(|part| {
            width.contains(&part.len()) && part.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    let fits = hexadecimal(4..=8) && hexadecimal(2..=2) && hexadecimal(2..=2) && hexadecimal(1..=1);
    fits && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_other_names() {
        for name in ["0000:00:1f.6", "10000:e1:00.0"] {
            assert!(is_pci_address(name), "{name}");
        }
        for name in ["", "usb1", "1-1:1.0", "virtio2", "0000:00:1f", "0000:00:1f.6.1", "vmbus_0_1"]
        {
            assert!(!is_pci_address(name), "{name}");
        }
    }
}
