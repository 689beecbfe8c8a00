//! Packets that came through the tunnel into few large ones for the link, so that the kernel's
//! stack has to be passed once for fifty of them.
//!
//! What is joined is what [`super::split`] would split again into the same packets, so forwarding
//! changes nothing but the checksums of packets that came into the tunnel damaged: those are not
//! looked at. Packets of a flow stay in their order, also behind what does not say of which flow it
//! is. Nothing is copied: a group is the first packet and the places of the payloads behind it, for
//! writev(2).

use super::flow::{Candidate, Flow};
use super::offload::{Gso, VNET_HEADER_BYTES, VnetHeader};
use super::packet::{IpHeader, put16};
use crate::wireguard::memory::Places;
use std::io::IoSlice;
use std::ops::Range;

/// Groups that a packet is compared with: the last ones.
const MOST_OPEN: usize = 16;
/// `UDP_MAX_SEGMENTS` in include/linux/udp.h, of kernels before 6.9.
const MOST_DATAGRAMS: usize = 64;
const MOST_BYTES: usize = 65_535;
/// Packets of a group: writev(2) takes 1,024 pieces (`UIO_MAXIOV`), two of which are headers.
const MOST_PIECES: usize = 1000;

/// What the link takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// Segments of TCP.
    pub tcp: bool,
    /// Datagrams of UDP.
    pub udp: bool,
}

/// Packets on their way to the link, in the memory that they were read into.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    offers: Offers,
    groups: Vec<Group>,
    used: usize,
}

#[derive(Debug, Default)]
struct Group {
    vnet: [u8; VNET_HEADER_BYTES],
    first: Range<usize>,
    /// None when nothing may be joined with it.
    candidate: Option<Candidate>,
    /// The payloads behind that of the first packet.
    more: Vec<Range<usize>>,
    /// With that of the first packet.
    payload_bytes: usize,
    is_closed: bool,
}

impl Joiner {
    /// For a link that takes `offers`.
    pub(crate) fn new(offers: Offers) -> Self {
        Joiner { offers, ..Joiner::default() }
    }

    /// Adds the packet that is at `place` in `memory`, without padding.
    pub(crate) fn push(
        &mut self,
        memory: &(impl Places + ?Sized),
        place: Range<usize>,
        ip: &IpHeader,
    ) {
        let Some(packet) = memory.at(place.clone()) else { return };
        let candidate = Candidate::of(ip, packet)
            .filter(|candidate| if candidate.is_tcp() { self.offers.tcp } else { self.offers.udp });
        match Flow::of(ip, packet) {
            Some(flow) => {
                if let Some(group) = self.open_group(&flow)
                    && group.take(memory, &place, candidate.as_ref())
                {
                    return;
                }
            }
            // A fragment of IPv6, or with headers in between: of any flow between the two.
            None => self.close_between(ip),
        }
        if self.used == self.groups.len() {
            self.groups.push(Group::default());
        }
        let group = &mut self.groups[self.used];
        self.used += 1;
        group.more.clear();
        group.payload_bytes = candidate.map_or(0, |candidate| candidate.payload_bytes);
        group.is_closed = candidate.is_none_or(|candidate| candidate.is_last);
        (group.first, group.candidate) = (place, candidate);
    }

    fn open_group(&mut self, flow: &Flow) -> Option<&mut Group> {
        let mut open = self.groups[..self.used].iter_mut().rev().take(MOST_OPEN);
        open.find(|group| group.candidate.is_some_and(|head| head.flow == *flow))
    }

    fn close_between(&mut self, ip: &IpHeader) {
        for group in self.groups[..self.used].iter_mut().rev().take(MOST_OPEN) {
            group.is_closed |= group.candidate.is_some_and(|head| head.flow.is_between(ip));
        }
    }

