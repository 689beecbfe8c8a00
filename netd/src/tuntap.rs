//! TUN and TAP devices: links whose other end is a program.
//!
//! The device lives as long as its file descriptor, unless it was made persistent. The
//! `unsafe` here is around the ioctls that the kernel has for this
//! (Documentation/networking/tuntap.rst); reading and writing packets is the caller's.
#![allow(unsafe_code)]

use crate::model::LinkName;
use holdfast_api::Reason;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

const TUN_DEVICE: &str = "/dev/net/tun";

/// `TUNSETIFF`, `TUNSETPERSIST`, `TUNSETOFFLOAD` of `linux/if_tun.h`.
mod ioctl {
    #![allow(missing_docs, reason = "the macro writes functions without")]
    nix::ioctl_write_int!(set_iff, b'T', 202);
    nix::ioctl_write_int!(set_persist, b'T', 203);
    nix::ioctl_write_int!(set_offload, b'T', 208);
}

/// Why a device could not be opened or set.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN driver, or the container hides it, or there is no descriptor left.
    #[error("cannot open {TUN_DEVICE}{}", advice_on_driver(*.0))]
    NoDriver(#[source] Errno),
    /// The device could not be made or joined.
    #[error("cannot make the device {name}{}", advice_on_name(*source))]
    Attach {
        /// Its name.
        name: LinkName,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The device was made, and its index cannot be asked for: the C library tells no reason.
    #[error(
        "cannot find the device {name} that was made, as when no descriptor is left (`ulimit -n`)"
    )]
    Index {
        /// Its name.
        name: LinkName,
        /// The C library's answer.
        #[source]
        source: Errno,
    },
    /// A setting was refused.
    #[error("cannot set {what} of the device {name}")]
    Set {
        /// Its name.
        name: LinkName,
        /// What was set.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl TunError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            TunError::NoDriver(Errno::EACCES | Errno::EPERM) => Reason::NetPermission,
            TunError::NoDriver(Errno::EMFILE | Errno::ENFILE) | TunError::Index { .. } => {
                Reason::NetApplyFailed
            }
            TunError::NoDriver(_) => Reason::NetUnsupported,
            TunError::Attach { source, .. } | TunError::Set { source, .. } => match source {
                Errno::EPERM | Errno::EACCES => Reason::NetPermission,
                Errno::EBUSY | Errno::EINVAL | Errno::EEXIST => Reason::NetConflict,
                _ => Reason::NetApplyFailed,
            },
        }
    }
}

/// What to look at when the driver's file was not opened.
fn advice_on_driver(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            "; try `modprobe tun`, in a container pass the device in"
        }
        Errno::EACCES | Errno::EPERM => "; root may, in a container when the device is passed in",
        Errno::EMFILE | Errno::ENFILE => "; there is no descriptor left",
        _ => "",
    }
}

/// What to look at when the kernel refused a device (`tun_set_iff` in drivers/net/tun.c).
fn advice_on_name(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => "; CAP_NET_ADMIN is needed",
        Errno::EBUSY => "; another program has it",
        Errno::EINVAL | Errno::EEXIST => {
            "; a link of another kind has this name, or the kernel keeps it (all, default)"
        }
        _ => "",
    }
}

/// How a device shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Each packet is preceded by a `struct virtio_net_hdr` (10 bytes), which segmentation
    /// offload needs.
    pub vnet_hdr: bool,
    /// Reads answer `EAGAIN` instead of waiting, as `tokio::io::unix::AsyncFd` needs it.
    pub nonblocking: bool,
    /// Several file descriptors may be opened on the device, one per queue.
    pub multi_queue: bool,
    /// The device stays when the file descriptor is closed.
    pub persist: bool,
}

/// A link of IP packets.
#[derive(Debug)]
pub struct Tun(Device);

/// A link of Ethernet frames.
#[derive(Debug)]
pub struct Tap(Device);

#[derive(Debug)]
struct Device {
    fd: OwnedFd,
    name: LinkName,
    index: u32,
}

