//! The UDP socket of a device: many datagrams in and out by one system call (udp(7), `UDP_SEGMENT`
//! and `UDP_GRO`).
//!
//! Fails: opening it, for the caller to report. What cannot be sent is dropped and told at debug
//! level; where the kernel takes no runs they are sent one by one.

use super::engine::Datagrams;
use super::inner::ecn::Ecn;
use super::letters::Letters;
use super::memory::{Chunk, Places};
use super::outbox::{Fragments, Network, Run, Way};
use super::sys::{self, Envelope, MOST_MESSAGES};
use crate::udp;
use crate::wake::{Deadline, wait};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest piece that the kernel gives or takes.
pub(super) const SLOT_BYTES: usize = 65_536;
/// Pieces of one call: more than the nearest caches hold would only be fetched twice.
const TURN_BYTES: usize = 512 * 1024;
/// Fewest pieces of one call.
const LEAST_MESSAGES: usize = 4;
/// What the sending queue may take to have room again, before what does not fit is dropped.
const QUEUE_PATIENCE: Duration = Duration::from_millis(5);
/// Seconds after which runs are tried again to where they were refused.
const TRY_RUNS_AGAIN: u32 = 600;
/// More places than that are not remembered.
const MOST_UNSPLIT: usize = 4096;
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

/// Sends runs of datagrams through a port.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) port: Arc<Port>,
    /// To where the kernel takes no runs: the way has a smaller MTU, or no checksums of its own.
    unsplit: BTreeSet<SocketAddr>,
    since_tried: u32,
    /// Whoever sends may wait for room once in a turn.
    has_waited: bool,
}

impl Wire {
    pub(super) fn new(port: Arc<Port>) -> Self {
        Wire { port, unsplit: BTreeSet::new(), since_tried: 0, has_waited: false }
    }

    /// Called before each turn.
    pub(super) fn begin_turn(&mut self) {
        self.has_waited = false;
    }

    /// Called about once a second while packets pass: ways change, and after a while runs are tried
    /// again.
    pub(super) fn try_again(&mut self) {
        self.since_tried += 1;
        if self.since_tried >= TRY_RUNS_AGAIN || self.unsplit.len() > MOST_UNSPLIT {
            self.since_tried = 0;
            self.unsplit.clear();
        }
    }

    /// Sends these, each as one call's message; gives how many were taken.
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
        sys::send(self.port.as_fd(), &datagrams[..count], &mut envelopes[..count])
    }

    fn envelope(&self, run: &Run) -> Envelope {
        let mut envelope = Envelope::to(udp::address_for(self.port.is_v6, run.way.to));
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

    /// Sends runs of which none is known to be refused.
    fn send_runs(&mut self, memory: &[u8], runs: &[Run]) {
        let mut rest = runs;
        while let Some(first) = rest.first() {
            let taken = match self.send_some(memory, rest) {
                Ok(taken) => taken.max(1),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => 0,
                    Some(Errno::EAGAIN) if self.wait_for_room() => 0,
                    // To older kernels also what is larger than the way's MTU is invalid: what
                    // it is the first datagram shows.
                    Some(Errno::EINVAL)
                        if first.way.from.is_some()
                            && first.range.len() > first.segment
                            && self.takes_first(memory, first) =>
                    {
                        tracing::debug!(to = %first.way.to, "a run is sent one by one");
                        self.unsplit.insert(first.way.to);
                        let others: Vec<Run> = first.singles().skip(1).collect();
                        self.send_runs(memory, &others);
                        1
                    }
                    // Our address that the peer knows is gone, as after a new lease. It learns
                    // the next one by this very datagram.
                    Some(Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ENETUNREACH)
                        if first.way.from.is_some() =>
                    {
                        let way = Way { from: None, ..first.way };
                        self.send_runs(memory, &[first.by(way)]);
                        1
                    }
                    // Larger than the way's MTU as the kernel has learned it, or a way out that
                    // sums nothing up. One by one they may pass, if need be in fragments.
                    Some(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP)
                        if first.range.len() > first.segment =>
                    {
                        tracing::debug!(to = %first.way.to, %error, "a run is sent one by one");
                        self.unsplit.insert(first.way.to);
                        let singles: Vec<Run> = first.singles().collect();
                        self.send_runs(memory, &singles);
                        1
                    }
                    _ => {
                        let (to, bytes) = (first.way.to, first.range.len());
                        tracing::debug!(%to, bytes, %error, "datagrams not sent");
                        1
                    }
                },
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Sends the first datagram of a run alone.
    fn takes_first(&self, memory: &[u8], run: &Run) -> bool {
        let first: Vec<Run> = run.singles().take(1).collect();
        self.send_some(memory, &first).is_ok()
    }

    /// Sends a datagram that must not be cut, whatever the kernel has learned of the way; one that
    /// the way out itself does not take is lost. The socket has no such mark for a single datagram
    /// of IPv4, so it has it for the moment.
    fn send_whole(&mut self, memory: &[u8], run: &Run) {
        let v6 = self.port.is_v6 && !matches!(run.way.to.ip().to_canonical(), IpAddr::V4(_));
        let port = self.port.as_fd();
        let sent = sys::set_fragments(port, v6, false)
            .and_then(|()| self.send_some(memory, std::slice::from_ref(run)));
        if let Err(error) = sent {
            tracing::debug!(to = %run.way.to, bytes = run.range.len(), %error, "not sent whole");
        }
        if let Err(error) = sys::set_fragments(port, v6, true) {
            tracing::warn!(%error, "datagrams stay whole from now on");
        }
    }

    /// Waits until the queue takes more, once in a turn: whoever else has something to do must not
    /// wait for a way out that stands still.
    fn wait_for_room(&mut self) -> bool {
        if std::mem::replace(&mut self.has_waited, true) {
            return false;
        }
        let mut fds = [PollFd::new(self.port.as_fd(), PollFlags::POLLOUT)];
        let deadline = Deadline::at(Some(Instant::now() + QUEUE_PATIENCE));
        wait(&mut fds, deadline).is_ok() && fds[0].any().unwrap_or(false)
    }
}

impl Network for Wire {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        if runs.iter().any(|run| run.fragments == Fragments::Forbidden) {
            let (whole, others): (Vec<Run>, Vec<Run>) =
                runs.iter().cloned().partition(|run| run.fragments == Fragments::Forbidden);
            whole.iter().flat_map(Run::singles).for_each(|run| self.send_whole(memory, &run));
            return self.send(memory, &others);
        }
        if runs.iter().any(|run| self.unsplit.contains(&run.way.to)) {
            let singles = |run: &Run| -> Vec<Run> {
                let known = self.unsplit.contains(&run.way.to);
                if known { run.singles().collect() } else { vec![run.clone()] }
            };
            let runs: Vec<Run> = runs.iter().flat_map(singles).collect();
            self.send_runs(memory, &runs);
        } else {
            self.send_runs(memory, runs);
        }
    }
}
