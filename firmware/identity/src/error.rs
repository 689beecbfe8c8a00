//! Why an identity cannot be had or used.

use holdfast_api::Reason;
use holdfast_durable::{SlotError, WriteError};
use std::io;
use std::path::PathBuf;

/// Why a key or certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory of the keys cannot be made, locked or closed to others.
    #[error("cannot {attempt} the identity directory {}", path.display())]
    Directory {
        /// What was tried.
        attempt: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file was read and is not what it should be. It is left as it is.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be written.
    #[error("cannot store {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The failed step.
        #[source]
        source: WriteError,
    },
    /// Both copies of a stored value are unusable, or a new one cannot be stored.
    #[error("cannot keep {what}")]
    Kept {
        /// What is kept.
        what: &'static str,
        /// The failed step.
        #[source]
        source: SlotError,
    },
    /// A certificate that was handed to us is not one that we can use.
    #[error("the certificate cannot be used: {why}")]
    Certificate {
        /// What is wrong with it.
        why: String,
    },
    /// The cryptographic library refused.
    #[error("cannot make {what}: {why}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// The library's answer.
        why: String,
    },
}

impl IdentityError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            IdentityError::Directory { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::StateDiskFull,
                _ => Reason::StateUnwritable,
            },
            IdentityError::Write { source, .. }
            | IdentityError::Kept { source: SlotError::Write { source, .. }, .. } => {
                match source.disk_full() {
                    true => Reason::StateDiskFull,
                    false => Reason::StateUnwritable,
                }
            }
            IdentityError::Read { .. }
            | IdentityError::Damaged { .. }
            | IdentityError::Kept { .. } => Reason::IdentityUnusable,
            IdentityError::Certificate { .. } => Reason::ControllerProtocol,
            IdentityError::Crypto { .. } => Reason::Internal,
        }
    }

    /// Whether trying again later can help without a person doing anything to the key itself.
    pub fn retryable(&self) -> bool {
        match self {
            IdentityError::Directory { .. } | IdentityError::Write { .. } => true,
            IdentityError::Kept { source, .. } => matches!(source, SlotError::Write { .. }),
            // The controller can send a better certificate.
            IdentityError::Certificate { .. } => true,
            IdentityError::Read { .. }
            | IdentityError::Damaged { .. }
            | IdentityError::Crypto { .. } => false,
        }
    }
}
