//! Datagrams on their way to the network, one behind the other in one piece of memory.
//!
//! A packet is read from the link to where its datagram will be, sealed there, and sent from
//! there. Datagrams of one length to one place become one run, which the kernel takes in one piece
//! (`UDP_SEGMENT`, udp(7)); the last of a run may be shorter.
//!
//! What is to be sealed waits in its [`Block`]. One that is full is handed to the helpers, where
//! there are some, while the next one is filled; blocks are sent in the order in which they were
//! filled.

use super::crew::Ticket;
use super::inner::ecn::Ecn;
use super::job::{Helpers, Job, Seal};
use super::memory::{self, Chunk, Pages};
use super::session::Sealing;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// `UDP_MAX_SEGMENTS` in include/linux/udp.h, of kernels before 6.9.
const MOST_SEGMENTS: usize = 64;
/// What fits into one datagram of IPv4, which is the bound of a run, too.
pub(crate) const MOST_RUN_BYTES: usize = 65_507;
/// Sent at the latest when there is so much: what was sealed is then still in the nearest cache.
const FULL_BYTES: usize = 61_440;
/// Room behind that for the largest packet of a link, in as many datagrams as it may become.
const ROOM_BYTES: usize = 160 * 1024;
/// The length of a block.
pub(crate) const BLOCK_BYTES: usize = FULL_BYTES + ROOM_BYTES;
/// Blocks that helpers may have at a time.
pub(crate) const MOST_HANDED: usize = 4;
/// Less is not worth to be handed out.
pub(crate) const LEAST_BYTES: usize = 16 * 1024;

/// The way between a peer and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Where the peer is.
    pub(crate) to: SocketAddr,
    /// Our address that it writes to, and expects our datagrams from; none: the routes choose.
    pub(crate) from: Option<IpAddr>,
}

/// Whether a datagram may be cut in pieces on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fragments {
    /// As the kernel has learned that it must be.
    #[default]
    Allowed,
    /// It arrives whole or not at all.
    Forbidden,
}

/// Datagrams of one length to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The way.
    pub way: Way,
    /// Their congestion marks.
    pub ecn: Ecn,
    /// Whether they may be cut.
    pub fragments: Fragments,
    /// Where they are.
    pub range: Range<usize>,
    /// The bytes of each, of the last perhaps fewer.
    pub segment: usize,
    count: usize,
}

impl Run {
    /// Each of its datagrams as a run.
    pub(crate) fn singles(&self) -> impl Iterator<Item = Run> {
        let starts = self.range.clone().step_by(self.segment.max(1));
        starts.map(|start| {
            let range = start..(start + self.segment).min(self.range.end);
            Run { segment: range.len(), range, count: 1, ..self.clone() }
        })
    }

    /// The same another way.
    pub(crate) fn by(&self, way: Way) -> Run {
        Run { way, ..self.clone() }
    }

    fn takes(&self, (way, ecn, fragments): (Way, Ecn, Fragments), bytes: usize) -> bool {
        let is_whole = self.range.len() == self.segment * self.count;
        is_whole
            && (self.way, self.ecn, self.fragments) == (way, ecn, fragments)
            && bytes <= self.segment
            && self.count < MOST_SEGMENTS
            && self.range.len() + bytes <= MOST_RUN_BYTES
    }
}

/// What takes them.
pub(crate) trait Network {
    /// Sends all runs, which are in `memory`. What cannot be sent is lost, as on any wire.
    fn send(&mut self, memory: &[u8], runs: &[Run]);
}

/// A piece of memory with datagrams, and what is to be done with them.
#[derive(Debug, Default)]
pub(crate) struct Block {
    memory: Chunk,
    used: usize,
    runs: Vec<Run>,
    seals: Vec<Seal>,
}

impl Block {
    fn new(memory: Chunk) -> Self {
        Block { memory, used: 0, runs: Vec::new(), seals: Vec::new() }
    }

    /// Seals what is to be sealed.
    pub(crate) fn seal(&mut self) {
        for seal in self.seals.drain(..) {
            seal.run(&mut self.memory);
        }
    }

    fn commit(&mut self, kind: (Way, Ecn, Fragments), bytes: usize) {
        let range = self.used..(self.used + bytes).min(self.memory.len());
        self.used = range.end;
        match self.runs.last_mut() {
            Some(run) if run.takes(kind, bytes) => {
                run.range.end = range.end;
                run.count += 1;
            }
            _ => {
                let (way, ecn, fragments) = kind;
                self.runs.push(Run { way, ecn, fragments, range, segment: bytes, count: 1 });
            }
        }
    }

