//! Why the ends of the tunnels are not as they should be.

use crate::names;
use holdfast_api::Reason;
use netd::{Step, tuntap};
use std::io;
use std::path::PathBuf;
use tunnels::{bfd, wireguard};

/// Why the ends cannot be had, or not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndsError {
    /// The key.
    #[error("cannot use this edge's WireGuard key")]
    Key(#[source] wireguard::KeyError),
    /// The kernel.
    #[error("cannot talk to the kernel")]
    Open(#[source] netd::OpenError),
    /// The TUN device.
    #[error("cannot make {}", names::LINK)]
    Tun(#[source] tuntap::TunError),
    /// The engine.
    #[error("cannot end tunnels on {}", names::LINK)]
    Engine(#[source] wireguard::DeviceError),
    /// Neither kind can be had.
    #[error("this machine can make no tunnel of the kinds that are allowed")]
    NoKind,
    /// The kernel's network cannot be read.
    #[error("cannot see what the kernel has")]
    Observe(#[source] netd::ObserveError),
    /// What is wanted cannot be.
    #[error("cannot plan the kernel's network")]
    Plan(#[source] netd::PlanError),
    /// The kernel refused a change.
    #[error("cannot change the kernel's network")]
    Apply(#[source] Box<netd::BatchError>),
    /// Liveness.
    #[error("cannot watch liveness on {}", names::LINK)]
    Liveness(#[source] bfd::SocketError),
    /// The thread that watches liveness.
    #[error("cannot start the thread that watches liveness")]
    Thread(#[source] io::Error),
    /// A setting of the machine.
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// What it should be.
        value: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl EndsError {
    /// What the kernel refused, when that was a change.
    pub(super) fn refused_step(&self) -> Option<&Step> {
        match self {
            EndsError::Apply(error) => Some(error.source.step()),
            _ => None,
        }
    }

    /// The reason code to report.
    pub(super) fn reason(&self) -> Reason {
        match self {
            EndsError::Key(_) => Reason::IdentityUnusable,
            EndsError::Open(error) => error.reason(),
            EndsError::Tun(error) => error.reason(),
            EndsError::Engine(error) => error.reason(),
            EndsError::NoKind => Reason::TunnelEngineFailed,
            EndsError::Observe(error) => error.reason(),
            EndsError::Plan(error) => error.reason(),
            EndsError::Apply(error) => error.reason(),
            EndsError::Liveness(_) | EndsError::Thread(_) => Reason::TunnelEngineFailed,
            EndsError::Sysctl { .. } => Reason::SysctlFailed,
        }
    }
}
