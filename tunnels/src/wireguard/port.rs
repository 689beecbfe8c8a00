//! The UDP socket of a device: many datagrams in and out by one system call (udp(7), `UDP_SEGMENT`
//! and `UDP_GRO`).
//!
//! Fails: opening it, for the caller to report. What the kernel does not take is for [`super::wire`] to
//! deal with.

use super::engine::Datagrams;
use super::inner::ecn::Ecn;
use super::letters::Letters;
use super::memory::{Chunk, Places};
use super::outbox::Run;
use super::sys::{self, Envelope, MOST_MESSAGES};
use super::wire::Sender;
use crate::udp;
use crate::wake::{Deadline, wait};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The largest piece that the kernel gives or takes.
pub(super) const SLOT_BYTES: usize = 65_536;
/// Pieces of one call: more than the nearest caches hold would only be fetched twice.
const TURN_BYTES: usize = 512 * 1024;
/// Fewest pieces of one call.
const LEAST_MESSAGES: usize = 4;
/// Room for what arrives while the thread is busy: 5 ms at 10 Gbit/s.
const RECEIVE_BUFFER_BYTES: usize = 7 << 20;
/// The kernel says that there is room again when half of it is: soon, on a slow way.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// The UDP socket, and what would cost a system call to ask it.
#[derive(Debug)]
pub(super) struct Port {
    socket: UdpSocket,
    is_v6: bool,
    pub(super) number: u16,
}

impl Port {
    /// On `number` (0: the kernel chooses) of all addresses.
    pub(super) fn open(number: u16, mark: u32) -> io::Result<Self> {
        let socket = udp::open(number, mark)?;
        let address = socket.local_addr()?;
        let port = Port { socket, is_v6: address.is_ipv6(), number: address.port() };
        // Older kernels have none of these; then there are more system calls and no marks.
        let _ = setsockopt(&port.socket, sockopt::UdpGroSegment, &true);
        let socket = socket2::SockRef::from(&port.socket);
        let _ = socket.set_recv_tos_v4(true);
        if port.is_v6 {
            let _ = socket.set_recv_tclass_v6(true);
            let _ = setsockopt(&port.socket, sockopt::Ipv6RecvPacketInfo, &true);
        } else {
            let _ = setsockopt(&port.socket, sockopt::Ipv4PacketInfo, &true);
        }
        // Beyond the administrator's limit with CAP_NET_ADMIN only.
        let _ = setsockopt(&port.socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
        let _ = setsockopt(&port.socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES);
        Ok(port)
    }

    /// Has its datagrams carry another mark.
    pub(super) fn set_mark(&self, mark: u32) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_mark(mark)
    }
}

impl Port {
    fn envelope(&self, run: &Run) -> Envelope {
        let mut envelope = Envelope::to(udp::address_for(self.is_v6, run.way.to));
        if run.range.len() > run.segment {
            envelope.set_segment(u16::try_from(run.segment).unwrap_or(u16::MAX));
        }
        if run.ecn != Ecn::NotEct {
            envelope.set_ecn(run.ecn, run.way.to.ip());
        }
        if let Some(from) = run.way.from {
            envelope.set_source(from);
        }
        envelope
    }
}

