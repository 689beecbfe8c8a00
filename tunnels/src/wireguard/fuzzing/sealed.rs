//! What is sealed and opened in a session, whose keys are always the same: a session of a real
//! handshake would be another one each time.

use super::{OURS, THEIRS, Wire, device, there};
use crate::wireguard::aead::PacketKey;
use crate::wireguard::engine::{Datagrams, Engine};
use crate::wireguard::inner::ecn::{Ecn, decapsulate};
use crate::wireguard::inner::packet::{IpHeader, set_ecn};
use crate::wireguard::message::{DATA_HEADER_BYTES, Message, data_header};
use crate::wireguard::noise::SessionKeys;
use crate::wireguard::outbox::Outbox;
use crate::wireguard::replay::WINDOW;
use crate::wireguard::session::{REJECT_AFTER_MESSAGES, Session};
use crate::wireguard::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Of what goes from us to them, and back.
const FORTH: [u8; 32] = [0x33; 32];
const BACK: [u8; 32] = [0x44; 32];
/// How either addresses it: the first peer's first index.
const INDEX: u32 = 1;
/// How packets are changed on their way: of the first byte that stands before each.
const FROM_END: u8 = 1;
const TWICE: u8 = 1 << 1;
const LAST_NUMBERS: u8 = 1 << 2;
const ELSEWHERE: u8 = 1 << 3;
const A_MINUTE_LATER: u8 = 1 << 4;

/// We and they, in a session that we began and of which they have heard nothing yet.
pub(super) fn in_session(is_ours: bool, now: Instant) -> Engine {
    let (own, other) = if is_ours { (OURS, THEIRS) } else { (THEIRS, OURS) };
    let (mut engine, peer) = device(own, other, now);
    let (send, receive) = if is_ours { (FORTH, BACK) } else { (BACK, FORTH) };
    let keys = SessionKeys { send: Zeroizing::new(send), receive: Zeroizing::new(receive) };
    engine.begin_session(&peer, Session::new(keys, (INDEX, INDEX), is_ours, now), now);
    engine
}

/// What is in datagrams of ours, which are numbered as they come and all authentic.
///
/// # Panics
/// They are not.
pub(super) fn open(wire: &Wire) -> Vec<Vec<u8>> {
    let key = PacketKey::new(Zeroizing::new(FORTH)).ready();
    let texts = (0..).zip(&wire.0).map(|(number, datagram)| {
        let receiver = INDEX;
        assert_eq!(Message::parse(datagram), Some(Message::Data { receiver, counter: number }));
        let mut sealed = datagram.get(DATA_HEADER_BYTES..).unwrap_or_default().to_vec();
        let bytes = key.as_ref().and_then(|key| key.open(number, &mut sealed));
        assert!(bytes.is_some(), "number {number} of {} was not sealed", wire.0.len());
        sealed.truncate(bytes.unwrap_or_default());
        sealed
    });
    texts.collect()
}

/// What became of packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// They were passed on.
    pub(super) passed: usize,
    /// They were seen before, or are too old to tell.
    pub(super) replayed: usize,
    /// They are not authentic, or of no session.
    pub(super) refused: usize,
    /// They are nothing that can be passed on.
    pub(super) dropped: usize,
}

/// A packet that we seal, and how it is changed on its way.
struct Record<'a> {
    how: u8,
    /// A place, and what to flip there.
    change: (usize, u8),
    number: u64,
    packet: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first one, and what is behind it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[how, at, flip, c0, c1, n0, n1], rest) = bytes.split_first_chunk()?;
        let base = if how & LAST_NUMBERS == 0 { 0 } else { u64::MAX - u64::from(u16::MAX) };
        let number = base + u64::from(u16::from_le_bytes([c0, c1]));
        let length = usize::from(u16::from_le_bytes([n0, n1]));
        let (packet, rest) = rest.split_at(length.min(rest.len()));
        Some((Record { how, change: (at.into(), flip), number, packet }, rest))
    }

    fn has(&self, flag: u8) -> bool {
        self.how & flag != 0
    }

    /// As it comes to them, and whether it is for their session with us and nobody has changed it.
    fn seal(&self, key: &PacketKey) -> (Vec<u8>, bool) {
        let receiver = if self.has(ELSEWHERE) { INDEX + 1 } else { INDEX };
        let mut text = self.packet.to_vec();
        let tag = key.ready().and_then(|key| key.seal(self.number, &mut text));
        let header = data_header(receiver, self.number);
        let mut datagram = [&header[..], &text, &tag.unwrap_or_default()].concat();
        let (at, flip) = self.change;
        let at = if self.has(FROM_END) { datagram.len().checked_sub(1 + at) } else { Some(at) };
        let changed = at.and_then(|at| datagram.get_mut(at)).map(|byte| *byte ^= flip);
        (datagram, receiver == INDEX && (changed.is_none() || flip == 0))
    }
}

