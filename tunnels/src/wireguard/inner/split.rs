//! One packet of the link into those that go through the tunnel: what a network card does that
//! offers TSO and USO (Documentation/networking/segmentation-offloads.rst).
//!
//! The parts' payloads are where they were read to, each behind room for its headers;
//! [`Split::finish`] writes the headers, so nothing is copied here but those.

use super::checksum::Sum;
use super::offload::{Gso, VnetHeader};
use super::packet::{
    IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_HEADER_BYTES, UDP_HEADER_BYTES, be16, be32, put16,
    put32,
};
use std::ops::Range;

/// Room for IPv4 and TCP with all their options; longer chains of headers are not split.
pub(crate) const MOST_HEADER_BYTES: usize = 128;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// How a packet is split, and what the headers of its parts have in common.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    gso: Gso,
    headers: [u8; MOST_HEADER_BYTES],
    header_bytes: usize,
    l4: usize,
    part_bytes: usize,
    payload_bytes: usize,
}

impl Split {
    /// Of a packet of `total` bytes that begins with `head`, as its header says; none when it is
    /// not to be split, or cannot be what the header says.
    pub(crate) fn of(vnet: &VnetHeader, head: &[u8], total: usize) -> Option<Self> {
        let (gso, size) = vnet.gso?;
        let l4 = usize::from(vnet.checksum?.0);
        let version = head.first()? >> 4;
        let least = match (gso, version) {
            (Gso::Tcp4 | Gso::UdpL4, 4) => IPV4_HEADER_BYTES,
            (Gso::Tcp6 | Gso::UdpL4, 6) => IPV6_HEADER_BYTES,
            _ => return None,
        };
        let l4_bytes = match gso {
            Gso::UdpL4 => UDP_HEADER_BYTES,
            Gso::Tcp4 | Gso::Tcp6 => usize::from(*head.get(l4 + 12)? >> 4) * 4,
        };
        let least_l4 = if gso == Gso::UdpL4 { UDP_HEADER_BYTES } else { TCP_HEADER_BYTES };
        let header_bytes = l4 + l4_bytes;
        let payload_bytes = total.checked_sub(header_bytes).filter(|bytes| *bytes > 0)?;
        let fits = l4 >= least
            && l4_bytes >= least_l4
            && header_bytes <= MOST_HEADER_BYTES
            && header_bytes + usize::from(size) <= usize::from(u16::MAX);
        let mut headers = [0; MOST_HEADER_BYTES];
        headers.get_mut(..header_bytes)?.copy_from_slice(head.get(..header_bytes)?);
        fits.then_some(Split {
            gso,
            headers,
            header_bytes,
            l4,
            part_bytes: size.into(),
            payload_bytes,
        })
    }

    /// The bytes of headers before each part's payload.
    pub(crate) fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// The bytes of payload of each part, of the last perhaps fewer.
    pub(crate) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// How many parts there are, 1 and more.
    pub(crate) fn count(&self) -> usize {
        self.payload_bytes.div_ceil(self.part_bytes)
    }

    /// Where the payload of a part is in the whole payload.
    pub(crate) fn payload(&self, part: usize) -> Range<usize> {
        let start = part * self.part_bytes;
        start.min(self.payload_bytes)..(start + self.part_bytes).min(self.payload_bytes)
    }

    /// Writes the headers of part `part` in front of its payload: `packet` begins with room for
    /// them and ends with the payload.
    pub(crate) fn finish(&self, part: usize, packet: &mut [u8]) {
        let Some(headers) = packet.get_mut(..self.header_bytes) else { return };
        headers.copy_from_slice(&self.headers[..self.header_bytes]);
        let is_last = part + 1 == self.count();
        let length = length16(packet.len());
        let l4_length = length16(packet.len() - self.l4);
        let number = u32::try_from(part).unwrap_or(u32::MAX);
        let pseudo = if packet[0] >> 4 == 4 {
            put16(packet, 2, length);
            #[expect(clippy::cast_possible_truncation, reason = "identifications wrap around")]
            let id = be16(packet, 4).unwrap_or(0).wrapping_add(number as u16);
            put16(packet, 4, id);
            put16(packet, 10, 0);
            let checksum = Sum::default().add(&packet[..self.l4]).checksum();
            put16(packet, 10, checksum);
            Sum::default().add(&packet[12..20])
        } else {
            put16(packet, 4, length.saturating_sub(40));
            Sum::default().add(&packet[8..40])
        };
        let (_, segment) = packet.split_at_mut(self.l4);
        let (protocol, checksum_at) = match self.gso {
            Gso::UdpL4 => {
                put16(segment, 4, l4_length);
                (super::packet::UDP, 6)
            }
            Gso::Tcp4 | Gso::Tcp6 => {
                let bytes = u32::try_from(self.part_bytes).unwrap_or(u32::MAX);
                let seq = be32(segment, 4).unwrap_or(0).wrapping_add(number.wrapping_mul(bytes));
                put32(segment, 4, seq);
                if let Some(flags) = segment.get_mut(13) {
                    *flags &= if is_last { 0xff } else { !TCP_FIN_PSH };
                    *flags &= if part == 0 { 0xff } else { !TCP_CWR };
                }
                (super::packet::TCP, 16)
            }
        };
        let pseudo = match self.given_pseudo(checksum_at) {
            Some(without_length) => without_length,
            None => pseudo.add_word(protocol.into()),
        };
        put16(segment, checksum_at, 0);
        let sum = pseudo.add_word(l4_length).add(segment);
        put16(segment, checksum_at, never_zero(sum.checksum()));
    }
}

