//! The way in: datagrams become packets of the link, or move a handshake on.

use super::Engine;
use crate::wireguard::aead::PacketKey;
use crate::wireguard::cookie::Proof;
use crate::wireguard::initiations::Waiting;
use crate::wireguard::inner::ecn::{Ecn, decapsulate};
use crate::wireguard::inner::packet::{IpHeader, set_ecn};
use crate::wireguard::key::wipe_stack;
use crate::wireguard::letters::Letters;
use crate::wireguard::limiter::Verdict;
use crate::wireguard::memory::Places;
use crate::wireguard::message::{DATA_HEADER_BYTES, Message};
use crate::wireguard::outbox::{Network, Outbox, Way};
use crate::wireguard::peer::Taken;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

/// First messages that are answered at a time: less than two milliseconds.
const MOST_ANSWERED: usize = 8;

/// Datagrams of one length from one place, as the kernel gives them in one piece (`UDP_GRO`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagrams {
    /// To which of our addresses; none where the kernel does not say.
    pub(crate) at: Option<IpAddr>,
    /// Where from.
    pub from: SocketAddr,
    /// Their congestion marks.
    pub ecn: Ecn,
    /// Where they are in the memory that they were read to.
    pub range: Range<usize>,
    /// The bytes of each, 1 and more; of the last perhaps fewer.
    pub segment: usize,
}

impl Engine {
    /// Looks at what came in one piece: what is in there to be opened goes into `letters`.
    pub(crate) fn sort(
        &mut self,
        memory: &(impl Places + ?Sized),
        datagrams: &Datagrams,
        letters: &mut Letters,
        now: Instant,
    ) {
        letters.clear();
        let Some(piece) = memory.at(datagrams.range.clone()) else { return };
        let segment = datagrams.segment.max(1);
        for (datagram, start) in piece.chunks(segment).zip((0..).step_by(segment)) {
            let place = start..start + datagram.len();
            match Message::parse(datagram) {
                Some(Message::Data { receiver, counter }) => {
                    letters.push(place, (receiver, counter), || self.opening(receiver, now));
                }
                Some(_) => letters.push_other(place),
                // Not WireGuard: no answer to strangers.
                None => {}
            }
        }
    }

    /// Takes what came in one piece and was opened. Packets that `resident` does not take wait for
    /// [`Engine::deliver`], in `memory`.
    pub(crate) fn take<N: Network>(
        &mut self,
        memory: &mut (impl Places + ?Sized),
        (datagrams, letters): (&Datagrams, &Letters),
        outbox: &mut Outbox<N>,
        resident: &mut dyn FnMut(&[u8]) -> bool,
        now: Instant,
    ) {
        let from = datagrams.at.map(|at| at.to_canonical());
        let way = Way { to: canonical(datagrams.from), from };
        let mut arrival = Arrival { way, ecn: datagrams.ecn, last: None };
        for letter in &letters.list {
            let base = datagrams.range.start;
            let place = base + letter.place.start..base + letter.place.end;
            if let Some(packet) = &letter.packet {
                if let Some(text_bytes) = packet.text_bytes {
                    let packet = (packet.receiver, packet.counter, text_bytes);
                    self.data(&mut arrival, packet, memory, place, outbox, resident, now);
                }
                continue;
            }
            self.after_receiving(arrival.last.take(), outbox, now);
            let Some(datagram) = memory.at(place.clone()) else { return };
            match Message::parse(datagram) {
                // Of a session that the message before it has made.
                Some(Message::Data { receiver, counter }) => {
                    let key = self.opening(receiver, now).and_then(|key| key.ready());
                    let sealed = memory.at_mut(place.start + DATA_HEADER_BYTES..place.end);
                    let (Some(key), Some(sealed)) = (key, sealed) else { continue };
                    let Some(text_bytes) = key.open(counter, sealed) else { continue };
                    let packet = (receiver, counter, text_bytes);
                    self.data(&mut arrival, packet, memory, place, outbox, resident, now);
                }
                Some(message) => self.handshake(datagram, &message, way, outbox, now),
                None => {}
            }
        }
        self.after_receiving(arrival.last, outbox, now);
    }

    /// Sorts, opens and takes what came in one piece.
    pub(crate) fn take_datagrams<N: Network>(
        &mut self,
        memory: &mut [u8],
        datagrams: &Datagrams,
        outbox: &mut Outbox<N>,
        resident: &mut dyn FnMut(&[u8]) -> bool,
        now: Instant,
    ) {
        let mut letters = Letters::default();
        self.sort(memory, datagrams, &mut letters, now);
        letters.open(memory.get_mut(datagrams.range.clone()).unwrap_or_default());
        self.take(memory, (datagrams, &letters), outbox, resident, now);
    }

