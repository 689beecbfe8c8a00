//! What a program on a host sees of the machine, and what it may change there.
//!
//! A network namespace separates the settings of the network and nothing else: most files below
//! `/proc/sys` and `/sys` are the whole machine's. So each program gets a mount namespace in which
//! those are read-only, as container runtimes do it, apart from what belongs to the host itself
//! ([`WRITABLE`]). `/sys` is mounted anew: sysfs shows the interfaces of the network namespace it
//! was mounted in. The mounts go with the program.
//!
//! Left out: `/dev`, control groups, in which a node's Kubernetes makes groups of its own
//! ([`crate::world::down()`] removes them), and the pools of huge pages, which are the machine's
//! ([`crate::pools`] puts them back).

use crate::exec::ExecError;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The machine's own, read-only on a host.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys"];

/// What a host may write below [`READ_ONLY`]: its network; and the pools of huge pages with the two
/// files that make room for them, since only the kernel has any.
const WRITABLE: [&str; 6] = [
    "/proc/sys/net",
    "/proc/sys/vm/compact_memory",
    "/proc/sys/vm/drop_caches",
    "/sys/devices/system/node",
    "/sys/devices/virtual/net",
    "/sys/kernel/mm/hugepages",
];

/// Where the hierarchies of control groups are (cgroups(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// Gives the calling thread the view of a program on the host whose network namespace `netns` it
/// is in.
///
/// # Errors
/// [`ExecError::Mount`] names what the kernel refused.
pub(crate) fn enter(netns: &str) -> Result<(), ExecError> {
    let failed = |attempt| {
        move |errno: nix::Error| ExecError::Mount {
            attempt,
            netns: netns.into(),
            source: errno.into(),
        }
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    // What is mounted below must not show on the machine.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(failed("detach the mounts"))?;
    // Held open, for what is mounted over it hides it.
    let cgroups = File::open(CGROUPS);
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
        .map_err(failed("mount /sys"))?;
    if let Ok(cgroups) = cgroups {
        let held = format!("/proc/self/fd/{}", cgroups.as_raw_fd());
        let with_all = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(held.as_str()), CGROUPS, none, with_all, none)
            .map_err(failed("show the control groups"))?;
    }
    let there = |path: &&str| Path::new(path).exists();
    // A mount of its own keeps its own flags; that of /sys is one already.
    for path in READ_ONLY.into_iter().filter(there).filter(|path| *path != "/sys") {
        show(path, Path::new(path)).map_err(failed("show what is the machine's"))?;
    }
    for path in WRITABLE.into_iter().filter(there) {
        show(path, Path::new(path)).map_err(failed("show what is the host's own"))?;
    }
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for path in READ_ONLY.into_iter().filter(there) {
        mount(none, path, none, read_only, none)
            .map_err(failed("protect what is the machine's"))?;
    }
    Ok(())
}

/// Shows `what` at `place` too, in the mount namespace of the calling thread.
pub(crate) fn show<P: AsRef<Path>>(what: P, place: &Path) -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(Some(what.as_ref()), place, none, MsFlags::MS_BIND, none)
}
