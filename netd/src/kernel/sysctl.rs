//! Settings of links in procfs.
//!
//! `/proc/sys/net` shows the namespace of the thread that looks, so a kernel opened in another
//! namespace looks from a thread that has entered it.

use super::Kernel;
use crate::model::{LinkName, LinkSysctl};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

impl Kernel {
    /// Tells the kernel of this namespace not to describe nexthop objects to programs that do
    /// not know them (`net.ipv4.nexthop_compat_mode`, which is 1 at first).
    ///
    /// With it the replacement of a nexthop announces every route that uses it: with a hundred
    /// thousand routes a switch takes some 70 ms instead of some microseconds. Without it
    /// routes over nexthop objects show only the object's number. Whoever relies on
    /// [`Kernel::replace_nexthop`] being quick calls this once.
    ///
    /// # Errors
    /// No rights, or a kernel before 5.8, which knows the announcements only.
    pub fn disable_nexthop_compat(&self) -> io::Result<()> {
        self.write_sysctl(&self.proc_root.join("sys/net/ipv4/nexthop_compat_mode"), "0")
    }

    /// Whether this namespace speaks IPv6: the kernel has it (no `ipv6.disable=1`), and it is on
    /// where routes to nowhere are, on `lo`, which `net.ipv6.conf.all.disable_ipv6` turns off with
    /// all others (Documentation/networking/ip-sysctl.rst). True when that cannot be told.
    pub fn speaks_ipv6(&self) -> bool {
        let path = self.proc_root.join("sys/net/ipv6/conf/lo/disable_ipv6");
        let is_on = |answer: io::Result<String>| match answer {
            Ok(value) => value == "0",
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        self.inside(|| read(&path)).map_or(true, is_on)
    }

    pub(super) fn sysctl_path(&self, link: &LinkName, sysctl: &LinkSysctl) -> PathBuf {
        self.proc_root.join(sysctl.path(link))
    }

    /// The values of `sysctls`, `None` where one cannot be read.
    pub(super) fn read_sysctls(&self, paths: &[PathBuf]) -> io::Result<Vec<Option<String>>> {
        self.inside(|| paths.iter().map(|path| read(path).ok()).collect())
    }

    pub(super) fn write_sysctl(&self, path: &Path, value: &str) -> io::Result<()> {
        self.inside(|| {
            // The kernel takes a value in one write; the file is there or the setting is not.
            OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
        })?
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.enter(work).map_err(|error| error.source),
            None => Ok(work()),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    OpenOptions::new().read(true).open(path)?.read_to_string(&mut text)?;
    Ok(text.trim().to_string())
}