impl Split {
    /// The sum of the pseudo header that the kernel gave, less the length, where there are headers
    /// between that of IPv6 and TCP or UDP: a routing header has the last address, of which the sum
    /// is (RFC 8200 §8.1).
    fn given_pseudo(&self, checksum_at: usize) -> Option<Sum> {
        let is_v6 = self.headers[0] >> 4 == 6;
        let given = be16(&self.headers, self.l4 + checksum_at)?;
        let whole = length16(self.header_bytes - self.l4 + self.payload_bytes);
        let is_wanted = is_v6 && self.l4 > IPV6_HEADER_BYTES;
        is_wanted.then(|| Sum::default().add_word(given).add_word(!whole))
    }
}

/// Completes the checksum of a packet that is not to be split.
pub(crate) fn complete_checksum(vnet: &VnetHeader, packet: &mut [u8]) {
    let Some((start, offset)) = vnet.checksum else { return };
    let (start, offset) = (usize::from(start), usize::from(offset));
    if let Some(segment) = packet.get_mut(start..)
        && segment.len() >= offset + 2
    {
        let sum = Sum::default().add(segment).checksum();
        put16(segment, offset, never_zero(sum));
    }
}

/// Zero means "none" to UDP (RFC 768), and both zeros are one to TCP.
fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

