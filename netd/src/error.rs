//! What can fail, in words for the person who stands before the box.

use crate::model::{LinkName, RouteKey};
use crate::step::Step;
use holdfast_api::Reason;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The kernel's answer to a request that it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelAnswer {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own sentence (the extended ack of `NETLINK_EXT_ACK`), when it has one.
    pub text: Option<String>,
}

impl fmt::Display for KernelAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "the kernel says \"{text}\" ({:?})", self.errno),
            None => write!(f, "the kernel says \"{}\" ({:?})", self.errno.desc(), self.errno),
        }
    }
}

impl std::error::Error for KernelAnswer {}

/// Why a conversation with the kernel could not begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The network namespace.
    #[error("cannot enter the network namespace {}", path.display())]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            OpenError::Socket(source) | OpenError::Namespace { source, .. } => {
                match source.kind() {
                    io::ErrorKind::PermissionDenied => Reason::NetPermission,
                    _ => Reason::NetApplyFailed,
                }
            }
        }
    }
}

/// Why a conversation stopped. Only used inside of other errors.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The socket failed.
    #[error("the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Refused(#[from] KernelAnswer),
    /// The kernel's message could not be read.
    #[error("the kernel sent a message that could not be read: {0}")]
    Unreadable(String),
}

impl TalkError {
    /// The error number, when the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            TalkError::Refused(answer) => Some(answer.errno),
            TalkError::Socket(error) => error.raw_os_error().map(Errno::from_raw),
            TalkError::Unreadable(_) => None,
        }
    }
}

/// Why the network could not be observed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the kernel's {what}")]
pub struct ObserveError {
    /// "links", "routes", …
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: TalkError,
}

impl ObserveError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self.source.errno() {
            Some(Errno::EPERM | Errno::EACCES) => Reason::NetPermission,
            Some(Errno::EOPNOTSUPP) => Reason::NetUnsupported,
            _ => Reason::NetApplyFailed,
        }
    }

    /// Trying again may help: the tables changed while they were read, or the socket was full.
    pub fn retryable(&self) -> bool {
        self.reason() == Reason::NetApplyFailed
    }
}

/// Why a wish has no plan. Nothing has been touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A physical port, a TUN device of a program, or a controller is not there.
    #[error("link {link} is not there; {needed_by} needs it")]
    LinkMissing {
        /// The link.
        link: LinkName,
        /// What cannot be without it.
        needed_by: String,
    },
    /// The wish is outside of what its owner may touch.
    #[error("{what} is outside of what may be changed here: {rule}")]
    NotOurs {
        /// What was wanted.
        what: String,
        /// Which rule it breaks.
        rule: &'static str,
    },
    /// Somebody else's thing is in its place.
    #[error(
        "{what} cannot be made: {in_the_way} is not ours and in its place; remove or rename it"
    )]
    Conflict {
        /// What was wanted.
        what: String,
        /// What is there.
        in_the_way: String,
    },
    /// A nexthop is named that is not part of the wish.
    #[error("{needed_by} names nexthop {id}, which is not wanted")]
    NexthopUnknown {
        /// The id.
        id: u32,
        /// What names it.
        needed_by: String,
    },
    /// The wish contradicts itself.
    #[error("{what} makes no sense: {why}")]
    Contradiction {
        /// The part.
        what: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The kernel keeps one route per place, and another's is there.
    #[error(
        "route {key} cannot be added: a route of protocol {mark} is in its place; give ours another metric"
    )]
    RouteTaken {
        /// The place.
        key: RouteKey,
        /// Who made it (`/etc/iproute2/rt_protos`).
        mark: u8,
    },
}