impl Sender for Port {
    fn send_some(&self, memory: &[u8], runs: &[Run]) -> io::Result<usize> {
        let mut datagrams: [IoSlice<'_>; MOST_MESSAGES] =
            std::array::from_fn(|_| IoSlice::new(&[]));
        let mut envelopes = [Envelope::default(); MOST_MESSAGES];
        let mut count = 0;
        for run in runs.iter().take(MOST_MESSAGES) {
            datagrams[count] = IoSlice::new(memory.get(run.range.clone()).unwrap_or_default());
            envelopes[count] = self.envelope(run);
            count += 1;
        }
        sys::send(self.as_fd(), &datagrams[..count], &mut envelopes[..count])
    }

    fn set_fragments(&self, to: IpAddr, allowed: bool) -> io::Result<()> {
        let v6 = self.is_v6 && !matches!(to.to_canonical(), IpAddr::V4(_));
        sys::set_fragments(self.as_fd(), v6, allowed)
    }

    fn has_room(&self, patience: Duration) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        let deadline = Deadline::at(Some(Instant::now() + patience));
        wait(&mut fds, deadline).is_ok() && fds[0].any().unwrap_or(false)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Memory of one piece each.
#[derive(Debug)]
pub(super) struct Slots(Vec<Option<Chunk>>);

impl Slots {
    /// The memory of the slot where `place` begins, for a while.
    pub(super) fn lend(&mut self, place: &Range<usize>) -> Option<Chunk> {
        self.0.get_mut(place.start / SLOT_BYTES)?.take()
    }

    /// Takes back what was lent.
    pub(super) fn restore(&mut self, place: &Range<usize>, chunk: Chunk) {
        if let Some(slot) = self.0.get_mut(place.start / SLOT_BYTES) {
            *slot = Some(chunk);
        }
    }
}

impl Places for Slots {
    fn at(&self, place: Range<usize>) -> Option<&[u8]> {
        let slot = self.0.get(place.start / SLOT_BYTES)?.as_ref()?;
        let start = place.start % SLOT_BYTES;
        slot.get(start..start + place.len())
    }

    fn at_mut(&mut self, place: Range<usize>) -> Option<&mut [u8]> {
        let slot = self.0.get_mut(place.start / SLOT_BYTES)?.as_mut()?;
        let start = place.start % SLOT_BYTES;
        slot.get_mut(start..start + place.len())
    }
}

/// Where datagrams are received to.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) slots: Slots,
    envelopes: Box<[Envelope]>,
    /// What came, and what is in it.
    pub(super) datagrams: Vec<(Datagrams, Letters)>,
    most: usize,
    /// Used again.
    spare: Vec<Letters>,
}

impl Inbox {
    /// On slots of [`SLOT_BYTES`] each, as many as [`MOST_MESSAGES`].
    pub(super) fn new(slots: Vec<Chunk>) -> Self {
        Inbox {
            slots: Slots(slots.into_iter().map(Some).collect()),
            envelopes: vec![Envelope::default(); MOST_MESSAGES].into_boxed_slice(),
            datagrams: Vec::with_capacity(MOST_MESSAGES),
            most: MOST_MESSAGES,
            spare: Vec::new(),
        }
    }

    /// Receives what is there; true when there may be more.
    pub(super) fn receive(&mut self, port: &Port) -> bool {
        self.spare.extend(self.datagrams.drain(..).map(|(_, letters)| letters));
        let mut slots: [IoSliceMut<'_>; MOST_MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (slot, bytes) in slots.iter_mut().zip(&mut self.slots.0) {
            *slot = IoSliceMut::new(bytes.as_deref_mut().unwrap_or_default());
        }
        let received =
            match sys::receive(port.as_fd(), &mut slots[..self.most], &mut self.envelopes) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // ICMP errors about datagrams sent earlier say nothing about the socket.
                Err(error) => {
                    tracing::debug!(%error, "UDP receive");
                    return error.kind() == io::ErrorKind::Interrupted;
                }
            };
        let is_full = received == self.most;
        let mut largest = 1;
        for (slot, envelope) in self.envelopes[..received].iter().enumerate() {
            let Some(from) = envelope.from() else { continue };
            let (segment, ecn, at) = envelope.received();
            let start = slot * SLOT_BYTES;
            let bytes = envelope.bytes.min(SLOT_BYTES);
            largest = largest.max(bytes);
            let segment = segment.unwrap_or(bytes).max(1);
            let range = start..start + bytes;
            let letters = self.spare.pop().unwrap_or_default();
            self.datagrams.push((Datagrams { at, from, ecn, range, segment }, letters));
        }
        self.most = (TURN_BYTES / largest).clamp(LEAST_MESSAGES, MOST_MESSAGES);
        is_full
    }
}
