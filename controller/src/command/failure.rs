//! Why a command failed: said once, with the argument to change and the reason code.

use crate::http::ServerError;
use crate::trust::OperatorError;
use holdfast_api::meta::{Status, is_dns_label};
use holdfast_api::{Reason, chain};
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An argument that cannot be used.
    #[error("{argument}: {why}")]
    Argument {
        /// As it is typed, such as `--namespace`.
        argument: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file that the server writes is not there or cannot be read.
    #[error("--data: cannot read {}; does the server run with this data directory?", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file that the server writes does not hold what it should.
    #[error("--data: {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operating system denied something that every process needs.
    #[error("cannot {attempt}")]
    System {
        /// What was tried.
        attempt: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be made.
    #[error("--data: cannot make {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The server does not start.
    #[error("cannot start")]
    Server(#[from] ServerError),
    /// The credential for the operator cannot be kept.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// Nobody answers where the server should be.
    #[error("the server at {to} does not answer")]
    Unreachable {
        /// Host and port.
        to: String,
        /// What broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Whoever answers does not have a certificate of our CA.
    #[error("{to} is not the server of this data directory")]
    Stranger {
        /// Host and port.
        to: String,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
    /// The server answered with an error.
    #[error("the server refused: {}", status.message)]
    Refused {
        /// The error.
        status: Box<Status>,
    },
    /// The server's answer is not what it should be.
    #[error("the answer of the server at {to} cannot be understood: {what}")]
    Answer {
        /// Host and port.
        to: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Failure {
    /// An argument that cannot be used.
    pub fn argument(argument: &'static str, why: impl Into<String>) -> Self {
        Failure::Argument { argument, why: why.into() }
    }

    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            Failure::Argument { .. } => Reason::ConfigInvalid,
            Failure::Data { .. } => Reason::ConfigMissing,
            Failure::Damaged { .. } => Reason::IdentityUnusable,
            Failure::System { .. } => Reason::Internal,
            Failure::Make { .. } => Reason::StateUnwritable,
            Failure::Server(error) => error.reason(),
            Failure::Operator(error) => error.reason(),
            Failure::Unreachable { .. } => Reason::ControllerUnreachable,
            Failure::Stranger { .. } => Reason::ControllerWrongCa,
            Failure::Refused { status } => {
                status.holdfast_reason().unwrap_or(Reason::ControllerRefused)
            }
            Failure::Answer { .. } => Reason::ControllerProtocol,
        }
    }

    /// What a person reads: all of it in one line, and the reason code.
    pub fn line(&self) -> String {
        // Names of files and what servers say may hold anything, such as colours for terminals.
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = chain(self).chars().map(visible).collect();
        format!("{text} [{}]", self.reason())
    }

    /// What the person can do next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Failure::Argument { .. } => "Correct the argument; --help shows them all.",
            Failure::Data { .. } | Failure::Make { .. } | Failure::Unreachable { .. } => {
                "Check --data and --server, and that the server runs."
            }
            Failure::Stranger { .. } => "Check --data and --server.",
            Failure::Refused { .. } => "Read the message of the server.",
            Failure::Damaged { .. }
            | Failure::System { .. }
            | Failure::Server(_)
            | Failure::Operator(_)
            | Failure::Answer { .. } => self.reason().next_step(),
        }
    }
}

/// Names that become part of paths and objects' names.
///
/// # Errors
/// Names the argument.
pub(super) fn label(argument: &'static str, text: &str) -> Result<(), Failure> {
    if is_dns_label(text) {
        return Ok(());
    }
    let want =
        "must be a DNS label (RFC 1123): lower-case letters, digits and inner dashes, at most 63";
    Err(Failure::argument(argument, format!("{text:?} {want}")))
}