    fn send(&mut self, network: &mut impl Network) {
        if !self.runs.is_empty() {
            network.send(&self.memory, &self.runs);
            self.runs.clear();
        }
        self.used = 0;
    }
}

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(crate) struct Outbox<N> {
    /// Whereto they go.
    pub network: N,
    /// Of what is committed from now on.
    pub fragments: Fragments,
    helpers: Helpers,
    /// The one that is being filled.
    block: Block,
    /// Those before it, the oldest first.
    handed: VecDeque<Ticket>,
    spare: Vec<Block>,
    /// A helper panicked, and what it sealed is gone.
    pub(crate) has_lost: bool,
}

impl<N: Network> Outbox<N> {
    /// An empty one, on chunks of [`BLOCK_BYTES`] each: one, and as many more as `helpers` may have
    /// at a time.
    pub(crate) fn new(network: N, helpers: Helpers, chunks: Vec<Chunk>) -> Self {
        let mut spare: Vec<Block> = chunks.into_iter().map(Block::new).collect();
        let block = spare.pop().unwrap_or_default();
        let fragments = Fragments::default();
        let handed = VecDeque::new();
        Outbox { network, fragments, helpers, block, handed, spare, has_lost: false }
    }

    /// An empty one without helpers, on memory of its own.
    pub(crate) fn alone(network: N) -> Self {
        let chunks = memory::take(&[BLOCK_BYTES], Pages::Usual);
        Self::new(network, None, chunks.map(|(chunks, _)| chunks).unwrap_or_default())
    }

