//! Our block in `/etc/hosts` (hosts(5)); every other byte belongs to somebody else and stays.
//!
//! The block stands between the two marker lines of [`holdfast_api::marks`], and each of its
//! lines ends with [`TAG`], so that our lines can be told from foreign ones even when a marker
//! was lost. It is replaced where it stands, and first put after the last complete line: a file
//! without final newline keeps its last line, and loses nothing when the block goes again.
//!
//! Fails with [`HostsError`]; the old file then still stands whole. A symbolic link in the
//! place of the file is replaced by a file. What it leaves out: DNS, and the order of sources
//! (nsswitch.conf(5)); a write by somebody else in the microseconds between our reading and our
//! rename(2) is lost, as the file has no lock that everybody honours.

mod block;
mod model;

pub use block::{Damage, TAG};
pub use model::{Entry, Have, HostName, NameError, Want};

use crate::Outcome;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_durable::WriteError;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where the file is.
pub fn path(root: &Root) -> PathBuf {
    root.join("etc/hosts")
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The new content cannot be stored; the old one still stands.
    #[error("cannot change {}{}", path.display(), if source.disk_full() { ", the disk is full" } else { "" })]
    Write {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: WriteError,
    },
}

impl HostsError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        Reason::HostsUnwritable
    }

    /// Disks get room and file systems become writable again; the next pass tries anew.
    pub fn retryable(&self) -> bool {
        true
    }
}

/// One change of the file. The content is put together when the step is applied, so that what
/// others write between planning and applying is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the file, as there is none.
    Create {
        /// Our lines.
        want: Want,
    },
    /// Replace our block in the file.
    Replace {
        /// Our lines.
        want: Want,
        /// Lines of the block that come.
        added: usize,
        /// Lines of the block that go.
        removed: usize,
        /// What was wrong with the markers.
        damage: Option<Damage>,
    },
}

impl Step {
    /// What somebody should know about the state that this step mends.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Step::Replace { damage: Some(_), .. } => Some(Reason::HostsMarkersDamaged),
            Step::Create { .. } | Step::Replace { damage: None, .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Create { .. } => f.write_str("create /etc/hosts with our block"),
            Step::Replace { added, removed, damage, .. } => {
                write!(
                    f,
                    "change our block in /etc/hosts: {added} lines added, {removed} removed"
                )?;
                damage.as_ref().map_or(Ok(()), |damage| write!(f, " (mends it: {damage})"))
            }
        }
    }
}

/// Reads the file.
///
/// # Errors
/// [`HostsError::Read`]; a missing file is [`Have::Missing`].
pub fn observe(root: &Root) -> Result<Have, HostsError> {
    let path = path(root);
    let read = || -> io::Result<_> { Ok((std::fs::read(&path)?, std::fs::metadata(&path)?)) };
    match read() {
        Ok((content, metadata)) => {
            Ok(Have::File { content, mode: metadata.permissions().mode() & 0o7777 })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Have::Missing),
        Err(source) => Err(HostsError::Read { path, source }),
    }
}

/// The steps from `have` to `want`: none when the block is as it should be. Pure.
pub fn plan(want: &Want, have: &Have) -> Vec<Step> {
    match have {
        Have::Missing if want.entries.is_empty() => vec![],
        Have::Missing => vec![Step::Create { want: want.clone() }],
        Have::File { content, .. } => match block::edit(content, want) {
            edit if edit.content == *content => vec![],
            block::Edit { added, removed, damage, .. } => {
                vec![Step::Replace { want: want.clone(), added, removed, damage }]
            }
        },
    }
}

/// Carries out one step.
///
/// # Errors
/// [`HostsError`]; the old content then still stands.
pub fn apply(root: &Root, step: &Step) -> Result<Outcome, HostsError> {
    let (Step::Create { want } | Step::Replace { want, .. }) = step;
    let (content, mode, outcome) = match observe(root)? {
        Have::Missing => (block::render(want).into_bytes(), 0o644, Outcome::Created),
        Have::File { content, mode } => {
            (block::edit(&content, want).content, mode, Outcome::Changed)
        }
    };
    let path = path(root);
    match holdfast_durable::write_if_changed(&path, &content, mode) {
        Ok(holdfast_durable::Outcome::Changed) => Ok(outcome),
        Ok(holdfast_durable::Outcome::Unchanged) => Ok(Outcome::Unchanged),
        Err(source) => Err(HostsError::Write { path, source }),
    }
}

#[cfg(test)]
mod tests;
