//! Where a packet of the link is read to: straight to where its datagrams will be.
//!
//! A packet that is to be split is as long as forty of the link's, and its parts must end up
//! apart, each behind room for headers. readv(2) puts them there, if it is known before how
//! long the headers and the parts are. They mostly are what they were the last time. When they
//! are not, [`Layout::gather`] puts the packet together again, and it is split by copying.

use super::message::{DATA_HEADER_BYTES, TAG_BYTES, padded};
use std::io::IoSliceMut;
use std::ops::Range;

/// The largest packet that a link can have.
pub(crate) const MOST_PACKET_BYTES: usize = 65_535;
/// Parts that are foreseen at most: as many as fit into one run of datagrams.
const MOST_SLOTS: usize = 64;

/// A guess at the next packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of headers of each part.
    pub header: usize,
    /// Bytes of payload of each.
    pub part: usize,
    /// The parts, 1 for a packet that is not split.
    pub slots: usize,
    /// From one part's datagram to the next.
    pub stride: usize,
}

impl Layout {
    /// For packets that are not split, of a link of this MTU.
    pub(crate) fn whole(mtu: usize) -> Self {
        Layout { header: 0, part: mtu, slots: 1, stride: stride(mtu, mtu) }
    }

    /// For packets that are split into parts like these. Parts must follow each other without a
    /// gap, as the kernel wants them in one piece.
    pub(crate) fn split(header: usize, part: usize, mtu: usize) -> Self {
        let slots = (MOST_PACKET_BYTES / part.max(1)).clamp(1, MOST_SLOTS);
        Layout { header, part, slots, stride: stride(header + part, mtu) }
    }

    /// Where part `slot` is, its headers and its payload, in the room that was read to.
    pub(crate) fn packet(&self, slot: usize, payload_bytes: usize) -> Range<usize> {
        let start = slot * self.stride + DATA_HEADER_BYTES;
        start..start + self.header + payload_bytes
    }

    /// Whether so many parts were foreseen, and room of so many bytes takes their datagrams.
    pub(crate) fn holds(&self, parts: usize, room: usize) -> bool {
        parts <= self.slots && parts * self.stride <= room
    }

    /// Hands `read` the places for a packet, behind each other: the parts in `room`, and `spill`
    /// for what is beyond them.
    pub(crate) fn scatter<T>(
        &self,
        room: &mut [u8],
        spill: &mut [u8],
        head: &mut [u8],
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T,
    ) -> T {
        let mut slices: [IoSliceMut<'_>; MOST_SLOTS + 2] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (mut used, mut rest, mut at) = (1, room, 0);
        slices[0] = IoSliceMut::new(head);
        for slot in 0..self.slots {
            let place = self.piece(slot);
            let Some((_, behind)) = rest.split_at_mut_checked(place.start - at) else { break };
            let Some((piece, behind)) = behind.split_at_mut_checked(place.len()) else { break };
            slices[used] = IoSliceMut::new(piece);
            (used, rest, at) = (used + 1, behind, place.end);
        }
        slices[used] = IoSliceMut::new(spill);
        read(&mut slices[..=used])
    }

    /// Puts the first `total` bytes of what was read behind each other again.
    pub(crate) fn gather(&self, room: &[u8], spill: &[u8], total: usize, whole: &mut Vec<u8>) {
        whole.clear();
        for slot in 0..self.slots {
            let Some(piece) = room.get(self.piece(slot)) else { break };
            whole.extend_from_slice(piece);
        }
        whole.extend_from_slice(spill.get(..total.saturating_sub(whole.len())).unwrap_or(spill));
        whole.truncate(total);
    }

    /// What is read of slot `slot`: the headers are in the first one only.
    fn piece(&self, slot: usize) -> Range<usize> {
        let place = self.packet(slot, self.part);
        if slot == 0 { place } else { place.start + self.header..place.end }
    }
}

fn stride(packet: usize, mtu: usize) -> usize {
    DATA_HEADER_BYTES + padded(packet, mtu) + TAG_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    proptest! {
        /// However it was laid out, it comes together again, and what was foreseen right is where
        /// it should be.
        #[test]
        fn nothing_is_lost_between(header in 0usize..130, part in 1usize..1500, room in 0usize..100_000, total in 0usize..MOST_PACKET_BYTES, whole: bool) {
            let layout = if whole { Layout::whole(1420) } else { Layout::split(header, part, 1420) };
            let packet: Vec<u8> = (0..total).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut room = vec![0xee; room];
            let mut spill = vec![0; MOST_PACKET_BYTES];
            let mut head = [0; 0];
            let read = layout.scatter(&mut room, &mut spill, &mut head, |slices| {
                let mut rest = packet.as_slice();
                slices.iter_mut().map(|slice| rest.read(slice).unwrap()).sum::<usize>()
            });
            prop_assert_eq!(read, total);
            let mut again = Vec::new();
            layout.gather(&room, &spill, total, &mut again);
            prop_assert_eq!(&again, &packet);
            for slot in 1..layout.slots {
                let from = layout.header + slot * layout.part;
                let place = layout.packet(slot, layout.part);
                if total >= from + layout.part && place.end <= room.len() {
                    prop_assert_eq!(&room[place.start + layout.header..place.end], &packet[from..from + layout.part]);
                    prop_assert!(room[place.start..place.start + layout.header].iter().all(|b| *b == 0xee), "room for headers");
                }
            }
        }
    }
}