/// What they must make of it, said in the simplest way.
struct Model {
    ecn: Ecn,
    ends_at: Instant,
    seen: BTreeSet<u64>,
    counts: Counts,
    passed: Vec<Vec<u8>>,
}

impl Model {
    fn take(&mut self, record: &Record<'_>, is_whole: bool, now: Instant) {
        let next = self.seen.last().map_or(0, |greatest| greatest + 1);
        let number = record.number;
        if !is_whole || now >= self.ends_at {
            self.counts.refused += 1;
        } else if number >= REJECT_AFTER_MESSAGES
            || number.saturating_add(WINDOW) < next
            || !self.seen.insert(number)
        {
            self.counts.replayed += 1;
        } else if let Some(ip) = IpHeader::parse(record.packet)
            && let Some(ecn) = decapsulate(self.ecn, ip.ecn)
        {
            let mut packet = record.packet.get(..ip.total_bytes).unwrap_or_default().to_vec();
            if ecn != ip.ecn {
                set_ecn(&mut packet, ecn);
            }
            self.counts.passed += 1;
            self.passed.push(packet);
        } else {
            self.counts.dropped += 1;
        }
    }
}

/// What comes to them, in pieces as the kernel gives it.
struct Arrivals {
    engine: Engine,
    outbox: Outbox<Wire>,
    ecn: Ecn,
    now: Instant,
    memory: Vec<u8>,
    /// Of the last piece, which they have not taken yet.
    piece: Vec<Vec<u8>>,
    passed: Vec<Vec<u8>>,
}

impl Arrivals {
    fn push(&mut self, datagram: &[u8]) {
        let segment = self.piece.first().map_or(datagram.len(), Vec::len);
        let is_full = self.piece.last().is_some_and(|last| last.len() < segment);
        if is_full || datagram.len() > segment {
            self.take();
        }
        self.piece.push(datagram.to_vec());
    }

    fn take(&mut self) {
        let Some(segment) = self.piece.first().map(Vec::len) else { return };
        let begin = self.memory.len();
        self.memory.extend(self.piece.drain(..).flatten());
        let (ecn, range) = (self.ecn, begin..self.memory.len());
        let datagrams = Datagrams { at: None, from: there(), ecn, range, segment };
        let mut resident = |packet: &[u8]| {
            self.passed.push(packet.to_vec());
            false
        };
        let Arrivals { engine, outbox, memory, now, .. } = self;
        engine.take_datagrams(memory, &datagrams, outbox, &mut resident, *now);
    }
}

/// Packets that we seal, each behind seven bytes: how it is changed, a place and what to flip there,
/// its number and its length. They take those that are whole and new, in their order.
pub(super) fn packets(ecn: Ecn, bytes: &[u8]) -> Counts {
    let key = PacketKey::new(Zeroizing::new(FORTH));
    let now = Instant::now();
    let mut arrivals = Arrivals {
        engine: in_session(false, now),
        outbox: Outbox::alone(Wire::default()),
        ecn,
        now,
        memory: Vec::new(),
        piece: Vec::new(),
        passed: Vec::new(),
    };
    let mut model = Model {
        ecn,
        ends_at: now + REJECT_AFTER_TIME,
        seen: BTreeSet::new(),
        counts: Counts::default(),
        passed: Vec::new(),
    };
    let mut rest = bytes;
    while let Some((record, behind)) = Record::split(rest) {
        rest = behind;
        if record.has(A_MINUTE_LATER) {
            arrivals.take();
            arrivals.now += Duration::from_secs(60);
        }
        let (datagram, is_whole) = record.seal(&key);
        for _ in 0..=usize::from(record.has(TWICE)) {
            arrivals.push(&datagram);
            model.take(&record, is_whole, arrivals.now);
        }
    }
    arrivals.take();
    let Arrivals { mut engine, mut outbox, now, mut memory, passed, .. } = arrivals;
    let (some, all) = (passed.len(), model.passed.len());
    assert!(passed == model.passed, "{some} packets were passed on, not {all} or not these");
    let mut delivered = 0;
    engine.deliver(&mut memory[..], |slices| {
        delivered += slices.iter().skip(1).map(|slice| slice.len()).sum::<usize>();
    });
    assert_eq!(delivered > 0, all > 0);
    // What came is answered, if only by saying that it came.
    engine.timers(&mut outbox, now + KEEPALIVE_TIMEOUT);
    outbox.flush();
    assert!(outbox.network.0.iter().all(|datagram| Message::parse(datagram).is_some()));
    model.counts
}
