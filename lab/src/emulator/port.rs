//! One end of an emulated link: a TAP device in a namespace.

use super::model::End;
use crate::netns::{self, IpError};
use netd::LinkName;
use netd::netns::NetNsError;
use netd::tuntap::{Options, Tap, TunError};
use nix::errno::Errno;
use nix::unistd::{read, write};
use std::os::fd::{AsFd, BorrowedFd};

/// Why an end of a link cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The namespace is not there, or may not be entered.
    #[error("cannot reach the namespace of {end}")]
    Namespace {
        /// Where.
        end: End,
        /// What failed.
        #[source]
        source: NetNsError,
    },
    /// The interface's name is none that Linux takes.
    #[error("{end} has a name that no interface can have")]
    Name {
        /// Where.
        end: End,
        /// What is wrong with it.
        #[source]
        source: netd::model::LinkNameError,
    },
    /// The device cannot be made.
    #[error("cannot make the TAP device {end}")]
    Tap {
        /// Where.
        end: End,
        /// What failed.
        #[source]
        source: TunError,
    },
    /// The interface cannot be set up.
    #[error("cannot set {end} up")]
    SetUp {
        /// Where.
        end: End,
        /// What failed.
        #[source]
        source: IpError,
    },
}

/// The device; it goes when this is dropped.
pub(super) struct Port {
    end: End,
    tap: Tap,
    /// The namespace took the device with it.
    gone: bool,
}

impl Port {
    pub(super) fn open(end: &End, mtu: u32) -> Result<Self, PortError> {
        let name = LinkName::try_from(end.interface.as_str())
            .map_err(|source| PortError::Name { end: end.clone(), source })?;
        let options = Options { nonblocking: true, ..Options::default() };
        let tap = netns::inside(&end.netns, || Tap::open(&name, options))
            .map_err(|source| PortError::Namespace { end: end.clone(), source })?
            .map_err(|source| PortError::Tap { end: end.clone(), source })?;
        netns::ip(&[
            "-n",
            &end.netns,
            "link",
            "set",
            "dev",
            &end.interface,
            "mtu",
            &mtu.to_string(),
            "up",
        ])
        .map_err(|source| PortError::SetUp { end: end.clone(), source })?;
        Ok(Port { end: end.clone(), tap, gone: false })
    }

    /// What to wait on; none when the device is gone.
    pub(super) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.tap.as_fd())
    }

    /// One frame, when there is one.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match read(&self.tap, buffer) {
            Ok(bytes) => Some(bytes),
            Err(Errno::EAGAIN) => None,
            Err(errno) => {
                // EBADFD once the device is unregistered; polling on would spin.
                tracing::info!(end = %self.end, %errno, "the interface is gone");
                self.gone = true;
                None
            }
        }
    }

    /// Sends a frame. An interface that is down or whose queue is full loses it, as hardware would.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if !self.gone
            && let Err(errno) = write(&self.tap, frame)
        {
            tracing::trace!(end = %self.end, %errno, "frame lost at the interface");
        }
    }
}
