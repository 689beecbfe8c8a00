//! The system calls that no crate offers as they are needed here: many datagrams at once, each
//! with what belongs to it (recvmmsg(2), sendmmsg(2), cmsg(3)), whether they may be cut, a link's
//! MTU, memory from pages of a chosen size (mmap(2)), and descriptors that tokio waits on.
//!
//! All `unsafe` of this crate is here. What the kernel reads and writes is memory that the caller
//! lends for the call; which bytes of it mean what is decided outside, by safe code.
#![allow(unsafe_code)]

use nix::libc;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// Messages of one call.
pub(super) const MOST_MESSAGES: usize = 32;
/// `struct sockaddr_in6`, the larger of both.
pub(super) const ADDRESS_BYTES: usize = 28;
const ADDRESS_ROOM: u32 = 28;
/// Where chunks begin; no kernel has smaller pages.
const PAGE_BYTES: usize = 4096;
/// A segment's length, marks, and an address with its link: 24, 24 and 40 bytes.
pub(super) const CONTROL_BYTES: usize = 128;

/// What belongs to a datagram besides its bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Envelope {
    /// Control messages, aligned as the kernel has them.
    pub(super) control: [u8; CONTROL_BYTES],
    /// How many of these bytes there are.
    pub(super) control_bytes: usize,
    /// The address, as `struct sockaddr_in` or `sockaddr_in6`.
    pub(super) address: [u8; ADDRESS_BYTES],
    /// How many of these bytes there are.
    pub(super) address_bytes: u32,
    /// Bytes of the datagram, of a received one.
    pub(super) bytes: usize,
}

impl Default for Envelope {
    fn default() -> Self {
        Envelope {
            control: [0; CONTROL_BYTES],
            control_bytes: 0,
            address: [0; ADDRESS_BYTES],
            address_bytes: 0,
            bytes: 0,
        }
    }
}

/// The headers of one call. They point into envelopes and slices of the caller, which outlive
/// the call and not the headers.
struct Headers([MaybeUninit<libc::mmsghdr>; MOST_MESSAGES]);

impl Headers {
    fn new() -> Self {
        Headers([const { MaybeUninit::uninit() }; MOST_MESSAGES])
    }

    fn set(
        &mut self,
        index: usize,
        envelope: &mut Envelope,
        (address_bytes, control_bytes): (u32, usize),
        iov: *mut libc::iovec,
    ) {
        let mut header = MaybeUninit::<libc::mmsghdr>::zeroed();
        let at = header.as_mut_ptr();
        // SAFETY: all zeros are a valid `mmsghdr`; the pointers are to memory that the caller
        // borrows until the system call that uses them has returned.
        unsafe {
            (*at).msg_hdr.msg_name = envelope.address.as_mut_ptr().cast();
            (*at).msg_hdr.msg_namelen = address_bytes;
            (*at).msg_hdr.msg_iov = iov;
            (*at).msg_hdr.msg_iovlen = 1;
            (*at).msg_hdr.msg_control = envelope.control.as_mut_ptr().cast();
            (*at).msg_hdr.msg_controllen = control_bytes;
        }
        self.0[index] = header;
    }
}

/// Receives what is there, one datagram into each of `buffers`, and writes what belongs to it
/// into `envelopes`; gives how many, at least one.
///
/// # Errors
/// `WouldBlock` when there is none, and what recvmmsg(2) says.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffers: &mut [IoSliceMut<'_>],
    envelopes: &mut [Envelope],
) -> io::Result<usize> {
    let count = buffers.len().min(envelopes.len()).min(MOST_MESSAGES);
    let mut headers = Headers::new();
    let each = buffers.iter_mut().zip(envelopes.iter_mut()).take(count);
    for (index, (buffer, envelope)) in each.enumerate() {
        let iov: *mut IoSliceMut<'_> = buffer;
        let room = (ADDRESS_ROOM, CONTROL_BYTES);
        headers.set(index, envelope, room, iov.cast());
    }
    // SAFETY: the first `count` headers are set; each points to one `IoSliceMut`, which has the
    // layout of `struct iovec`, and to an address and a control buffer of the lengths given. All
    // are borrowed mutably until this returns.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.0.as_mut_ptr().cast(),
            libc::c_uint::try_from(count).unwrap_or(0),
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (header, envelope) in headers.0.iter().zip(envelopes).take(received) {
        // SAFETY: the first `count` headers were set above, and the kernel filled these in.
        let header = unsafe { header.assume_init_ref() };
        envelope.bytes = header.msg_len as usize;
        envelope.address_bytes = header.msg_hdr.msg_namelen;
        envelope.control_bytes = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
    }
    Ok(received)
}

