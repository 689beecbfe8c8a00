//! The root directory that a node's daemons work below (`--root`).
//!
//! What a box is (its DMI strings, the device behind its network port) comes from fixture files, so
//! that a machine can believe to be any of the boxes that Holdfast knows. What it has (addresses,
//! memory, huge pages, processors) is real: symbolic links lead to the machine's `/sys` and `/proc`, as
//! seen from the node's namespaces, where most of it is read-only (`view.rs`). Kernel settings that
//! are not the network's are copies, which a node may change as it likes.
//! A new kind of box is one more [`Hardware`] with its strings in [`Hardware::dmi`].

use crate::world::topology::LAN;
use holdfast_durable::WriteError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a node of the laboratory believes to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardware {
    /// A virtual machine of QEMU.
    #[default]
    Kvm,
    /// Intel NUC of the 11th generation.
    #[serde(rename = "intel-nuc-11")]
    IntelNuc11,
    /// A machine that no profile knows.
    Stranger,
}

/// A name that is no [`Hardware`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no box of the laboratory; there are kvm, intel-nuc-11 and stranger")]
pub struct UnknownHardware(String);

impl Hardware {
    /// Every box.
    pub const ALL: [Hardware; 3] = [Hardware::Kvm, Hardware::IntelNuc11, Hardware::Stranger];

    /// Files below `/sys/class/dmi/id` (kernel: drivers/firmware/dmi-id.c) and what they say.
    pub fn dmi(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Hardware::Kvm => &[
                ("bios_vendor", "SeaBIOS"),
                ("bios_version", "1.16.2-debian-1.16.2-1"),
                ("chassis_type", "1"),
                ("chassis_vendor", "QEMU"),
                ("chassis_version", "pc-q35-7.2"),
                ("product_name", "Standard PC (Q35 + ICH9, 2009)"),
                ("product_version", "pc-q35-7.2"),
                ("sys_vendor", "QEMU"),
            ],
            Hardware::IntelNuc11 => &[
                ("bios_vendor", "Intel Corp."),
                ("bios_version", "TNTGL357.0064.2021.1217.1636"),
                ("board_name", "NUC11TNBi5"),
                ("board_vendor", "Intel Corporation"),
                ("chassis_type", "35"),
                ("chassis_vendor", "Intel Corporation"),
                ("product_family", "TN"),
                ("product_name", "NUC11TNHi5"),
                ("sys_vendor", "Intel(R) Client Systems"),
            ],
            Hardware::Stranger => &[
                ("chassis_type", "3"),
                ("product_name", "Box of Tricks"),
                ("sys_vendor", "Somebody Else"),
            ],
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hardware::Kvm => "kvm",
            Hardware::IntelNuc11 => "intel-nuc-11",
            Hardware::Stranger => "stranger",
        })
    }
}

impl FromStr for Hardware {
    type Err = UnknownHardware;

    fn from_str(text: &str) -> Result<Self, UnknownHardware> {
        let known = Hardware::ALL.into_iter().find(|hardware| hardware.to_string() == text);
        known.ok_or_else(|| UnknownHardware(text.into()))
    }
}

/// One thing in a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An empty directory.
    Directory,
    /// A file with this content and mode.
    File(String, u32),
    /// A symbolic link to this place of the machine.
    Link(PathBuf),
    /// A file, or a directory with all that is in it, of the root's own, that begins with what
    /// this place of the machine says. What cannot be read there is empty.
    Copy(PathBuf),
}

/// Why a root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file.
    #[error("cannot fill the root of a node")]
    File(#[source] WriteError),
    /// A directory or symbolic link.
    #[error("cannot make {}", path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// A network port that a node finds: an emulated link in the guise of a port of the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    /// Devices from the PCI function to the one that carries the interface.
    device: &'static str,
    /// Kernel driver of the last of them.
    driver: &'static str,
}

impl Hardware {
    /// Kind of its watchdog, which is shown and cannot be armed.
    fn watchdog(self) -> Option<&'static str> {
        match self {
            Hardware::IntelNuc11 => Some("iTCO_wdt"),
            Hardware::Kvm | Hardware::Stranger => None,
        }
    }

    /// The port behind an interface. That of the site comes after the one towards the world: a
    /// box has its ports in the order of their places on the bus.
    fn port(self, interface: &str) -> Port {
        let (device, driver) = match (self, interface == LAN) {
            (Hardware::Kvm, false) => ("0000:01:00.0/virtio0", "virtio_net"),
            (Hardware::Kvm, true) => ("0000:02:00.0/virtio1", "virtio_net"),
            (Hardware::IntelNuc11, false) => ("0000:58:00.0", "igc"),
            (Hardware::IntelNuc11, true) => ("0000:59:00.0", "igc"),
            (Hardware::Stranger, false) => ("0000:02:00.0", "r8169"),
            (Hardware::Stranger, true) => ("0000:03:00.0", "r8169"),
        };
        Port { device, driver }
    }
}

