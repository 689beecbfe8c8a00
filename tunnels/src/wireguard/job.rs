//! What helpers do for a device: seal datagrams that go out, open those that came.

use super::aead::{PacketKey, ReadyKey};
use super::crew::{Crew, Work};
use super::letters::Letters;
use super::memory::Chunk;
use super::message::{DATA_HEADER_BYTES, TAG_BYTES, data_header};
use super::outbox::Block;
use super::session::Sealing;
use std::sync::Arc;

/// The helpers of a device, where it has some.
pub(crate) type Helpers = Option<Arc<Crew<Job>>>;

/// A piece of work.
#[derive(Debug)]
pub(crate) enum Job {
    /// Datagrams that go out.
    Seal(Block),
    /// Datagrams that came, and where they are.
    Open(Chunk, Letters),
}

impl Work for Job {
    fn run(&mut self) {
        match self {
            Job::Seal(block) => block.seal(),
            Job::Open(memory, letters) => letters.open(memory),
        }
    }
}

/// Packets of one session behind each other, each with room for its header and its tag.
#[derive(Debug)]
pub(super) struct Seal {
    key: PacketKey,
    receiver: u32,
    /// The number of the first.
    first: u64,
    start: usize,
    /// The bytes of each datagram, of the last one `last`.
    segment: usize,
    count: usize,
    last: usize,
}

impl Seal {
    pub(super) fn new(
        sealing: &Sealing,
        start: usize,
        (segment, count, last): (usize, usize, usize),
    ) -> Self {
        let Sealing { key, remote_index, first } = sealing;
        Seal {
            key: key.clone(),
            receiver: *remote_index,
            first: *first,
            start,
            segment,
            count,
            last,
        }
    }

    /// Whether `next` goes on where this one ends.
    pub(super) fn takes(&self, next: &Seal) -> bool {
        self.receiver == next.receiver
            && self.last == self.segment
            && self.segment == next.segment
            && self.first + self.count as u64 == next.first
            && self.start + self.count * self.segment == next.start
            && self.key.is(&next.key)
    }

    pub(super) fn join(&mut self, next: &Seal) {
        self.count += next.count;
        self.last = next.last;
    }

    pub(super) fn run(&self, memory: &mut [u8]) {
        let key = self.key.ready();
        let starts = (self.start..).step_by(self.segment.max(1)).take(self.count);
        for (number, start) in (self.first..).zip(starts) {
            let is_last = number + 1 == self.first + self.count as u64;
            let bytes = if is_last { self.last } else { self.segment };
            let Some(datagram) = memory.get_mut(start..start + bytes) else { return };
            let sealed = key.as_ref().and_then(|key| seal(key, self.receiver, number, datagram));
            if sealed.is_none() {
                // Never what was not sealed.
                datagram.fill(0);
            }
        }
    }
}

fn seal(key: &ReadyKey, receiver: u32, number: u64, datagram: &mut [u8]) -> Option<()> {
    let (header, rest) = datagram.split_first_chunk_mut::<DATA_HEADER_BYTES>()?;
    let (text, tag) = rest.split_last_chunk_mut::<TAG_BYTES>()?;
    *header = data_header(receiver, number);
    *tag = key.seal(number, text)?;
    Some(())
}
