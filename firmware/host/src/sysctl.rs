//! Kernel settings under `/proc/sys` (sysctl(8), sysctl.d(5)).
//!
//! Only the named settings are compared and written, and what the kernel says afterwards is
//! compared with what was wanted; blanks and tabs between the numbers of one setting count the
//! same. Fails with [`SysctlError`] per setting; the others are still carried out. What it
//! leaves out: restoring a setting that is no longer named, as its earlier value is not known.

use crate::Outcome;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A setting's name, kept as its path below `/proc/sys`.
///
/// Read as sysctl.d(5) says: when the first separator is a slash, slashes separate and dots stay;
/// when it is a dot, the two change places (`net.ipv4.conf.eth0/100.rp_filter`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

/// Not the name of a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a kernel setting")]
pub struct NameError(pub String);

impl TryFrom<&str> for Name {
    type Error = NameError;
    fn try_from(text: &str) -> Result<Self, NameError> {
        let dotted = text.find(['.', '/']).is_some_and(|at| text.as_bytes()[at] == b'.');
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let path: String = if dotted { text.chars().map(swap).collect() } else { text.to_string() };
        let fits = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if path.contains('/') && path.split('/').all(fits) {
            Ok(Name(path))
        } else {
            Err(NameError(text.into()))
        }
    }
}

impl Name {
    /// Where the setting is.
    pub fn path(&self, root: &Root) -> PathBuf {
        root.join("proc/sys").join(&self.0)
    }
}

/// What a controller may set: a folder, or a single setting. Settings that make the kernel start
/// programs or load code (`kernel/core_pattern`, `kernel/modprobe`, …) are not among them, or
/// whoever may change a site would be root on its nodes; huge pages have a domain of their own.
const FROM_AFAR: &[&str] = &[
    "fs/aio-max-nr",
    "fs/file-max",
    "fs/inotify/",
    "fs/nr_open",
    "fs/pipe-max-size",
    "kernel/hung_task_panic",
    "kernel/hung_task_timeout_secs",
    "kernel/numa_balancing",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/pid_max",
    "kernel/softlockup_panic",
    "kernel/threads-max",
    "net/",
    "vm/compaction_proactiveness",
    "vm/dirty_background_ratio",
    "vm/dirty_ratio",
    "vm/max_map_count",
    "vm/min_free_kbytes",
    "vm/overcommit_memory",
    "vm/overcommit_ratio",
    "vm/panic_on_oom",
    "vm/stat_interval",
    "vm/swappiness",
    "vm/vfs_cache_pressure",
    "vm/zone_reclaim_mode",
];

/// The longest value, in bytes.
const LONGEST_VALUE: usize = 512;

/// Why a setting may not come from the controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromAfarError {
    /// It is no setting's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is none of those that a controller may set.
    #[error("{0} may only be set on the machine itself, by its profile")]
    Local(Name),
    /// The value is not one line of at most 512 printable characters.
    #[error("the value of {0} is not one line of printable ASCII of at most 512 characters")]
    Value(Name),
}

/// Checks a setting that the controller sends: its name is one of those that may come from afar,
/// and its value is one line. The controller asks the same before it accepts a site.
///
/// # Errors
/// [`FromAfarError`]; the setting must not be written.
pub fn from_afar(name: &str, value: &str) -> Result<Name, FromAfarError> {
    let name = Name::try_from(name)?;
    let allowed = FROM_AFAR.iter().any(|allowed| match allowed.ends_with('/') {
        true => name.0.starts_with(allowed),
        false => name.0 == *allowed,
    });
    let printable = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    match () {
        () if !allowed => Err(FromAfarError::Local(name)),
        () if value.len() > LONGEST_VALUE || !value.bytes().all(printable) => {
            Err(FromAfarError::Value(name))
        }
        () => Ok(name),
    }
}

impl fmt::Display for Name {
    /// With slashes, which sysctl(8) reads without ambiguity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Settings and their values.
pub type Want = BTreeMap<Name, String>;

/// The values there are; `None` when the kernel has no such setting (or does not show it).
pub type Have = BTreeMap<Name, Option<String>>;

/// One setting to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub name: Name,
    /// What it says now.
    pub from: Option<String>,
    /// What it shall say.
    pub to: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => write!(f, "set {} from {from:?} to {:?}", self.name, self.to),
            None => {
                write!(f, "set {}, which the kernel does not show, to {:?}", self.name, self.to)
            }
        }
    }
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel has no such setting; a module may not be loaded.
    #[error("the kernel has no setting {name} (is its module loaded?)")]
    Missing {
        /// Which.
        name: Name,
    },
    /// The setting cannot be read back.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the value.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel took the value and made another one of it.
    #[error("{name} was set to {want:?} and says {got:?}")]
    NotKept {
        /// Which.
        name: Name,
        /// What was written.
        want: String,
        /// What it says.
        got: String,
    },
}

