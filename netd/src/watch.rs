//! Noticing that somebody changed the kernel's network.
//!
//! The signal is level-triggered and coalesced: "something changed since you last asked", not
//! what. Whoever hears it observes, plans and applies; a message that is lost because too many
//! came at once (`ENOBUFS`) is a change like any other. Our own steps raise it as well: the
//! pass after them finds nothing to do.

use crate::error::OpenError;
use crate::netns::NetNs;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// Groups of `linux/rtnetlink.h`.
const GROUPS: [u32; 8] = [
    1,  // RTNLGRP_LINK
    5,  // RTNLGRP_IPV4_IFADDR
    7,  // RTNLGRP_IPV4_ROUTE
    8,  // RTNLGRP_IPV4_RULE
    9,  // RTNLGRP_IPV6_IFADDR
    11, // RTNLGRP_IPV6_ROUTE
    19, // RTNLGRP_IPV6_RULE
    32, // RTNLGRP_NEXTHOP
];

/// A subscription to changes, to be waited on by a thread.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// Subscribes to the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn open() -> Result<Self, OpenError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in GROUPS {
                match socket.add_membership(group) {
                    // A kernel before 5.3 has no nexthops to tell of.
                    Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                    joined => joined?,
                }
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(OpenError::Socket)?;
        Ok(Watch { socket, buffer: Vec::with_capacity(32 * 1024) })
    }

    /// Subscribes to the network namespace whose file is at `path`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the socket cannot be had.
    pub fn open_in(path: &Path) -> Result<Self, OpenError> {
        let fail = |error: crate::netns::NetNsError| OpenError::Namespace {
            path: error.path,
            source: error.source,
        };
        NetNs::open_at(path).map_err(fail)?.enter(Self::open).map_err(fail)?
    }

    /// Whether anything changed since the last call. Does not wait.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => changed = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until something changes, at most for `patience`; tells whether something did.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            if self.changed()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The same subscription for an asynchronous program. Needs a tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn into_async(self) -> io::Result<AsyncWatch> {
        Ok(AsyncWatch { socket: crate::readiness::register(self.socket)?, buffer: self.buffer })
    }
}

/// A subscription to changes, for `select!`.
#[derive(Debug)]
pub struct AsyncWatch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl AsyncWatch {
    /// Waits until something has changed since the last call. Cancel safe: a change that was
    /// not reported is reported by the next call.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut changed = false;
        loop {
            // With something heard already there is no wait, so nothing is lost when cancelled.
            let mut ready = self.socket.readable_mut().await?;
            loop {
                self.buffer.clear();
                let buffer = &mut self.buffer;
                match ready.try_io(|socket| socket.get_ref().recv(buffer, 0)) {
                    Ok(Ok(_)) => changed = true,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                        changed = true
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_would_block) => break,
                }
            }
            if changed {
                return Ok(());
            }
        }
    }
}