    /// Whether there is nothing to deliver.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Hands every group to `deliver`, in the order of their first packets, as what one writev(2)
    /// takes; then there are none.
    pub(crate) fn deliver(
        &mut self,
        memory: &mut (impl Places + ?Sized),
        mut deliver: impl FnMut(&[IoSlice<'_>]),
    ) {
        for group in &mut self.groups[..self.used] {
            group.write_headers(memory);
        }
        let memory = &*memory;
        let mut slices = Vec::new();
        for group in &self.groups[..self.used] {
            slices.clear();
            slices.push(IoSlice::new(&group.vnet));
            let places = std::iter::once(&group.first).chain(&group.more);
            slices.extend(places.filter_map(|place| memory.at(place.clone())).map(IoSlice::new));
            deliver(&slices);
        }
        self.used = 0;
    }
}

impl Group {
    /// Takes the next packet of its flow, if it goes on where this one ends. Otherwise nothing of
    /// that flow may come before it any more.
    fn take(
        &mut self,
        memory: &(impl Places + ?Sized),
        place: &Range<usize>,
        next: Option<&Candidate>,
    ) -> bool {
        let next = next.filter(|next| self.would_take(memory, place, next));
        let (Some(next), Some(head)) = (next, &mut self.candidate) else {
            self.is_closed = true;
            return false;
        };
        head.is_last |= next.is_last;
        self.is_closed = next.is_last || next.payload_bytes < head.payload_bytes;
        self.payload_bytes += next.payload_bytes;
        self.more.push(place.start + next.header_bytes..place.end);
        true
    }

    fn would_take(
        &self,
        memory: &(impl Places + ?Sized),
        place: &Range<usize>,
        next: &Candidate,
    ) -> bool {
        let Some(head) = self.candidate else { return false };
        let (Some(first), Some(packet)) = (memory.at(self.first.clone()), memory.at(place.clone()))
        else {
            return false;
        };
        let number = self.more.len() + 1;
        let follows = u32::try_from(self.payload_bytes)
            .is_ok_and(|bytes| !head.is_tcp() || head.seq.wrapping_add(bytes) == next.seq);
        let fits = head.header_bytes + self.payload_bytes + next.payload_bytes <= MOST_BYTES
            && number < if head.is_tcp() { MOST_PIECES } else { MOST_DATAGRAMS };
        !self.is_closed
            && follows
            && fits
            && next.header_bytes == head.header_bytes
            && next.payload_bytes <= head.payload_bytes
            && head.is_like(first, packet, number)
    }

    /// Makes the first packet's headers those of the whole.
    fn write_headers(&mut self, memory: &mut (impl Places + ?Sized)) {
        self.vnet = VnetHeader::default().encode();
        let (Some(head), false) = (&self.candidate, self.more.is_empty()) else { return };
        let Some(packet) = memory.at_mut(self.first.clone()) else { return };
        let word = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let total = head.header_bytes + self.payload_bytes;
        let is_v4 = head.is_v4();
        if is_v4 {
            put16(packet, 2, word(total));
            put16(packet, 10, 0);
            let sum = super::checksum::Sum::default().add(&packet[..head.l4]).checksum();
            put16(packet, 10, sum);
        } else {
            put16(packet, 4, word(total - head.l4));
        }
        let (l3, segment) = packet.split_at_mut(head.l4);
        let pseudo = head.pseudo(l3, total - head.l4).value();
        let (gso, offset) = match (head.is_tcp(), is_v4) {
            (true, true) => (Gso::Tcp4, 16),
            (true, false) => (Gso::Tcp6, 16),
            (false, _) => (Gso::UdpL4, 6),
        };
        put16(segment, offset.into(), pseudo);
        if head.is_tcp() {
            segment[13] |= if head.is_last { 0x08 } else { 0 };
        } else {
            put16(segment, 4, word(total - head.l4));
        }
        let vnet = VnetHeader {
            checksum: Some((word(head.l4), offset)),
            gso: Some((gso, word(head.payload_bytes))),
            header_bytes: word(head.header_bytes),
        };
        self.vnet = vnet.encode();
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::Sample;
    use super::super::packet::{TCP, UDP};
    use super::super::split::Split;
    use super::*;
    use proptest::prelude::*;

    const ALL: Offers = Offers { tcp: true, udp: true };

    /// What the link is given for these packets: each with its header.
    fn join(packets: &[Vec<u8>], offers: Offers) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut memory = Vec::new();
        let mut joiner = Joiner::new(offers);
        let places: Vec<_> = packets
            .iter()
            .map(|packet| {
                memory.extend([0xaa; 16]);
                let start = memory.len();
                memory.extend(packet);
                start..memory.len()
            })
            .collect();
        for place in places {
            let ip = IpHeader::parse(&memory[place.clone()]).unwrap();
            joiner.push(&memory[..], place, &ip);
        }
        let mut out = Vec::new();
        joiner.deliver(&mut memory[..], |slices| {
            let vnet = VnetHeader::parse(slices[0].first_chunk().unwrap()).unwrap();
            out.push((vnet, slices[1..].iter().flat_map(|slice| slice.to_vec()).collect()));
        });
        assert!(joiner.is_empty());
        out
    }

    /// What a kernel makes of it again.
    fn split(joined: Vec<(VnetHeader, Vec<u8>)>) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (vnet, packet) in joined {
            let Some(split) = Split::of(&vnet, &packet, packet.len()) else {
                assert_eq!(vnet, VnetHeader::default());
                all.push(packet);
                continue;
            };
            let payload = &packet[split.header_bytes()..];
            for part in 0..split.count() {
                let mut one = vec![0; split.header_bytes()];
                one.extend(&payload[split.payload(part)]);
                split.finish(part, &mut one);
                all.push(one);
            }
        }
        all
    }

    /// One flow's packets: mostly a stream that goes on, sometimes with something odd in it.
    fn stream(flow: u16, v6: bool, tcp: bool) -> impl Strategy<Value = Vec<Vec<u8>>> {
        let odd = prop_oneof![
            30 => Just(0u8),
            1 => 1u8..9,
        ];
        let packets = proptest::collection::vec(
            (odd, prop_oneof![4 => Just(100usize), 1 => 1usize..150]),
            1..40,
        );
        (packets, any::<u32>(), any::<u16>(), any::<bool>()).prop_map(
            move |(packets, start, id, df)| {
                let mut sample = Sample {
                    v6,
                    protocol: if tcp { TCP } else { UDP },
                    id,
                    seq: start,
                    dont_fragment: df,
                    ports: [flow, 9],
                    ..Sample::default()
                };
                let mut made = Vec::new();
                for (n, (odd, bytes)) in packets.into_iter().enumerate() {
                    sample.payload =
                        (0..bytes).map(|b| u8::try_from((b + n) % 251).unwrap()).collect();
                    let next = sample.seq.wrapping_add(u32::try_from(bytes).unwrap());
                    sample.flags = 0x10;
                    match odd {
                        1 => sample.seq = sample.seq.wrapping_add(1),
                        2 => sample.ack = sample.ack.wrapping_add(1),
                        3 => sample.flags |= 0x08,
                        4 => sample.flags |= 0x01,
                        5 => sample.tos ^= 3,
                        6 => sample.options = vec![1; (sample.options.len() + 4) % 12],
                        7 => sample.id = sample.id.wrapping_add(1),
                        8 => sample.payload.clear(),
                        _ => {}
                    }
                    made.push(sample.build());
                    sample.seq = next;
                    sample.id = sample.id.wrapping_add(1);
                }
                made
            },
        )
    }

    /// Several flows, in some order.
    fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let streams = (
            stream(1, false, true),
            stream(2, true, true),
            stream(3, false, false),
            stream(4, true, false),
            proptest::collection::vec(0usize..4, 160),
        );
        streams.prop_map(|(a, b, c, d, order)| {
            let mut streams = [a, b, c, d].map(Vec::into_iter);
            let mut all: Vec<_> = order.into_iter().filter_map(|n| streams[n].next()).collect();
            all.extend(streams.into_iter().flatten());
            all
        })
    }