    /// Hands the packets that came to `deliver`, each as what one writev(2) takes.
    pub(crate) fn deliver(
        &mut self,
        memory: &mut (impl Places + ?Sized),
        deliver: impl FnMut(&[IoSlice<'_>]),
    ) {
        if !self.joiner.is_empty() {
            self.joiner.deliver(memory, deliver);
        }
    }

    fn opening(&mut self, receiver: u32, now: Instant) -> Option<PacketKey> {
        let peer = self.peers.get_mut((receiver >> 8) as usize)?.as_mut()?;
        peer.session(receiver)?.opening(now).cloned()
    }

    #[expect(clippy::too_many_arguments, reason = "one packet's way, in one place")]
    fn data<N: Network>(
        &mut self,
        arrival: &mut Arrival,
        (receiver, counter, text_bytes): (u32, u64, usize),
        memory: &mut (impl Places + ?Sized),
        place: Range<usize>,
        outbox: &mut Outbox<N>,
        resident: &mut dyn FnMut(&[u8]) -> bool,
        now: Instant,
    ) {
        let number = (receiver >> 8) as usize;
        if arrival.last != Some(number) {
            self.after_receiving(arrival.last.replace(number), outbox, now);
        }
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        let taken = peer.take(receiver, counter, now);
        if taken == Taken::Replayed {
            return;
        }
        peer.rx_bytes += place.len() as u64;
        peer.heard_from(arrival.way);
        peer.timers.authenticated_received(now);
        if taken == Taken::Confirms {
            self.send_staged(number, outbox, now);
        }
        // Empty: it only says that the peer is there.
        if text_bytes == 0 {
            return;
        }
        // Also of what is not passed on: the peer must not think that we are gone.
        if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) {
            peer.timers.data_received(now);
        }
        let start = place.start + DATA_HEADER_BYTES;
        let Some(packet) = memory.at_mut(start..start + text_bytes) else { return };
        let Some(ip) = IpHeader::parse(packet) else { return };
        if self.allowed.lookup(ip.source).map(|owner| owner as usize) != Some(number) {
            tracing::debug!(source = %ip.source, "a peer used an address that is not its own");
            return;
        }
        let Some(ecn) = decapsulate(arrival.ecn, ip.ecn) else { return };
        if ecn != ip.ecn {
            set_ecn(packet, ecn);
        }
        if !resident(&packet[..ip.total_bytes]) {
            self.joiner.push(memory, start..start + ip.total_bytes, &IpHeader { ecn, ..ip });
        }
    }

    fn after_receiving<N: Network>(
        &mut self,
        number: Option<usize>,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let Some(number) = number else { return };
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        if peer.is_stale_to_receive(now) {
            self.initiate(number, outbox, now);
        }
        self.keep_deadline(number);
    }

    fn handshake<N: Network>(
        &mut self,
        datagram: &[u8],
        message: &Message<'_>,
        way: Way,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let sender = match message {
            Message::Initiation { sender, .. } | Message::Response { sender, .. } => *sender,
            Message::CookieReply { receiver, nonce, sealed } => {
                let number = (receiver >> 8) as usize;
                if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut)
                    && peer.take_cookie(*receiver, nonce, sealed, now)
                {
                    peer.rx_bytes += datagram.len() as u64;
                }
                return;
            }
            Message::Data { .. } => return,
        };
        let proof = self.checker.check(datagram, way.to, now);
        let is_first = matches!(message, Message::Initiation { .. });
        // Nobody may take another's place who must show an address first.
        let is_credible =
            proof == Proof::Address || (proof == Proof::Key && !self.limiter.is_loaded(now));
        if is_first && is_credible && self.initiations.replace(way, datagram) {
            self.handshakes.taken += 1;
            return;
        }
        match self.limiter.judge(proof, way.to.ip(), self.keys.len(), now) {
            Verdict::Drop => {
                self.handshakes.dropped += 1;
                return;
            }
            Verdict::AskForCookie => {
                self.handshakes.cookies += 1;
                if let Some(reply) = self.checker.reply(datagram, sender, way.to, now) {
                    outbox.push(way, &reply);
                }
                return;
            }
            Verdict::Work => {}
        }
        match message {
            Message::Initiation { .. } => match self.initiations.push(way, datagram) {
                true => self.handshakes.taken += 1,
                false => self.handshakes.dropped += 1,
            },
            Message::Response { receiver, noise, .. } => {
                self.handshakes.taken += 1;
                let number = (receiver >> 8) as usize;
                let peer = self.peers.get_mut(number).and_then(Option::as_mut);
                let Some(peer) = peer else { return };
                let is_answer = peer.take_answer((sender, *receiver), noise, now);
                wipe_stack();
                if !is_answer {
                    return;
                }
                peer.heard_from(way);
                peer.rx_bytes += datagram.len() as u64;
                // Whoever began has to say something: the other side waits for that.
                if !self.send_staged(number, outbox, now) {
                    self.keepalive(number, outbox, now);
                }
                self.keep_deadline(number);
            }
            Message::CookieReply { .. } | Message::Data { .. } => {}
        }
    }

    /// Answers some of the first messages that wait.
    pub(super) fn answer_some<N: Network>(&mut self, outbox: &mut Outbox<N>, now: Instant) {
        for _ in 0..MOST_ANSWERED {
            let Some(Waiting { way, datagram }) = self.initiations.pop() else { return };
            self.answer(way, &datagram, outbox, now);
            wipe_stack();
        }
    }

    fn answer<N: Network>(
        &mut self,
        way: Way,
        datagram: &[u8],
        outbox: &mut Outbox<N>,
        now: Instant,
    ) -> Option<()> {
        let Message::Initiation { sender, noise } = Message::parse(datagram)? else { return None };
        let received = self.identity.as_ref()?.receive(noise).ok()?;
        let number = *self.keys.get(&received.peer)? as usize;
        let peer = self.peers.get_mut(number)?.as_mut()?;
        let response = peer.answer(received, sender, now)?;
        peer.heard_from(way);
        peer.rx_bytes += datagram.len() as u64;
        peer.tx_bytes += response.len() as u64;
        outbox.push(way, &response);
        self.keep_deadline(number);
        Some(())
    }
}

/// An IPv4 address that a socket of both families gave as one of IPv6; others keep their scope.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, from.port()),
        IpAddr::V6(_) => from,
    }
}

/// What packets came with, and whose the last one was.
struct Arrival {
    way: Way,
    ecn: Ecn,
    last: Option<usize>,
}
