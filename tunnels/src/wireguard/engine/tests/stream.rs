//! What the kernel hands over in one piece, through two engines, to where a kernel takes it.

use super::*;
use crate::wireguard::inner::offload::{Gso, VNET_HEADER_BYTES, VnetHeader};
use crate::wireguard::inner::packet::put16;
use crate::wireguard::inner::packet::tests::Sample;
use crate::wireguard::inner::packet::{TCP, UDP};
use crate::wireguard::inner::split::Split;
use crate::wireguard::layout::{Layout, MOST_PACKET_BYTES};
use std::io::Read;

/// Runs as they are sent: what a kernel with `UDP_GRO` at the other end gives in one piece.
#[derive(Debug, Default)]
struct Pieces(Vec<(Vec<u8>, usize)>);

impl Network for Pieces {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        let piece = |run: &Run| (memory[run.range.clone()].to_vec(), run.segment);
        self.0.extend(runs.iter().map(piece));
    }
}

pub(super) fn offered(sample: &Sample, size: u16) -> (VnetHeader, Vec<u8>) {
    let mut packet = sample.build();
    let l4 = u16::try_from(sample.header_bytes() - sample.l4_bytes()).unwrap();
    let offset = if sample.protocol == UDP { 6 } else { 16 };
    put16(&mut packet, usize::from(l4 + offset), 0x1234);
    let gso = if sample.protocol == UDP { Gso::UdpL4 } else { Gso::Tcp4 };
    let header_bytes = u16::try_from(sample.header_bytes()).unwrap();
    (VnetHeader { checksum: Some((l4, offset)), gso: Some((gso, size)), header_bytes }, packet)
}

/// Reads a packet as the device does, with this guess.
pub(super) fn read<N: Network>(
    end: &mut End,
    outbox: &mut Outbox<N>,
    layout: Layout,
    (vnet, packet): &(VnetHeader, Vec<u8>),
) -> Layout {
    let mut spill = vec![0; MOST_PACKET_BYTES];
    layout.scatter(outbox.room(), &mut spill, &mut [], |slices| {
        let mut rest = packet.as_slice();
        slices.iter_mut().map(|slice| rest.read(slice).unwrap()).sum::<usize>()
    });
    let packet = LinkPacket { vnet: *vnet, layout, spill: &spill, total: packet.len() };
    end.engine.take_packet(packet, outbox, end.now)
}

/// What comes out of the link at `end`, each with its header.
fn arrive(end: &mut End, from: SocketAddr, pieces: Pieces) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut outbox = Outbox::alone(Pieces::default());
    let mut memory = Vec::new();
    let mut all = Vec::new();
    for (piece, segment) in pieces.0 {
        let range = memory.len()..memory.len() + piece.len();
        memory.extend(piece);
        all.push(Datagrams { at: None, from, ecn: Ecn::NotEct, range, segment });
    }
    for datagrams in &all {
        end.engine.take_datagrams(&mut memory, datagrams, &mut outbox, &mut |_| false, end.now);
    }
    let mut out = Vec::new();
    end.engine.deliver(&mut memory[..], |slices| {
        let head: &[u8; VNET_HEADER_BYTES] = slices[0].first_chunk().unwrap();
        let packet = slices[1..].iter().flat_map(|slice| slice.to_vec()).collect();
        out.push((VnetHeader::parse(head).unwrap(), packet));
    });
    out
}

/// The packets of the wire that a packet stands for.
pub(super) fn parts((vnet, packet): &(VnetHeader, Vec<u8>)) -> Vec<Vec<u8>> {
    let Some(split) = Split::of(vnet, packet, packet.len()) else { return vec![packet.clone()] };
    let payload = &packet[split.header_bytes()..];
    let part = |part| {
        let mut one = vec![0; split.header_bytes()];
        one.extend(&payload[split.payload(part)]);
        split.finish(part, &mut one);
        one
    };
    (0..split.count()).map(part).collect()
}

fn connected() -> (End, End) {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"first"));
    (a, b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was foreseen of it: the other side gets what the kernel would have sent itself.
    #[test]
    fn a_stream_arrives_as_if_it_had_been_sent_in_parts(
        packets in proptest::collection::vec((any::<bool>(), 1usize..9000, 0usize..3, 1u16..1368), 1..6),
    ) {
        let (mut a, mut b) = connected();
        let mut outbox = Outbox::alone(Pieces::default());
        let mut layout = a.engine.layout();
        let mut want = Vec::new();
        for (tcp, bytes, options, size) in packets {
            let sample = Sample {
                protocol: if tcp { TCP } else { UDP },
                options: vec![1; options * 4],
                // With identifications that mean something.
                dont_fragment: false,
                payload: (0..bytes).map(|n| u8::try_from(n % 253).unwrap()).collect(),
                ..Sample::default()
            };
            let offer = offered(&sample, size);
            want.extend(parts(&offer));
            layout = read(&mut a, &mut outbox, layout, &offer);
        }
        outbox.flush();
        let got: Vec<_> = arrive(&mut b, a.address, outbox.network).iter().flat_map(parts).collect();
        prop_assert_eq!(got, want);
    }
}

#[test]
fn sixty_kilobytes_cross_in_one_piece_each_way() {
    let (mut a, mut b) = connected();
    let sample = Sample { payload: vec![7; 1368 * 45], options: vec![1; 12], ..Sample::default() };
    let offer = offered(&sample, 1368);
    let mut outbox = Outbox::alone(Pieces::default());
    let guess = a.engine.layout();
    let layout = read(&mut a, &mut outbox, guess, &offer);
    assert_ne!(layout, guess, "the next one is foreseen");
    outbox.flush();
    outbox.network.0.clear();
    for _ in 0..2 {
        assert_eq!(read(&mut a, &mut outbox, layout, &offer), layout);
    }
    outbox.flush();
    let pieces = std::mem::take(&mut outbox.network);
    assert_eq!(pieces.0.len(), 2);
    assert!(pieces.0.iter().all(|(piece, segment)| *segment == 1452 && piece.len() == 45 * 1452));
    let arrived = arrive(&mut b, a.address, pieces);
    assert_eq!(arrived.len(), 2, "the same stretch of a stream twice cannot be joined");
    assert_eq!(arrived[0].1[52..], sample.payload);
}

/// No padding beyond the MTU, and as much as it takes below it.
#[test]
fn padding_ends_at_the_mtu() {
    let (mut a, _) = connected();
    for (mtu, payload, datagram) in [(1420, 1380, 1452), (1420, 61, 144), (1300, 1259, 1332)] {
        a.engine.set_mtu(mtu);
        let sample = Sample { payload: vec![1; payload], ..Sample::default() };
        let out = a.give(&sample.build());
        assert_eq!(out.network[0].1.len(), datagram, "{mtu} {payload}");
    }
}
