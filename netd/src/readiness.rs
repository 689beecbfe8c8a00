//! Descriptors that tokio waits on.
//!
//! Registering one is `unsafe` because the descriptor must stay the same while it is
//! registered; the types that this crate registers own theirs and never swap it.
#![allow(unsafe_code)]

use netlink_sys::Socket;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Types that own one open descriptor and answer with it for as long as they live.
pub(crate) trait OwnsDescriptor: AsRawFd {}
impl OwnsDescriptor for OwnedFd {}
impl OwnsDescriptor for Socket {}

/// Registers `owner` with the runtime of the calling task.
pub(crate) fn register<T: OwnsDescriptor>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `OwnsDescriptor` promises that the descriptor is open and the same until `owner`
    // is dropped, and `AsyncFd` deregisters before that.
    unsafe { AsyncFd::register(owner) }.map_err(io::Error::from)
}
