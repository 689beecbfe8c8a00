//! Why a command could not do what was asked.

use crate::EXIT_USAGE;
use crate::commands::kube::IdentityError;
use crate::commands::plan::ManifestsError;
use holdfast_api::local::{Problem, Stage};
use holdfast_api::token::TokenError;
use holdfast_api::{Reason, Severity};
use holdfast_client::unix::UnixError;
use std::io;
use std::time::Duration;

/// Exit code of a wait that ran out without a reason, as timeout(1) has it.
const EXIT_TIMEOUT: u8 = 124;

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The process could not be set up.
    #[error("cannot start")]
    Start {
        #[source]
        source: io::Error,
    },
    /// The command line is complete and still asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The manager could not be asked, or refused.
    #[error("{source}")]
    Manager {
        #[source]
        source: UnixError,
    },
    /// The manager's answer is not of the form that this version expects.
    #[error("the manager's answer to {path} cannot be understood: {source}")]
    Answer {
        path: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The token is wrong as typed.
    #[error("{source}")]
    Token {
        #[source]
        source: TokenError,
    },
    /// Several groups of the token are wrong as typed, counted from 1.
    #[error("groups {} of the token are mistyped", list(groups))]
    TokenGroups { groups: Vec<usize> },
    /// The terminal or standard input or output does not work.
    #[error("cannot {attempt}")]
    Terminal {
        attempt: &'static str,
        #[source]
        source: io::Error,
    },
    /// The stage that was waited for did not come.
    #[error("the node is {} after {} s, not {}", stage_name(*is), after.as_secs(), stage_name(*wanted))]
    Waited { wanted: Stage, is: Stage, after: Duration, reason: Option<Reason> },
    /// Something that was asked for, or waited for, is not there yet; `what` says how it is instead.
    #[error("{what} after {} s", after.as_secs())]
    NotYet { what: String, after: Duration, reason: Option<Reason> },
    /// What was asked for was tried and failed, as the manager reports it.
    #[error("{}", problem.message)]
    Failed { problem: Box<Problem> },
    /// The manifests cannot be sent.
    #[error("{source}")]
    Manifests {
        #[source]
        source: ManifestsError,
    },
    /// The identity cannot be used.
    #[error("{source}")]
    Identity {
        #[source]
        source: IdentityError,
    },
}

impl Failure {
    /// The reason to report; none for a command line that cannot be understood.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Failure::Usage(_) => None,
            Failure::Manager { source } => Some(source.reason()),
            Failure::Token { source } => Some(source.reason()),
            Failure::TokenGroups { .. } => Some(Reason::TokenMistypedGroup),
            Failure::Waited { reason, .. } | Failure::NotYet { reason, .. } => *reason,
            Failure::Failed { problem } => Some(problem.reason),
            Failure::Manifests { source } => Some(source.reason()),
            Failure::Identity { source } => Some(source.reason()),
            Failure::Start { .. } | Failure::Answer { .. } | Failure::Terminal { .. } => {
                Some(Reason::Internal)
            }
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match (self, self.reason()) {
            (_, Some(reason)) => reason.exit_code(),
            (Failure::Waited { .. } | Failure::NotYet { .. }, None) => EXIT_TIMEOUT,
            (_, None) => EXIT_USAGE,
        }
    }

    /// The failure in the form in which the manager reports its own.
    pub(crate) fn problem(&self) -> Problem {
        if let Failure::Manager { source: UnixError::Refused { problem } } = self {
            return (**problem).clone();
        }
        if let Failure::Failed { problem } = self {
            return (**problem).clone();
        }
        let reason = self.reason().unwrap_or(Reason::ConfigInvalid);
        let mut problem = Problem::new(reason, self.message());
        match self {
            Failure::Usage(_) => problem.next_step = "Try `holdfast --help`.".into(),
            Failure::Waited { reason: None, .. } => {
                problem.severity = Severity::Warning;
                problem.next_step = "Look at `holdfast status`.".into();
            }
            Failure::NotYet { reason: None, .. } => {
                problem.severity = Severity::Warning;
                problem.next_step = "Look at `holdfast kube status`.".into();
            }
            Failure::Manifests { source } => problem.next_step = source.next_step().into(),
            Failure::Identity { source } => problem.next_step = source.next_step().into(),
            Failure::Manager { source: UnixError::Unreachable { source, .. } } => {
                let denied = source.downcast_ref::<io::Error>().map(io::Error::kind);
                if denied == Some(io::ErrorKind::PermissionDenied) {
                    problem.next_step = "Run the command as root.".into();
                }
            }
            Failure::Manager { .. }
            | Failure::Start { .. }
            | Failure::Answer { .. }
            | Failure::Token { .. }
            | Failure::TokenGroups { .. }
            | Failure::Terminal { .. }
            | Failure::Waited { .. }
            | Failure::NotYet { .. }
            | Failure::Failed { .. } => {}
        }
        problem
    }

    /// The error and its causes in one line.
    fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message += ": ";
                message += &text;
            }
            cause = error.source();
        }
        message
    }
}

fn list(groups: &[usize]) -> String {
    let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// The name of a stage as the API spells it.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::NoToken => "NoToken",
        Stage::Registering => "Registering",
        Stage::AwaitingApproval => "AwaitingApproval",
        Stage::Bootstrapping => "Bootstrapping",
        Stage::Online => "Online",
        Stage::Degraded => "Degraded",
        Stage::Refused => "Refused",
    }
}
