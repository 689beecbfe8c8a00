//! Why something could not be done with a snapshot.

use super::distribution::Refusal;
use super::etcd_file::NotASnapshot;
use holdfast_api::Reason;
use holdfast_durable::{SlotError, WriteError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// An attempt that failed, and on what.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The kernel refuses a file operation.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of ours cannot be written.
    #[error("cannot keep what is known of snapshots")]
    Write(#[source] WriteError),
    /// State of ours cannot be read or written.
    #[error("cannot use the journal of a restore")]
    Journal(#[source] SlotError),
    /// Too little room.
    #[error("{} has {free_mib} MiB free, {need_mib} MiB are needed", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What is needed.
        need_mib: u64,
        /// What is there.
        free_mib: u64,
    },
    /// A program is not on this machine.
    #[error("{program} is not on this machine; install Debian's package {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// What has it.
        package: &'static str,
    },
    /// A program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{attempt} failed ({status}): {said}")]
    Failed {
        /// What it was to do.
        attempt: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// It took too long and was ended.
    #[error("{attempt} did not end within {} s", patience.as_secs())]
    Late {
        /// What was to be done.
        attempt: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The distribution said that it took a snapshot, and there is none.
    #[error("the distribution left no snapshot {name} in {}", dir.display())]
    NotThere {
        /// What it was to be called.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A file is not a whole snapshot.
    #[error("{} is no whole snapshot of etcd", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: NotASnapshot,
    },
    /// A portable snapshot holds something else than it should.
    #[error("{} is no whole portable snapshot: {why}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The site has no recovery key.
    #[error("the site has no recovery key")]
    NoKey,
    /// The recovery key is not one.
    #[error("the site's recovery key is no age recipient: {said}")]
    KeyInvalid {
        /// What age says.
        said: String,
    },
    /// The identity does not open the file.
    #[error("the identity does not open {}", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// The storage's address or credentials cannot be used.
    #[error("the storage of the site cannot be used: {why}")]
    StorageSettings {
        /// Why.
        why: String,
    },
    /// The storage refuses or does not answer.
    #[error("cannot {attempt} {object} in the storage")]
    Storage {
        /// What was tried.
        attempt: &'static str,
        /// Which object or folder.
        object: String,
        /// Its answer.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The distribution did not do as it was asked.
    #[error("the distribution could not be {attempt}")]
    Distribution {
        /// `stopped`, `started`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The snapshot is of a newer Kubernetes.
    #[error("the snapshot is of Kubernetes {snapshot}, older {here} is here")]
    Newer {
        /// Of the snapshot.
        snapshot: String,
        /// Of the distribution here.
        here: String,
    },
    /// The distribution would not open what the snapshot brings with the token it is given.
    #[error("the snapshot's token is not the one in {}", configured.display())]
    OtherToken {
        /// Where the other one is.
        configured: PathBuf,
    },
    /// Another server holds what the restore would take back.
    #[error("{} answers; the servers would no longer have the same datastore", names(answering))]
    OtherServers {
        /// Which.
        answering: Vec<SocketAddr>,
    },
    /// A restore cannot begin for a reason that has nothing to do with the snapshot.
    #[error("the snapshot cannot be restored now; nothing was touched")]
    NotBegun(#[source] Box<SnapshotError>),
    /// It could not be restored; the old datastore is in force again.
    #[error("the snapshot could not be restored; the datastore is as it was")]
    PutBack(#[source] Box<SnapshotError>),
    /// It could not be restored, nor the old datastore put back.
    #[error(
        "the snapshot could not be restored ({first}), and the old datastore does not run either"
    )]
    PutBackFailed {
        /// What failed first.
        first: Box<SnapshotError>,
        /// What failed then.
        #[source]
        source: Box<SnapshotError>,
    },
    /// There is no snapshot to do it with.
    #[error("there is no snapshot that could be used: {why}")]
    NoneUsable {
        /// Why not.
        why: String,
    },
    /// The datastore came up in a drill and lacks something.
    #[error("the restored datastore lacks {what}")]
    Lacks {
        /// What, with numbers.
        what: String,
    },
    /// The datastore came up in a drill and did not tell what it holds.
    #[error("the restored datastore came up, but its {what} could not be counted")]
    Uncounted {
        /// Which kinds.
        what: String,
    },
    /// The drill's own network could not be made.
    #[error("cannot make a network for the drill")]
    Network(#[source] io::Error),
    /// The service ended.
    #[error("the manager is ending")]
    Ended,
}

impl SnapshotError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Damaged { .. } | Self::Bundle { .. } | Self::NoneUsable { .. } => {
                Reason::SnapshotDamaged
            }
            Self::NoKey | Self::KeyInvalid { .. } => Reason::SnapshotNoKey,
            Self::WrongKey { .. } => Reason::SnapshotWrongKey,
            Self::OtherToken { .. } => Reason::SnapshotOtherToken,
            Self::OtherServers { .. } => Reason::SnapshotOtherServers,
            // Programs are needed to bring a snapshot away and back.
            Self::StorageSettings { .. } | Self::Storage { .. } | Self::NoProgram { .. } => {
                Reason::SnapshotUpload
            }
            Self::Newer { .. }
            | Self::NotBegun(_)
            | Self::PutBack(_)
            | Self::PutBackFailed { .. } => Reason::SnapshotRestoreFailed,
            Self::Lacks { .. } | Self::Uncounted { .. } | Self::Network(_) => {
                Reason::SnapshotDrillFailed
            }
            Self::Io { .. }
            | Self::Write(_)
            | Self::Journal(_)
            | Self::NoSpace { .. }
            | Self::Start { .. }
            | Self::Failed { .. }
            | Self::Late { .. }
            | Self::NotThere { .. }
            | Self::Distribution { .. }
            | Self::Ended => Reason::SnapshotFailed,
        }
    }

    /// Whether the same attempt can succeed later without anybody's help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotBegun(cause) => cause.retryable(),
            Self::Damaged { .. }
            | Self::Bundle { .. }
            | Self::NoKey
            | Self::KeyInvalid { .. }
            | Self::WrongKey { .. }
            | Self::StorageSettings { .. }
            | Self::Newer { .. }
            | Self::OtherToken { .. }
            | Self::OtherServers { .. }
            | Self::NoProgram { .. }
            | Self::PutBack(_)
            | Self::PutBackFailed { .. }
            | Self::NoneUsable { .. }
            | Self::Lacks { .. }
            | Self::Ended => false,
            Self::Io { .. }
            | Self::Write(_)
            | Self::Journal(_)
            | Self::NoSpace { .. }
            | Self::Start { .. }
            | Self::Failed { .. }
            | Self::Late { .. }
            | Self::NotThere { .. }
            | Self::Storage { .. }
            | Self::Distribution { .. }
            | Self::Uncounted { .. }
            | Self::Network(_) => true,
        }
    }

    /// As the end of a restore that did not begin: what says something about the snapshot stays
    /// what it is.
    pub(super) fn before_restore(self) -> SnapshotError {
        match self.reason() {
            Reason::SnapshotFailed | Reason::SnapshotUpload => SnapshotError::NotBegun(self.into()),
            _ => self,
        }
    }
}

fn names(servers: &[SocketAddr]) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Carries the attempt and the path along.
pub(super) fn io_error(
    attempt: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_path_buf();
    move |source| SnapshotError::Io { attempt, path, source }
}