fn length16(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::Sample;
    use super::super::packet::{TCP, UDP};
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn samples() -> impl Strategy<Value = Sample> {
        let header = (any::<bool>(), any::<bool>(), any::<u16>(), any::<u32>(), any::<u8>());
        let body = (0usize..4, proptest::collection::vec(any::<u8>(), 1..6000));
        (header, body).prop_map(|((v6, tcp, id, seq, flags), (options, payload))| Sample {
            v6,
            protocol: if tcp { TCP } else { UDP },
            id,
            seq,
            flags,
            options: vec![1; options * 4],
            payload,
            ..Sample::default()
        })
    }

    /// The header that the kernel would send with it, and the sum of the pseudo header in place.
    fn offered(sample: &Sample, packet: &mut [u8], size: u16) -> VnetHeader {
        let l4 = sample.header_bytes() - sample.l4_bytes();
        let gso = match (sample.protocol, sample.v6) {
            (UDP, _) => Gso::UdpL4,
            (_, false) => Gso::Tcp4,
            (_, true) => Gso::Tcp6,
        };
        let offset = if sample.protocol == UDP { 6 } else { 16 };
        put16(packet, l4 + offset, 0x5555);
        VnetHeader {
            checksum: Some((u16::try_from(l4).unwrap(), offset.try_into().unwrap())),
            gso: Some((gso, size)),
            header_bytes: u16::try_from(sample.header_bytes()).unwrap(),
        }
    }

    fn parts(split: &Split, packet: &[u8]) -> Vec<Vec<u8>> {
        let payload = &packet[split.header_bytes()..];
        (0..split.count())
            .map(|part| {
                let mut whole = vec![0xee; split.header_bytes()];
                whole.extend(&payload[split.payload(part)]);
                split.finish(part, &mut whole);
                whole
            })
            .collect()
    }

    proptest! {
        /// The parts are the packets that a stack would have sent without offload.
        #[test]
        fn the_parts_are_what_the_stack_would_have_sent(sample in samples(), size in 1u16..1500) {
            let mut packet = sample.build();
            let vnet = offered(&sample, &mut packet, size);
            let split = Split::of(&vnet, &packet, packet.len()).unwrap();
            let count = split.count();
            for (part, made) in parts(&split, &packet).into_iter().enumerate() {
                let n = u32::try_from(part).unwrap();
                let mut want = sample.clone();
                want.id = sample.id.wrapping_add(u16::try_from(part).unwrap());
                want.seq = sample.seq.wrapping_add(n * u32::from(size));
                want.payload = sample.payload[split.payload(part)].to_vec();
                want.flags &= if part + 1 == count { 0xff } else { !0x09 };
                want.flags &= if part == 0 { 0xff } else { !0x80 };
                let mut want = want.build();
                let at = sample.header_bytes() - sample.l4_bytes() + 16;
                if sample.protocol == TCP && be16(&want, at) == Some(0) {
                    put16(&mut want, at, 0xffff);
                }
                prop_assert_eq!(made, want, "part {} of {}", part, count);
            }
        }

        /// Behind a routing header the sum is of the last address, which only the kernel's sum tells.
        #[test]
        fn the_sum_behind_a_routing_header_is_that_of_the_last_address(sample in samples(), size in 1u16..1500, last: [u8; 16]) {
            let mut whole = Sample { v6: true, ..sample.clone() }.build();
            let mut routing = vec![sample.protocol, 2, 4, 1, 0, 0, 0, 0];
            routing.extend(last);
            let segment = whole.split_off(40);
            let length = u16::try_from(segment.len()).unwrap();
            whole[6] = 43;
            put16(&mut whole, 4, length + 24);
            let mut packet = [whole, routing, segment].concat();
            let l4 = 64;
            let offset = if sample.protocol == UDP { 6 } else { 16 };
            let source = packet[8..24].to_vec();
            let pseudo = |bytes: usize| {
                let bytes = u16::try_from(bytes).unwrap();
                Sum::default().add(&source).add(&last).add_word(sample.protocol.into()).add_word(bytes)
            };
            put16(&mut packet, l4 + offset, pseudo(length.into()).value());
            let vnet = VnetHeader {
                checksum: Some((u16::try_from(l4).unwrap(), u16::try_from(offset).unwrap())),
                gso: Some((if sample.protocol == UDP { Gso::UdpL4 } else { Gso::Tcp6 }, size)),
                header_bytes: 0,
            };
            let split = Split::of(&vnet, &packet, packet.len()).unwrap();
            for part in parts(&split, &packet) {
                let sum = pseudo(part.len() - l4).add(&part[l4..]);
                prop_assert_eq!(sum.value(), 0xffff);
            }
        }

        #[test]
        fn a_checksum_is_completed(sample in samples()) {
            let mut want = sample.build();
            let mut packet = want.clone();
            let mut vnet = offered(&sample, &mut packet, 1);
            vnet.gso = None;
            let (start, offset) = vnet.checksum.unwrap();
            let at = usize::from(start + offset);
            // What the kernel leaves there is the sum of addresses, protocol and length.
            let addresses = if sample.v6 { 8..40 } else { 12..20 };
            let length = u16::try_from(packet.len() - usize::from(start)).unwrap();
            let pseudo = Sum::default().add(&packet[addresses]).add_word(sample.protocol.into()).add_word(length);
            put16(&mut packet, at, pseudo.value());
            complete_checksum(&vnet, &mut packet);
            if be16(&want, at) == Some(0) {
                put16(&mut want, at, 0xffff);
            }
            prop_assert_eq!(packet, want);
        }

        /// Whatever the header says of whatever bytes: no part lies outside.
        #[test]
        fn nothing_is_believed(bytes in proptest::collection::vec(any::<u8>(), 0..300), start: u16, offset: u16, size in 1u16.., kind in 0usize..3, total in 0usize..70_000) {
            let gso = [Gso::Tcp4, Gso::Tcp6, Gso::UdpL4][kind];
            let vnet = VnetHeader { checksum: Some((start % 80, offset)), gso: Some((gso, size)), header_bytes: 0 };
            complete_checksum(&vnet, &mut bytes.clone());
            if let Some(split) = Split::of(&vnet, &bytes, total) {
                let mut end = 0;
                for part in 0..split.count() {
                    let range = split.payload(part);
                    prop_assert!(range.start == end && !range.is_empty());
                    end = range.end;
                    let mut packet = vec![0; split.header_bytes() + range.len()];
                    split.finish(part, &mut packet);
                }
                prop_assert_eq!(split.header_bytes() + end, total);
            }
        }
    }
}
