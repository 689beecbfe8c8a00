//! The link's end in this process.
//!
//! With a header before each packet (`IFF_VNET_HDR`, Documentation/networking/tuntap.rst) the
//! kernel hands over up to 64 KiB of TCP at once and takes as much. What a kernel lacks is left
//! out: USO came with 6.2.

use super::inner::join::Offers;
use super::inner::offload::{VNET_HEADER_BYTES, VnetHeader};
use super::layout::{Layout, MOST_PACKET_BYTES};
use netd::LinkName;
use netd::tuntap::{self, TunError};
use nix::errno::Errno;
use nix::sys::uio::{readv, writev};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `TUN_F_CSUM`, `TSO4`, `TSO6` and `TSO_ECN` of linux/if_tun.h.
const TUN_F_TCP: u32 = 0x01 | 0x02 | 0x04 | 0x08;
/// `TUN_F_USO4` and `TUN_F_USO6`.
const TUN_F_USO: u32 = 0x20 | 0x40;

/// The end of a link.
#[derive(Debug)]
pub struct LinkEnd {
    fd: OwnedFd,
    has_header: bool,
    offers: Offers,
}

impl LinkEnd {
    /// Makes the TUN device `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// No driver, no rights, or the name is taken.
    pub fn open(name: &LinkName) -> Result<Self, TunError> {
        let options = tuntap::Options { vnet_hdr: true, nonblocking: true, ..Default::default() };
        let tun = tuntap::Tun::open(name, options)?;
        let offers = if tun.set_offload(TUN_F_TCP | TUN_F_USO).is_ok() {
            Offers { tcp: true, udp: true }
        } else {
            let tcp = tun.set_offload(TUN_F_TCP).is_ok();
            Offers { tcp, udp: false }
        };
        Ok(LinkEnd { fd: tun.into_fd(), has_header: true, offers })
    }

    /// Of a descriptor that gives and takes one packet at a time, without a header. It must not
    /// block.
    pub fn plain(fd: OwnedFd) -> Self {
        LinkEnd { fd, has_header: false, offers: Offers::default() }
    }

    /// What the link takes.
    pub fn offers(&self) -> Offers {
        self.offers
    }

    /// Reads a packet to where `layout` has its parts in `room`, what is beyond into `spill`;
    /// gives its header and its bytes, or none when there is none now.
    pub(super) fn read(
        &self,
        layout: &Layout,
        room: &mut [u8],
        spill: &mut [u8],
    ) -> io::Result<Option<(VnetHeader, usize)>> {
        let mut header = [0; VNET_HEADER_BYTES];
        let head = if self.has_header { &mut header[..] } else { &mut [] };
        let head_bytes = head.len();
        let read = layout.scatter(room, spill, head, |slices| readv(&self.fd, slices));
        match read {
            // What the kernel was not told that we take is passed over.
            Ok(bytes) => Ok(Some((
                VnetHeader::parse(&header).unwrap_or_default(),
                bytes.saturating_sub(head_bytes).min(MOST_PACKET_BYTES),
            ))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            // EBADFD: the link was deleted under us.
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes a packet, the first slice being its header. What the link does not take is lost.
    pub(super) fn write(&self, packet: &[IoSlice<'_>]) {
        let slices = if self.has_header { packet } else { packet.get(1..).unwrap_or_default() };
        if let Err(error) = writev(&self.fd, slices) {
            tracing::debug!(%error, "packet not delivered");
        }
    }
}

impl AsFd for LinkEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
