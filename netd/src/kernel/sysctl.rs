//! Settings of links in procfs.
//!
//! `/proc/sys/net` shows the namespace of the thread that looks, so a kernel opened in another
//! namespace looks from a thread that has entered it.

use super::Kernel;
use crate::model::{LinkName, LinkSysctl};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How far a network namespace has IPv6 (Documentation/networking/ip-sysctl.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// The kernel was started without it, by `ipv6.disable=1`, and takes nothing of it.
    Absent,
    /// It is off on `lo`, which `net.ipv6.conf.all.disable_ipv6` turns off with all others. Routes and
    /// rules are taken, also routes to nowhere; addresses and nexthops on links where it is on; no
    /// nexthop to nowhere, which would be on `lo`.
    Off,
    /// All of it; also when that cannot be told.
    #[default]
    On,
}

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

    /// How far this namespace has IPv6.
    pub fn ipv6(&self) -> Ipv6 {
        let path = self.proc_root.join("sys/net/ipv6/conf/lo/disable_ipv6");
        let judge = |answer: io::Result<String>| match answer {
            Ok(value) if value == "0" => Ipv6::On,
            Ok(_) => Ipv6::Off,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ipv6::Absent,
            Err(_) => Ipv6::On,
        };
        self.inside(|| read(&path)).map_or(Ipv6::On, judge)
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