    fn flow_of(packet: &[u8]) -> u16 {
        let l4 = if packet[0] >> 4 == 4 { 20 } else { 40 };
        super::super::packet::be16(packet, l4).unwrap()
    }

    /// Identifications of packets that may not be fragmented mean nothing, and a stack may choose
    /// them anew (RFC 6864 §4.1); the checksum over them follows.
    fn without_free_id(mut packet: Vec<u8>) -> Vec<u8> {
        if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            for at in [4, 10] {
                put16(&mut packet, at, 0);
            }
        }
        // The two zeros of ones' complement.
        let l4 = if packet[0] >> 4 == 4 { 20 } else { 40 };
        if super::super::packet::be16(&packet, l4 + 16) == Some(0xffff) {
            put16(&mut packet, l4 + 16, 0);
        }
        packet
    }

    proptest! {
        /// Splitting what was joined gives every packet again, each flow in its order.
        #[test]
        fn nothing_is_changed_or_reordered(packets in traffic()) {
            let again = split(join(&packets, ALL));
            for flow in 1..=4 {
                let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    all.iter().filter(|p| flow_of(p) == flow).cloned().map(without_free_id).collect()
                };
                prop_assert_eq!(of(&again), of(&packets), "flow {}", flow);
            }
            prop_assert_eq!(again.len(), packets.len());
        }
    }

    fn segments(count: u32, sample: &Sample) -> Vec<Vec<u8>> {
        let bytes = u32::try_from(sample.payload.len()).unwrap();
        (0..count)
            .map(|n| {
                let seq = sample.seq.wrapping_add(n * bytes);
                Sample { seq, id: u16::try_from(n).unwrap(), ..sample.clone() }.build()
            })
            .collect()
    }

    /// What has a header that says nothing of its flow, as fragments do.
    #[test]
    fn nothing_overtakes_a_fragment() {
        let sample = Sample { v6: true, payload: vec![5; 1000], ..Sample::default() };
        let mut packets = segments(3, &sample);
        packets[1][6] = 44;
        let joined: Vec<Vec<u8>> = join(&packets, ALL).into_iter().map(|(_, one)| one).collect();
        assert_eq!(joined, packets);
        let udp = Sample { protocol: UDP, ..sample };
        let mut packets = segments(3, &udp);
        packets[1][6] = 44;
        let joined: Vec<Vec<u8>> = join(&packets, ALL).into_iter().map(|(_, one)| one).collect();
        assert_eq!(joined, packets, "datagrams have no numbers");
    }

    #[test]
    fn a_stream_becomes_as_few_packets_as_fit() {
        for v6 in [false, true] {
            let sample = Sample { v6, payload: vec![5; 1000], ..Sample::default() };
            let joined = join(&segments(100, &sample), ALL);
            assert_eq!(joined.len(), 2, "65 and 35");
            let udp = Sample { protocol: UDP, ..sample };
            assert_eq!(join(&segments(100, &udp), ALL).len(), 2, "64 and 36");
            assert_eq!(join(&segments(100, &udp), Offers { tcp: true, udp: false }).len(), 100);
        }
    }
}
