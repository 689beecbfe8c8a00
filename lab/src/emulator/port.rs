//! One end of an emulated link: a TAP device in a namespace.

use super::model::End;
use crate::netns::{self, NetnsError};
use netd::tuntap::Tap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Why an end of a link cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The namespace is not there, or its interface cannot be set up.
    #[error("cannot set up {end}")]
    Namespace {
        /// Where.
        end: End,
        /// What failed.
        #[source]
        source: NetnsError,
    },
    /// The device cannot be made.
    #[error("cannot make the TAP device {end}")]
    Tap {
        /// Where.
        end: End,
        /// What failed.
        #[source]
        source: netd::tuntap::TunTapError,
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
        let namespace = |source| PortError::Namespace { end: end.clone(), source };
        let tap = netns::inside(&end.netns, || Tap::open(&end.interface))
            .map_err(namespace)?
            .map_err(|source| PortError::Tap { end: end.clone(), source })?;
        let mtu = mtu.to_string();
        netns::ip(&["-n", &end.netns, "link", "set", "dev", &end.interface, "mtu", &mtu, "up"]).map_err(namespace)?;
        Ok(Port { end: end.clone(), tap, gone: false })
    }

    /// What to wait on; none when the device is gone.
    pub(super) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.tap.as_fd())
    }

    /// One frame, when there is one.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.tap.recv(buffer) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                // EBADFD once the device is unregistered; polling on would spin.
                tracing::info!(end = %self.end, %error, "the interface is gone");
                self.gone = true;
                None
            }
        }
    }

    /// Sends a frame. An interface that is down or whose queue is full loses it, as hardware would.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if !self.gone
            && let Err(error) = self.tap.send(frame)
        {
            tracing::trace!(end = %self.end, %error, "frame lost at the interface");
        }
    }
}