/// Kernel settings that belong to the whole machine: a node sets copies of its own. Those of the
/// network cannot be written inside a namespace (net/core/sysctl_net_core.c).
const MACHINE_WIDE: [&str; 8] = [
    "proc/sys/fs",
    "proc/sys/kernel",
    "proc/sys/net/core/netdev_max_backlog",
    "proc/sys/net/core/rmem_default",
    "proc/sys/net/core/rmem_max",
    "proc/sys/net/core/wmem_default",
    "proc/sys/net/core/wmem_max",
    "proc/sys/vm",
];

/// Below [`MACHINE_WIDE`] and not copied: handlers of executables are mounted when looked at.
const NOT_COPIED: &str = "/proc/sys/fs/binfmt_misc";

/// Where the devices that the box does not really have are, below the root.
const FIXTURE: &str = "sys/fixture";

/// What the root of a node with the interfaces `ports` holds before its first boot: paths below
/// the root, and what is there.
pub fn entries(hardware: Hardware, hostname: &str, ports: &[&str]) -> Vec<(PathBuf, Entry)> {
    let file = |path: &str, content: String| (PathBuf::from(path), Entry::File(content, 0o644));
    let real = |path: &str| (PathBuf::from(path), Entry::Link(Path::new("/").join(path)));
    let dmi = hardware.dmi().iter();
    let dmi =
        dmi.map(|(name, value)| file(&format!("sys/class/dmi/id/{name}"), format!("{value}\n")));
    let links = [
        "proc/cmdline",
        "proc/cpuinfo",
        "proc/filesystems",
        "proc/interrupts",
        "proc/irq",
        "proc/meminfo",
        "proc/modules",
        "proc/mounts",
        "proc/self",
        "proc/stat",
        "proc/sys/net/ipv4",
        "proc/sys/net/ipv6",
        "proc/sys/net/core/somaxconn",
        // These two set nothing: they make room for huge pages, which are the machine's.
        "proc/sys/vm/compact_memory",
        "proc/sys/vm/drop_caches",
        "proc/uptime",
        "proc/version",
        "sys/block",
        "sys/bus",
        "sys/class/net/lo",
        "sys/devices",
        "sys/firmware",
        "sys/fs",
        "sys/kernel",
    ];
    let places =
        ["etc/holdfast/config.d", "run/holdfast", "tmp", "usr/lib/holdfast", "var/lib/holdfast"];
    dmi.chain(links.iter().map(|path| real(path)))
        .chain(
            MACHINE_WIDE
                .iter()
                .map(|path| (PathBuf::from(path), Entry::Copy(Path::new("/").join(path)))),
        )
        .chain(ports.iter().flat_map(|port| port_entries(port, hardware.port(port))))
        .chain(
            hardware
                .watchdog()
                .map(|kind| file("sys/class/watchdog/watchdog0/identity", format!("{kind}\n"))),
        )
        .chain(places.iter().map(|path| (PathBuf::from(path), Entry::Directory)))
        .chain([
            file("etc/hostname", format!("{hostname}\n")),
            file("etc/hosts", format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n")),
        ])
        .collect()
}

/// An interface with its real properties, and a device behind it that the box would have.
fn port_entries(name: &str, port: Port) -> Vec<(PathBuf, Entry)> {
    let interface = format!("sys/class/net/{name}");
    let properties = ["address", "mtu", "speed", "type", "uevent"].map(|name| {
        let path = format!("{interface}/{name}");
        let real = Path::new("/").join(&path);
        (PathBuf::from(path), Entry::Link(real))
    });
    let depth = port.device.split('/').count();
    let to_driver = format!("{}drivers/{}", "../".repeat(depth), port.driver);
    let device = [
        (format!("{FIXTURE}/drivers/{}", port.driver), Entry::Directory),
        (format!("{FIXTURE}/{}/driver", port.device), Entry::Link(to_driver.into())),
        (
            format!("{interface}/device"),
            Entry::Link(format!("../../../fixture/{}", port.device).into()),
        ),
    ];
    properties.into_iter().chain(device.map(|(path, entry)| (path.into(), entry))).collect()
}

/// Makes the entries below `root`. What is there already stays, files get the new content.
///
/// # Errors
/// The first entry that cannot be made.
pub fn make(root: &Path, entries: &[(PathBuf, Entry)]) -> Result<(), RootError> {
    for (path, entry) in entries {
        let path = root.join(path);
        let fail = |source| RootError::Make { path: path.clone(), source };
        match entry {
            Entry::Directory => std::fs::create_dir_all(&path).map_err(fail)?,
            Entry::File(content, mode) => {
                holdfast_durable::write(&path, content.as_bytes(), *mode)
                    .map_err(RootError::File)?;
            }
            Entry::Copy(of) => copy(of, &path)?,
            Entry::Link(target) => {
                std::fs::create_dir_all(path.parent().unwrap_or(root)).map_err(fail)?;
                match std::os::unix::fs::symlink(target, &path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    result => result.map_err(fail)?,
                }
            }
        }
    }
    Ok(())
}

/// Copies `of` to `to`, where what is there already stays. Not made durable: kernel settings are
/// forgotten by a real box too.
fn copy(of: &Path, to: &Path) -> Result<(), RootError> {
    let fail = |source| RootError::Make { path: to.into(), source };
    // What went away since it was listed was a thing of a moment, and of no interest.
    let Ok(about) = std::fs::symlink_metadata(of) else { return Ok(()) };
    if about.is_dir() {
        std::fs::create_dir_all(to).map_err(fail)?;
        for entry in std::fs::read_dir(of).map_err(fail)?.flatten() {
            if entry.path() != Path::new(NOT_COPIED) {
                copy(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        return Ok(());
    }
    std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(fail)?;
    let made = OpenOptions::new().write(true).create_new(true).open(to);
    match made.and_then(|mut file| file.write_all(&std::fs::read(of).unwrap_or_default())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(fail),
    }
}

/// Where cloud-init's NoCloud data source finds what it is told
/// (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).
pub const USER_DATA: &str = "var/lib/cloud/seed/nocloud/user-data";

/// The user-data that hands a registration token to a node.
pub fn user_data(token: &str, controller: &str) -> String {
    format!("#cloud-config\nholdfast:\n  token: {token}\n  controller: {controller}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::topology::WAN;

    #[test]
    fn a_root_shows_the_boxs_dmi_and_the_machines_memory() {
        let dir = tempfile::tempdir().unwrap();
        for hardware in Hardware::ALL {
            let root = dir.path().join(hardware.to_string());
            let entries = entries(hardware, "node-1", &[WAN, LAN]);
            make(&root, &entries).unwrap();
            make(&root, &entries).unwrap();
            for (name, value) in hardware.dmi() {
                let read =
                    std::fs::read_to_string(root.join("sys/class/dmi/id").join(name)).unwrap();
                assert_eq!(read.trim_end(), *value);
            }
            let own = std::fs::read_to_string("/proc/version").unwrap();
            assert_eq!(std::fs::read_to_string(root.join("proc/version")).unwrap(), own);
            assert_eq!(hardware.to_string().parse(), Ok(hardware));
            let places = [WAN, LAN].map(|name| {
                let port = hardware.port(name);
                let device = root.join("sys/class/net").join(name).join("device");
                let driver = std::fs::canonicalize(device.join("driver")).unwrap();
                assert!(driver.ends_with(port.driver), "{}", driver.display());
                let real = std::fs::canonicalize(device).unwrap();
                assert!(real.ends_with(port.device));
                real
            });
            assert!(places[0] < places[1], "the port towards the world is the first");
        }
    }

    /// The law: nothing below a root that can be written leads to a kernel setting of the machine.
    #[test]
    fn kernel_settings_that_are_not_the_networks_are_copies() {
        fn real_settings(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                match std::fs::canonicalize(entry.path()) {
                    Ok(real) if kind.is_symlink() && real.starts_with("/proc/sys") => {
                        found.push(real);
                    }
                    _ if kind.is_dir() => real_settings(&entry.path(), found),
                    _ => {}
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &entries(Hardware::Kvm, "node-1", &[WAN])).unwrap();
        let mut real = Vec::new();
        real_settings(dir.path(), &mut real);
        real.retain(|path| !path.starts_with("/proc/sys/net"));
        real.sort();
        let room_for_pages = ["/proc/sys/vm/compact_memory", "/proc/sys/vm/drop_caches"];
        assert_eq!(real, room_for_pages.map(PathBuf::from));

        let panic = dir.path().join("proc/sys/kernel/panic");
        let machines = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
        assert_eq!(std::fs::read_to_string(&panic).unwrap(), machines);
        holdfast_durable::write(&panic, b"17\n", 0o644).unwrap();
        make(dir.path(), &entries(Hardware::Kvm, "node-1", &[WAN])).unwrap();
        assert_eq!(std::fs::read_to_string(&panic).unwrap(), "17\n", "the node's value is kept");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), machines);
    }

    #[test]
    fn user_data_is_yaml_of_the_agreed_shape() {
        let read: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(&user_data("045GC-0DM52", "https://198.18.0.2:6443")).unwrap();
        assert_eq!(read["holdfast"]["token"], "045GC-0DM52");
        assert_eq!(read["holdfast"]["controller"], "https://198.18.0.2:6443");
    }
}
