//! How the store fails.

use holdfast_api::Reason;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure of the store. Shared by all writes of a batch, hence `Clone`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Database {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The database's answer.
        source: Arc<redb::Error>,
    },
    /// Another process has the file open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program wrote the file.
    #[error("{} has format {format}, which this version does not know", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// A file could not be handled.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The writer's thread could not be started.
    #[error("cannot start the writer's thread")]
    Thread {
        /// The kernel's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn from_redb(attempt: &'static str, path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::Locked { path: path.into() },
            other => StoreError::Database { attempt, path: path.into(), source: Arc::new(other) },
        }
    }

    /// Whether there was no room on the disk.
    pub fn disk_full(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            StoreError::Database { source, .. } => {
                matches!(&**source, redb::Error::Io(error) if full(error))
            }
            StoreError::File { source, .. } => full(source),
            StoreError::Locked { .. }
            | StoreError::Newer { .. }
            | StoreError::Thread { .. }
            | StoreError::Closed => false,
        }
    }

    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        if self.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable }
    }

    /// Whether the same write may succeed later.
    pub fn retryable(&self) -> bool {
        !matches!(self, StoreError::Newer { .. } | StoreError::Closed)
    }
}