/// Sends each of `datagrams` as its envelope says; gives how many were taken, at least one.
///
/// # Errors
/// What sendmmsg(2) says of the first.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    datagrams: &[IoSlice<'_>],
    envelopes: &mut [Envelope],
) -> io::Result<usize> {
    let count = datagrams.len().min(envelopes.len()).min(MOST_MESSAGES);
    let mut headers = Headers::new();
    let each = datagrams.iter().zip(envelopes.iter_mut()).take(count);
    for (index, (datagram, envelope)) in each.enumerate() {
        let iov: *const IoSlice<'_> = datagram;
        let lengths = (envelope.address_bytes, envelope.control_bytes.min(CONTROL_BYTES));
        headers.set(index, envelope, lengths, iov.cast_mut().cast());
    }
    // SAFETY: the first `count` headers are set; each points to one `IoSlice`, which has the
    // layout of `struct iovec` and which sendmmsg only reads, and to an envelope that is borrowed.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.0.as_mut_ptr().cast(),
            libc::c_uint::try_from(count).unwrap_or(0),
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What the kernel does with datagrams of `socket` that are larger than it knows the way to take
/// (`IP_MTU_DISCOVER` of ip(7), `IPV6_MTU_DISCOVER` of ipv6(7)); a socket for both families has both.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn set_fragments(socket: BorrowedFd<'_>, v6: bool, allowed: bool) -> io::Result<()> {
    let (level, option, value) = match (v6, allowed) {
        (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT),
        (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
        (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    let value: libc::c_int = value;
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the kernel reads one int, which lives until this returns.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The MTU of the link `name` in the network namespace of `socket`, in bytes (netdevice(7)).
///
/// # Errors
/// There is none of this name.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<usize> {
    let mut request = MaybeUninit::<libc::ifreq>::zeroed();
    let name = name.bytes().take(libc::IFNAMSIZ - 1);
    // SAFETY: all zeros are a valid `ifreq`, whose name ends with the zero that is left.
    let mtu = unsafe {
        let request = request.assume_init_mut();
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut *request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_mtu
    };
    usize::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Registers `fd` with the runtime of the calling task.
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same until it is dropped, and `AsyncFd` deregisters it
    // before that.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Memory that was mapped at once, and is given back when its last [`Chunk`] is gone.
#[derive(Debug)]
struct Region {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: a region is only an address and a length; its bytes are reached through chunks alone.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this was mapped with this length, and no chunk of it is left.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// A part of a region that nobody else has; zeros at first.
#[derive(Debug)]
pub(crate) struct Chunk {
    start: NonNull<u8>,
    bytes: usize,
    /// None of one that has no bytes.
    _region: Option<Arc<Region>>,
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk { start: NonNull::dangling(), bytes: 0, _region: None }
    }
}

// SAFETY: it is the only way to its bytes, as a `Box<[u8]>` would be.
unsafe impl Send for Chunk {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Chunk {}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `bytes` are within the region, which lives as long as this; the
        // kernel gave it as zeros, and no other chunk overlaps it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; borrowed mutably, so there is no other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

/// Maps chunks of these lengths, one behind the other, each beginning at a multiple of 4 KiB, from
/// pages of `1 << huge` bytes, or of the usual size. Core dumps leave them out: packets are in them.
///
/// # Errors
/// What mmap(2) says: `ENOMEM` where the pool of such pages has none left.
pub(super) fn map(lengths: &[usize], huge: Option<u32>) -> io::Result<Vec<Chunk>> {
    let places = lengths.iter().map(|bytes| bytes.next_multiple_of(PAGE_BYTES));
    let all: usize = places.clone().sum();
    let page = huge.map_or(PAGE_BYTES, |log| 1 << log);
    let bytes = all.max(1).next_multiple_of(page);
    let pages = huge.map_or(0, |log| {
        let size = (log << libc::MAP_HUGE_SHIFT).to_ne_bytes();
        libc::MAP_HUGETLB | libc::c_int::from_ne_bytes(size)
    });
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | pages;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place that the kernel chooses touches no memory in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, flags, -1, 0) };
    let start = match NonNull::new(start) {
        Some(start) if start.as_ptr() != libc::MAP_FAILED => start,
        _ => return Err(io::Error::last_os_error()),
    };
    let region = Arc::new(Region { start, bytes });
    // Miri does not know this advice, which changes nothing that a program could see.
    if !cfg!(miri) {
        // SAFETY: advice about memory that was mapped just now; what it does not know it refuses.
        unsafe { libc::madvise(start.as_ptr(), bytes, libc::MADV_DONTDUMP) };
    }
    let mut offset = 0;
    let mut chunks = Vec::with_capacity(lengths.len());
    for (bytes, place) in lengths.iter().zip(places) {
        // SAFETY: the sum of all places is at most the region's length, so this stays within.
        let start = unsafe { start.cast::<u8>().add(offset) };
        chunks.push(Chunk { start, bytes: *bytes, _region: Some(Arc::clone(&region)) });
        offset += place;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what is to be sent and writes what was received as the kernel does: through the
    /// pointers. So it can be looked at where there is no kernel.
    #[test]
    fn headers_lead_to_what_was_lent_and_to_nothing_else() {
        let mut memory = [[1; 5], [2; 5]];
        let mut envelopes = [Envelope::default(); 2];
        let mut headers = Headers::new();
        let mut slices = memory.each_mut().map(|bytes| IoSliceMut::new(bytes));
        for (index, (slice, envelope)) in slices.iter_mut().zip(&mut envelopes).enumerate() {
            envelope.address = [3; ADDRESS_BYTES];
            let iov: *mut IoSliceMut<'_> = slice;
            headers.set(index, envelope, (ADDRESS_ROOM, CONTROL_BYTES), iov.cast());
        }
        for (header, n) in headers.0.iter_mut().zip(1u8..).take(2) {
            // SAFETY: it was set above, and what it points to is borrowed still.
            unsafe {
                let header = header.assume_init_mut();
                let libc::msghdr { msg_name, msg_iov, msg_control, .. } = header.msg_hdr;
                let name: *mut u8 = msg_name.cast();
                assert_eq!(name.add(ADDRESS_BYTES - 1).read(), 3);
                name.write_bytes(4, ADDRESS_BYTES);
                msg_control.cast::<u8>().write_bytes(5, CONTROL_BYTES);
                let libc::iovec { iov_base, iov_len } = msg_iov.read();
                assert_eq!((iov_len, iov_base.cast::<u8>().read()), (5, n));
                iov_base.cast::<u8>().write_bytes(6, iov_len);
                header.msg_len = 5;
            }
        }
        assert!(slices.iter().all(|slice| **slice == [6; 5]));
        for envelope in envelopes {
            assert_eq!(
                (envelope.address, envelope.control),
                ([4; ADDRESS_BYTES], [5; CONTROL_BYTES])
            );
            assert_eq!((envelope.bytes, envelope.control_bytes), (0, 0));
        }
    }

    #[test]
    fn chunks_are_apart_and_outlive_each_other() {
        let lengths = [1, 70_000, 0, 4096, 5000];
        let mut chunks = map(&lengths, None).unwrap();
        for (chunk, n) in chunks.iter_mut().zip(1u8..) {
            assert!(chunk.iter().all(|byte| *byte == 0));
            chunk.fill(n);
        }
        assert!(chunks.iter().map(|chunk| chunk.len()).eq(lengths));
        let mut kept = chunks.remove(1);
        drop(chunks);
        assert!(kept.iter().all(|byte| *byte == 2));
        kept[69_999] = 9;
        assert_eq!(std::thread::spawn(move || kept[69_999]).join().unwrap(), 9);
        assert!(map(&[], None).unwrap().is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no huge pages")]
    fn a_pool_without_pages_says_so() {
        // No machine has pages of 2 to the power of 60 bytes.
        assert!(map(&[1], Some(60)).is_err());
    }
}
