//! Small reads below a root, none of which fails loudly.

use super::Complaint;
use holdfast_api::Reason;
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any file we read has; a fixture or a broken kernel must not fill our memory.
/// `/proc/cpuinfo` of a machine with 1024 processors has about 1.5 MiB.
const MAX_BYTES: u64 = 16 << 20;

pub(super) struct Tree {
    root: PathBuf,
    pub(super) complaints: Vec<Complaint>,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Tree { root: root.to_path_buf(), complaints: Vec::new() }
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(super) fn complain(&mut self, reason: Reason, relative: &str, message: impl Into<String>) {
        self.complaints.push(Complaint {
            reason,
            path: self.path(relative),
            message: message.into(),
        });
    }

    /// The content of a file, trimmed; nothing when it is not there or cannot be read. Bytes that
    /// are not UTF-8 (some firmware) are replaced.
    pub(super) fn text(&self, relative: &str) -> Option<String> {
        text_of(&self.path(relative))
    }

    /// As [`text`](Self::text), with a complaint when it cannot be read.
    pub(super) fn needed(&mut self, relative: &str) -> Option<String> {
        match read(&self.path(relative)) {
            Ok(text) => Some(text),
            Err(error) => {
                self.complain(
                    Reason::HwFactsUnreadable,
                    relative,
                    format!("cannot be read: {error}"),
                );
                None
            }
        }
    }

    /// The names in a directory, sorted; none when it cannot be read.
    pub(super) fn names(&self, relative: &str) -> Vec<String> {
        names_in(&self.path(relative)).unwrap_or_default()
    }
}

pub(super) fn names_in(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The content of a file, trimmed; see [`Tree::text`].
pub(super) fn text_of(path: &Path) -> Option<String> {
    read(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A number in a file.
pub(super) fn number_of<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text_of(path)?.parse().ok()
}

/// The last name of what a symbolic link points at, such as the driver behind `device/driver`.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    target.file_name()?.to_str().map(str::to_owned)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