    /// Where the next datagram will be; room for at least the largest packet.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.block.used >= FULL_BYTES {
            self.pass_on();
        }
        self.block.memory.get_mut(self.block.used..).unwrap_or_default()
    }

    /// The datagram that was written to the first `bytes` of [`Outbox::room`] goes this way.
    pub(crate) fn commit(&mut self, way: Way, ecn: Ecn, bytes: usize) {
        self.block.commit((way, ecn, self.fragments), bytes);
    }

    /// The packets that were written to [`Outbox::room`] go this way once they are sealed: `count`
    /// datagrams of `segment` bytes behind each other, the last one of `last`. Each packet is behind
    /// room for a header, is padded, and has room for a tag behind it. Gives the bytes of all.
    pub(crate) fn seal(
        &mut self,
        (way, ecn): (Way, Ecn),
        sealing: &Sealing,
        (segment, count, last): (usize, usize, usize),
    ) -> usize {
        let block = &mut self.block;
        let start = block.used;
        let seal = Seal::new(sealing, start, (segment, count, last));
        match block.seals.last_mut() {
            Some(before) if before.takes(&seal) => before.join(&seal),
            _ => block.seals.push(seal),
        }
        let kind = (way, ecn, self.fragments);
        for _ in 1..count {
            block.commit(kind, segment);
        }
        block.commit(kind, last);
        block.used - start
    }

    /// Sends a datagram that is elsewhere.
    pub(crate) fn push(&mut self, way: Way, datagram: &[u8]) {
        if let Some(room) = self.room().get_mut(..datagram.len()) {
            room.copy_from_slice(datagram);
            self.commit(way, Ecn::NotEct, datagram.len());
        }
    }

    /// Sends everything.
    pub(crate) fn flush(&mut self) {
        if !self.handed.is_empty() {
            if self.block.used >= LEAST_BYTES {
                self.pass_on();
            }
            while self.send_oldest() {}
        }
        self.block.seal();
        self.block.send(&mut self.network);
    }

    /// Makes room: the block goes to the helpers, or out.
    fn pass_on(&mut self) {
        if self.handed.len() == MOST_HANDED {
            self.send_oldest();
        }
        let next = self.helpers.as_ref().and_then(|helpers| Some((helpers, self.spare.pop()?)));
        match next {
            Some((helpers, spare)) => {
                let full = std::mem::replace(&mut self.block, spare);
                self.handed.push_back(helpers.hand(Job::Seal(full)));
            }
            None => {
                while self.send_oldest() {}
                self.block.seal();
                self.block.send(&mut self.network);
            }
        }
    }

    /// False when there is none.
    fn send_oldest(&mut self) -> bool {
        let Some(ticket) = self.handed.pop_front() else { return false };
        let Some(helpers) = &self.helpers else { return false };
        match helpers.back(ticket) {
            Some(Job::Seal(mut block)) => {
                block.send(&mut self.network);
                self.spare.push(block);
            }
            _ => self.has_lost = true,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::aead::PacketKey;
    use crate::wireguard::crew::Crew;
    use crate::wireguard::message::{DATA_HEADER_BYTES, Message, TAG_BYTES};
    use proptest::prelude::*;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    #[derive(Default)]
    struct Sent(Vec<(Way, Ecn, Vec<u8>)>, usize);

    impl Network for Sent {
        fn send(&mut self, memory: &[u8], runs: &[Run]) {
            self.1 += runs.len();
            for run in runs {
                let bytes = &memory[run.range.clone()];
                assert!(bytes.len() <= MOST_RUN_BYTES);
                assert!(bytes.len().div_ceil(run.segment) <= MOST_SEGMENTS);
                let parts = bytes.chunks(run.segment);
                self.0.extend(parts.map(|part| (run.way, run.ecn, part.to_vec())));
            }
        }
    }

    fn port(port: u16) -> Way {
        let from = port.is_multiple_of(2).then(|| [192, 0, 2, 9].into());
        Way { to: ([192, 0, 2, 1], port / 2).into(), from }
    }

    proptest! {
        #[test]
        fn every_datagram_goes_where_it_should_in_its_order(datagrams in proptest::collection::vec((0u16..4, 0u8..2, prop_oneof![Just(1452usize), 1usize..1500]), 0..300)) {
            let mut outbox = Outbox::alone(Sent::default());
            let mut want = Vec::new();
            for (n, (to, ecn, bytes)) in datagrams.into_iter().enumerate() {
                let (to, ecn) = (port(to), Ecn::of(ecn));
                let datagram = vec![u8::try_from(n % 251).unwrap(); bytes];
                let room = outbox.room();
                prop_assert!(room.len() >= ROOM_BYTES);
                room[..bytes].copy_from_slice(&datagram);
                outbox.commit(to, ecn, bytes);
                want.push((to, ecn, datagram));
            }
            outbox.flush();
            prop_assert_eq!(outbox.network.0, want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whoever seals them: what goes out is sealed with its key and number, in its order.
        #[test]
        fn packets_go_out_sealed_in_their_order(helpers in 0usize..3, packets in proptest::collection::vec((0u8..3, 1usize..50, prop_oneof![Just(1420usize), 16usize..1420], 0usize..1420, any::<bool>()), 0..60)) {
            let crew = (helpers > 0).then(|| Arc::new(Crew::new(helpers, "test").unwrap()));
            let blocks = if helpers > 0 { 1 + MOST_HANDED } else { 1 };
            let (chunks, _) = memory::take(&vec![BLOCK_BYTES; blocks], Pages::Usual).unwrap();
            let mut outbox = Outbox::new(Sent::default(), crew, chunks);
            let keys = [1, 2, 3].map(|n| PacketKey::new(Zeroizing::new([n; 32])));
            let mut next = [0u64; 3];
            let mut want = Vec::new();
            for (key, count, text, last, flush) in packets {
                let last = last.min(text);
                let index = usize::from(key);
                let sealing = Sealing { key: keys[index].clone(), remote_index: key.into(), first: next[index] };
                next[index] += count as u64;
                let room = outbox.room();
                let segment = DATA_HEADER_BYTES + text + TAG_BYTES;
                for part in 0..count {
                    let bytes = if part + 1 == count { last } else { text };
                    let n = u8::try_from(want.len() % 251).unwrap();
                    let start = part * segment + DATA_HEADER_BYTES;
                    room[start..start + bytes].fill(n);
                    want.push((index, sealing.first + part as u64, vec![n; bytes]));
                }
                let sizes = (segment, count, DATA_HEADER_BYTES + last + TAG_BYTES);
                let bytes = outbox.seal((port(key.into()), Ecn::NotEct), &sealing, sizes);
                prop_assert_eq!(bytes, segment * (count - 1) + sizes.2);
                if flush {
                    outbox.flush();
                }
            }
            outbox.flush();
            let mut got = Vec::new();
            for (_, _, mut datagram) in outbox.network.0 {
                let Some(Message::Data { receiver, counter }) = Message::parse(&datagram) else { panic!() };
                let index = usize::try_from(receiver).unwrap();
                let sealed = &mut datagram[DATA_HEADER_BYTES..];
                let bytes = keys[index].ready().unwrap().open(counter, sealed).unwrap();
                got.push((index, counter, sealed[..bytes].to_vec()));
            }
            prop_assert!(got == want, "{} of {}", got.len(), want.len());
        }
    }

    #[test]
    fn a_stream_to_one_place_goes_in_few_pieces() {
        let mut outbox = Outbox::alone(Sent::default());
        for _ in 0..450 {
            outbox.room();
            outbox.commit(port(1), Ecn::NotEct, 1452);
        }
        outbox.push(port(1), &[1; 100]);
        outbox.push(port(1), &[2; 100]);
        outbox.flush();
        assert!(outbox.network.1 <= 13, "{} pieces", outbox.network.1);
    }
}