macro_rules! device {
    ($type:ident, $flag:expr) => {
        impl $type {
            /// Makes the device `name` in the calling thread's network namespace, or joins it
            /// when it is persistent or has several queues. It is down at first.
            ///
            /// # Errors
            /// No driver, no rights, or the name is taken.
            pub fn open(name: &LinkName, options: Options) -> Result<Self, TunError> {
                Device::open(name, options, $flag).map($type)
            }

            /// Its name.
            pub fn name(&self) -> &LinkName {
                &self.0.name
            }

            /// Its index in its network namespace.
            pub fn index(&self) -> u32 {
                self.0.index
            }

            /// The file descriptor, for reading and writing one packet at a time.
            pub fn into_fd(self) -> OwnedFd {
                self.0.fd
            }

            /// For an asynchronous program; the device must be [`Options::nonblocking`]. Needs a
            /// tokio runtime.
            ///
            /// # Errors
            /// The runtime does not take the descriptor.
            pub fn into_async(self) -> io::Result<AsyncFd<OwnedFd>> {
                crate::readiness::register(self.0.fd)
            }

            /// Says which offloads the program at this end copes with: a union of the
            /// `TUN_F_*` bits of `linux/if_tun.h`. Needs [`Options::vnet_hdr`].
            ///
            /// # Errors
            /// The kernel does not know one of them.
            pub fn set_offload(&self, flags: u32) -> Result<(), TunError> {
                // SAFETY: TUNSETOFFLOAD takes an integer, no pointer; the descriptor is open.
                unsafe { ioctl::set_offload(self.0.fd.as_raw_fd(), flags.into()) }
                    .map(drop)
                    .map_err(|source| self.0.fail("the offloads", source))
            }

            /// Whether the device stays when the file descriptor is closed.
            ///
            /// # Errors
            /// The kernel refuses.
            pub fn set_persist(&self, persist: bool) -> Result<(), TunError> {
                self.0.set_persist(persist)
            }
        }

        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.fd.as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $type {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.0.fd.as_raw_fd()
            }
        }
    };
}

device!(Tun, libc::IFF_TUN);
device!(Tap, libc::IFF_TAP);

impl Device {
    fn open(name: &LinkName, options: Options, kind: libc::c_int) -> Result<Self, TunError> {
        let mut open_flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        open_flags.set(OFlag::O_NONBLOCK, options.nonblocking);
        let fd = open(TUN_DEVICE, open_flags, Mode::empty()).map_err(TunError::NoDriver)?;

        let mut flags = kind | libc::IFF_NO_PI;
        for (wanted, flag) in
            [(options.vnet_hdr, libc::IFF_VNET_HDR), (options.multi_queue, libc::IFF_MULTI_QUEUE)]
        {
            if wanted {
                flags |= flag;
            }
        }
        let mut ifname = [0; libc::IFNAMSIZ];
        for (to, from) in ifname.iter_mut().zip(name.as_str().bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let request = libc::ifreq {
            ifr_name: ifname,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "TUN's flags are 16 bits wide"
                )]
                ifru_flags: flags as libc::c_short,
            },
        };
        let pointer: *const libc::ifreq = &raw const request;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq` at this address, which is alive
        // until the call returns; we do not use what it writes, as the name has no pattern.
        unsafe { ioctl::set_iff(fd.as_raw_fd(), pointer as libc::c_ulong) }
            .map_err(|source| TunError::Attach { name: name.clone(), source })?;

        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|source| TunError::Index { name: name.clone(), source })?;
        let device = Device { fd, name: name.clone(), index };
        if options.persist {
            device.set_persist(true)?;
        }
        Ok(device)
    }

    fn set_persist(&self, persist: bool) -> Result<(), TunError> {
        // SAFETY: TUNSETPERSIST takes an integer, no pointer; the descriptor is open.
        unsafe { ioctl::set_persist(self.fd.as_raw_fd(), persist.into()) }
            .map(drop)
            .map_err(|source| self.fail("persistence", source))
    }

    fn fail(&self, what: &'static str, source: Errno) -> TunError {
        TunError::Set { name: self.name.clone(), what, source }
    }
}