impl SysctlError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        Reason::SysctlFailed
    }

    /// A module may be loaded later; a refused value stays refused.
    pub fn retryable(&self) -> bool {
        match self {
            SysctlError::Missing { .. } | SysctlError::Read { .. } => true,
            SysctlError::Write { .. } | SysctlError::NotKept { .. } => false,
        }
    }
}

/// Reads the settings that are wanted.
pub fn observe(root: &Root, want: &Want) -> Have {
    want.keys().map(|name| (name.clone(), read(&name.path(root)).ok())).collect()
}

/// The settings that differ. Pure.
pub fn plan(want: &Want, have: &Have) -> Vec<Step> {
    let found = |name: &Name| have.get(name).cloned().flatten();
    let step = |(name, value): (&Name, &String)| match found(name) {
        Some(value_now) if same(&value_now, value) => None,
        from => Some(Step {
            name: name.clone(),
            from: from.map(|text| normal(&text)),
            to: normal(value),
        }),
    };
    want.iter().filter_map(step).collect()
}

/// Writes one setting and reads it back.
///
/// # Errors
/// [`SysctlError`]; the kernel then keeps what it had, or for [`SysctlError::NotKept`] what it
/// made of the value.
pub fn apply(root: &Root, step: &Step) -> Result<Outcome, SysctlError> {
    let path = step.name.path(root);
    if !path.exists() {
        return Err(SysctlError::Missing { name: step.name.clone() });
    }
    let get = || read(&path).map_err(|source| SysctlError::Read { path: path.clone(), source });
    if same(&get()?, &step.to) {
        return Ok(Outcome::Unchanged);
    }
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut file| file.write_all(step.to.as_bytes()))
        .map_err(|source| SysctlError::Write {
            path: path.clone(),
            value: step.to.clone(),
            source,
        })?;
    match get()? {
        got if same(&got, &step.to) => Ok(Outcome::Changed),
        got => Err(SysctlError::NotKept {
            name: step.name.clone(),
            want: step.to.clone(),
            got: normal(&got),
        }),
    }
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn same(a: &str, b: &str) -> bool {
    a.split_ascii_whitespace().eq(b.split_ascii_whitespace())
}

fn normal(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::try_from(text).unwrap()
    }

    #[test]
    fn names_are_read_as_sysctl_d_reads_them() {
        for (text, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
            ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ] {
            assert_eq!(name(text).to_string(), path);
        }
        for bad in [
            "",
            "hostname",
            "net..x",
            "net/../../etc/passwd",
            "/etc/passwd",
            "net.x y",
            "net.x\n",
            "kernel./../x",
        ] {
            assert_eq!(Name::try_from(bad), Err(NameError(bad.into())));
        }
    }

    #[test]
    fn only_harmless_settings_come_from_afar() {
        for good in ["net.ipv4.tcp_rmem", "vm.swappiness", "fs.inotify.max_user_watches"] {
            assert_eq!(from_afar(good, "1 2\t3"), Ok(name(good)));
        }
        for bad in [
            "kernel.core_pattern",
            "kernel.modprobe",
            "kernel/poweroff_cmd",
            "kernel.panic_print",
            "vm.nr_hugepages",
            "fs.binfmt_misc.register",
            "netx.y",
        ] {
            assert_eq!(from_afar(bad, "1"), Err(FromAfarError::Local(name(bad))));
        }
        let long = "1".repeat(LONGEST_VALUE + 1);
        for value in ["1\n2", "\u{1b}[0m", "ä", &long] {
            let error = Err(FromAfarError::Value(name("vm.swappiness")));
            assert_eq!(from_afar("vm.swappiness", value), error, "{value:?}");
        }
        assert!(matches!(from_afar("swappiness", "1"), Err(FromAfarError::Name(_))));
    }

    fn tree(values: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (text, value) in values {
            holdfast_durable::write(&name(text).path(&root), value.as_bytes(), 0o644).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn blanks_and_tabs_count_the_same() {
        let (_dir, root) = tree(&[("net.ipv4.tcp_rmem", "4096\t131072\t6291456\n")]);
        let want = Want::from([(name("net.ipv4.tcp_rmem"), "4096 131072  6291456".into())]);
        assert_eq!(plan(&want, &observe(&root, &want)), []);
    }

    #[test]
    fn a_missing_setting_is_named() {
        let (_dir, root) = tree(&[]);
        let want = Want::from([(name("net.mpls.platform_labels"), "9".into())]);
        let steps = plan(&want, &observe(&root, &want));
        assert_eq!(steps.len(), 1);
        let error = apply(&root, &steps[0]).unwrap_err();
        assert!(
            matches!(&error, SysctlError::Missing { name } if name.to_string() == "net/mpls/platform_labels")
        );
        assert!(error.retryable());
    }
}
