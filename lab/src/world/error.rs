//! Why something could not be done to a world.

use super::spec::{SpecError, WorldName};
use crate::emulator::{ControlError, EmulatorError};
use crate::exec::ExecError;
use crate::netns::IpError;
use crate::node_root::RootError;
use crate::pools::RecordError;
use crate::process::ProcessId;
use holdfast_durable::WriteError;
use netd::netns::NetNsError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why something could not be done to a world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// It was asked for wrongly.
    #[error("such a world cannot be")]
    Spec(#[source] SpecError),
    /// The machine's huge page pools cannot be noted.
    #[error("cannot note the machine's huge page pools")]
    Pools(#[source] RecordError),
    /// It is there already.
    #[error(
        "world {0} is there already; look at it with `cargo lab{option} status`, end it with `cargo lab{option} down`",
        option = .0.option()
    )]
    Exists(WorldName),
    /// It is there and was never brought up to the end.
    #[error(
        "world {0} is there and not complete: it is being brought up, or that was stopped; `cargo lab{option} status` shows how far it came, `cargo lab{option} down` removes it",
        option = .0.option()
    )]
    Incomplete(WorldName),
    /// It is not there.
    #[error("there is no world {0}; `cargo lab{option} up` makes one", option = .0.option())]
    Absent(WorldName),
    /// Another command works on it.
    #[error("another command works on world {0}; wait for it, or end it")]
    Busy(WorldName),
    /// Its state cannot be read or changed.
    #[error("cannot {attempt} {}", path.display())]
    State {
        /// What was tried.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A file of its state makes no sense.
    #[error("{} is damaged; `cargo lab down` clears it away", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A file of its state cannot be written.
    #[error("cannot write down what the world is")]
    Write(#[source] WriteError),
    /// A namespace.
    #[error("cannot make or enter a host")]
    Namespace(#[source] NetNsError),
    /// A host's addresses and routes.
    #[error("cannot set up host {host}")]
    SetUp {
        /// The host.
        host: String,
        /// What failed.
        #[source]
        source: IpError,
    },
    /// A kernel setting.
    #[error("cannot set {name} on host {host}")]
    Sysctl {
        /// The host.
        host: String,
        /// Path below `/proc/sys`.
        name: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A host's root directory.
    #[error("cannot make the root of host {host}")]
    Root {
        /// The host.
        host: String,
        /// What failed.
        #[source]
        source: RootError,
    },
    /// The link emulator in this process.
    #[error("the link emulator does not run")]
    Emulator(#[source] Box<EmulatorError>),
    /// The link emulator's control socket.
    #[error(transparent)]
    Control(ControlError),
    /// A program on a host.
    #[error("cannot run a program of the world")]
    Exec(#[source] ExecError),
    /// A daemon that is not known.
    #[error("there is no service {0} in this world")]
    NoSuchService(String),
    /// A daemon that ended while it was waited for.
    #[error("{service} ended; the end of its log ({}) is:\n{tail}", log.display())]
    Ended {
        /// The daemon.
        service: String,
        /// Its log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {patience:?}{hint}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        patience: Duration,
        /// What to look at.
        hint: String,
    },
    /// A process survived SIGKILL.
    #[error("process {} cannot be ended", .0.pid)]
    Undead(ProcessId),
}