impl PlanError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            PlanError::LinkMissing { .. } => Reason::NetLinkMissing,
            PlanError::Conflict { .. } | PlanError::RouteTaken { .. } => Reason::NetConflict,
            PlanError::NotOurs { .. }
            | PlanError::NexthopUnknown { .. }
            | PlanError::Contradiction { .. } => Reason::ConfigInvalid,
        }
    }

    /// The same wish may have a plan later, without anybody changing the wish.
    pub fn retryable(&self) -> bool {
        matches!(self.reason(), Reason::NetLinkMissing | Reason::NetConflict)
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// No rights.
    #[error("cannot {step}: no right to change the network; run as root or with CAP_NET_ADMIN")]
    Permission {
        /// The step.
        step: Box<Step>,
        /// The kernel's answer.
        #[source]
        source: TalkError,
    },
    /// The kernel does not know the kind of thing.
    #[error("cannot {step}: this kernel has no {thing}; try `modprobe {module}`")]
    Unsupported {
        /// The step.
        step: Box<Step>,
        /// What it lacks.
        thing: String,
        /// The module that brings it.
        module: String,
        /// The kernel's answer.
        #[source]
        source: TalkError,
    },
    /// Somebody else's is in the place.
    #[error("cannot {step}: something that is not ours is there already; remove or rename it")]
    Conflict {
        /// The step.
        step: Box<Step>,
        /// The kernel's answer.
        #[source]
        source: TalkError,
    },
    /// The link is not there.
    #[error("cannot {step}: link {link} is not there; check the cable, the slot and the NIC roles")]
    LinkMissing {
        /// The step.
        step: Box<Step>,
        /// The link.
        link: LinkName,
    },
    /// Anything else.
    #[error("cannot {step}: {hint}")]
    Refused {
        /// The step.
        step: Box<Step>,
        /// What to check next.
        hint: &'static str,
        /// The kernel's answer.
        #[source]
        source: TalkError,
    },
    /// A setting in procfs.
    #[error("cannot {step}: {} did not take it", path.display())]
    Sysctl {
        /// The step.
        step: Box<Step>,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ApplyError {
    /// The step that failed.
    pub fn step(&self) -> &Step {
        match self {
            ApplyError::Permission { step, .. }
            | ApplyError::Unsupported { step, .. }
            | ApplyError::Conflict { step, .. }
            | ApplyError::LinkMissing { step, .. }
            | ApplyError::Refused { step, .. }
            | ApplyError::Sysctl { step, .. } => step,
        }
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            ApplyError::Permission { .. } => Reason::NetPermission,
            ApplyError::Unsupported { .. } => Reason::NetUnsupported,
            ApplyError::Conflict { .. } => Reason::NetConflict,
            ApplyError::LinkMissing { .. } => Reason::NetLinkMissing,
            ApplyError::Refused { .. } => Reason::NetApplyFailed,
            ApplyError::Sysctl { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Reason::NetPermission,
                io::ErrorKind::NotFound => Reason::NetLinkMissing,
                _ => Reason::SysctlFailed,
            },
        }
    }

    /// Observing and planning again may help.
    pub fn retryable(&self) -> bool {
        matches!(
            self.reason(),
            Reason::NetApplyFailed | Reason::NetLinkMissing | Reason::NetConflict
        )
    }
}

/// Why a batch failed, and what could not be taken back.
#[derive(Debug, thiserror::Error)]
#[error("step {} of {total} failed{}", at + 1, undo_note(undo_failures))]
pub struct BatchError {
    /// Which step failed first, from 0.
    pub at: usize,
    /// Of how many.
    pub total: usize,
    /// Why.
    #[source]
    pub source: Box<ApplyError>,
    /// Steps that were done and could not be taken back; what they did still stands.
    pub undo_failures: Vec<ApplyError>,
    /// Steps that were done and have no way back.
    pub kept: Vec<Step>,
}

fn undo_note(failures: &[ApplyError]) -> String {
    match failures {
        [] => "; the steps before it were taken back".to_string(),
        [first, ..] => {
            format!("; {} steps could not be taken back, first: {first}", failures.len())
        }
    }
}

impl BatchError {
    /// The reason code of the first failure.
    pub fn reason(&self) -> Reason {
        self.source.reason()
    }

    /// Observing and planning again may help.
    pub fn retryable(&self) -> bool {
        self.source.retryable()
    }
}
