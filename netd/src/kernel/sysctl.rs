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
