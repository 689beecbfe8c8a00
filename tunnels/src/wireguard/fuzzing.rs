//! Doors for fuzzers ([`crate::fuzzing`]) to what WireGuard takes from others.

mod sealed;

use super::cookie::{Checker, Proof, Stamper};
use super::engine::{Datagrams, Engine, LinkPacket, Start};
use super::inner::ecn::Ecn;
use super::inner::join::{Joiner, Offers};
use super::inner::offload::{VNET_HEADER_BYTES, VnetHeader};
use super::inner::packet::{IpHeader, set_ecn};
use super::inner::split::{Split, complete_checksum};
use super::key::PrivateKey;
use super::layout::{Layout, MOST_PACKET_BYTES};
use super::message::{INITIATION_BYTES, Message, padded};
use super::outbox::{Network, Outbox, Run};
use super::peer::PeerConfig;
use super::sys::Envelope;
use super::{PublicKey, uapi};
use sealed::Counts;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Of everything that is fuzzed, so that a corpus stays good.
const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];
const MTU: usize = 1420;

/// What is sent, looked at and forgotten.
#[derive(Debug, Default)]
struct Sink;

impl Network for Sink {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        for single in runs.iter().flat_map(Run::singles) {
            let datagram = memory.get(single.range.clone());
            assert!(datagram.is_some_and(|bytes| Message::parse(bytes).is_some()));
        }
    }
}

fn there() -> SocketAddr {
    ([192, 0, 2, 2], 5000).into()
}

/// The device of one key, which knows a peer of the other; and that peer.
fn device(own: [u8; 32], other: [u8; 32], now: Instant) -> (Engine, PublicKey) {
    let start = Start { now, wall: Duration::from_secs(1), seed: 1 };
    let peer = PrivateKey::from_bytes(other).public();
    let offers = Offers { tcp: true, udp: true };
    let mut engine = Engine::new(PrivateKey::from_bytes(own), 100, offers, start);
    let config = PeerConfig {
        endpoint: Some(there()),
        allowed_ips: ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).collect(),
        ..PeerConfig::default()
    };
    engine.set_peer(peer, config, now);
    (engine, peer)
}

/// Two devices that know each other.
fn acquainted(now: Instant) -> [Engine; 2] {
    [(OURS, THEIRS), (THEIRS, OURS)].map(|(own, other)| device(own, other, now).0)
}

/// Of the third byte: the rest are packets of the peer.
const ARE_SEALED: u8 = 0x80;

/// The first two bytes are the segment, the third the marks; the rest came from the network. Or it
/// are packets that the peer seals, and somebody changes some of them on their way.
pub(crate) fn datagrams(bytes: &[u8]) {
    counted(bytes);
}

fn counted(bytes: &[u8]) -> Counts {
    let Some((&[s0, s1, class], rest)) = bytes.split_first_chunk() else {
        return Counts::default();
    };
    if class & ARE_SEALED != 0 {
        return sealed::packets(Ecn::of(class), rest);
    }
    let now = Instant::now();
    let mut engine = sealed::in_session(true, now);
    let mut outbox = Outbox::alone(Sink);
    let mut memory = rest.to_vec();
    let datagrams = Datagrams {
        at: None,
        from: there(),
        ecn: Ecn::of(class),
        range: 0..memory.len(),
        segment: u16::from_le_bytes([s0, s1]).into(),
    };
    engine.take_datagrams(&mut memory, &datagrams, &mut outbox, &mut |_| false, now);
    engine.deliver(&mut memory[..], |_| panic!("nobody has sealed it"));
    engine.timers(&mut outbox, now);
    outbox.flush();
    Counts::default()
}

/// Keeps what is sent.
#[derive(Debug, Default)]
struct Wire(Vec<Vec<u8>>);

impl Network for Wire {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        let singles = runs.iter().flat_map(Run::singles);
        self.0.extend(singles.filter_map(|single| memory.get(single.range).map(<[u8]>::to_vec)));
    }
}

/// Two devices shake hands, and somebody between them changes what passes: of each three bytes the
/// first says which datagram, the second where in it, the third what to flip. What was changed has
/// the right first mac all the same, or nothing behind that would be tried.
pub(crate) fn handshake(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut engines = acquainted(now);
    let keys = [OURS, THEIRS].map(|key| PrivateKey::from_bytes(key).public());
    let mut changes = bytes.chunks_exact(3);
    engines[0].renew(&keys[1], now);
    let mut wires: [Outbox<Wire>; 2] = std::array::from_fn(|_| Outbox::alone(Wire::default()));
    let (mut count, mut delivered) = (0u8, 0);
    for _ in 0..12 {
        for side in 0..2 {
            engines[side].timers(&mut wires[side], now);
            wires[side].flush();
            for mut datagram in std::mem::take(&mut wires[side].network.0) {
                let mut is_changed = false;
                for change in changes.clone().filter(|change| change[0] == count) {
                    if let Some(byte) = datagram.get_mut(usize::from(change[1])) {
                        *byte ^= change[2];
                        is_changed |= change[2] != 0;
                    }
                }
                if is_changed {
                    Stamper::new(&keys[1 - side]).stamp(&mut datagram, now);
                }
                count = count.saturating_add(1);
                let datagrams = Datagrams {
                    at: None,
                    from: there(),
                    ecn: Ecn::NotEct,
                    range: 0..datagram.len(),
                    segment: datagram.len(),
                };
                let other = &mut engines[1 - side];
                let outbox = &mut wires[1 - side];
                let mut resident = |_: &[u8]| false;
                other.take_datagrams(&mut datagram, &datagrams, outbox, &mut resident, now);
                other.deliver(&mut datagram[..], |_| delivered += 1);
            }
        }
        now += Duration::from_secs(2);
    }
    assert_eq!(delivered, 0, "nobody sent data");
    if changes.all(|change| change[2] == 0) {
        let is_up =
            engines[0].status(&keys[1], now).is_some_and(|peer| peer.handshake_age.is_some());
        assert!(is_up, "nobody changed anything");
    }
}

/// Somebody who shakes hands under load is asked for a cookie, and what asks him is changed: of each
/// two bytes the first says where, the second what to flip.
pub(crate) fn cookie(bytes: &[u8]) {
    let peer = PrivateKey::from_bytes(THEIRS).public();
    let now = Instant::now();
    let (mut checker, mut stamper) = (Checker::new(&peer, now), Stamper::new(&peer));
    let mut message = [0; INITIATION_BYTES];
    stamper.stamp(&mut message, now);
    assert_eq!(checker.check(&message, there(), now), Proof::Key);
    let Some(reply) = checker.reply(&message, 7, there(), now) else { return };
    let mut changed = reply;
    for change in bytes.chunks_exact(2) {
        if let Some(byte) = changed.get_mut(usize::from(change[0])) {
            *byte ^= change[1];
        }
    }
    let taken = match Message::parse(&changed) {
        Some(Message::CookieReply { nonce, sealed, .. }) => {
            stamper.take_reply(&peer, nonce, sealed, now)
        }
        _ => false,
    };
    // What says what it is and whom it is for is not sealed.
    let is_same = changed[..4] == reply[..4] && changed[8..] == reply[8..];
    assert_eq!(taken, is_same);
    stamper.stamp(&mut message, now);
    let proof = checker.check(&message, there(), now);
    assert_eq!(proof, if taken { Proof::Address } else { Proof::Key });
    message.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    checker.check(&message, there(), now);
}

/// Of a guess at parts: there is no session yet. No part is so long.
const NO_SESSION: usize = 1 << 15;

/// A header of the kernel, a guess at headers and parts, and a packet of the link. What goes out
/// are its parts, all or none.
pub(crate) fn link(bytes: &[u8]) {
    parts(bytes);
}

/// How many parts go out.
fn parts(bytes: &[u8]) -> usize {
    let Some((header, rest)) = bytes.split_first_chunk::<VNET_HEADER_BYTES>() else { return 0 };
    let Some((&[h, p0, p1], packet)) = rest.split_first_chunk() else { return 0 };
    let packet = packet.get(..MOST_PACKET_BYTES).unwrap_or(packet);
    let vnet = VnetHeader::parse(header).unwrap_or_default();
    let mut whole = packet.to_vec();
    set_ecn(&mut whole, Ecn::Ce);
    whole.copy_from_slice(packet);
    complete_checksum(&vnet, &mut whole);
    let parts = Split::of(&vnet, packet, packet.len()).map(|split| apart(&split, packet));

    let now = Instant::now();
    let part = usize::from(u16::from_le_bytes([p0, p1]));
    let has_session = part & NO_SESSION == 0;
    let mut engine = match has_session {
        true => sealed::in_session(true, now),
        false => device(OURS, THEIRS, now).0,
    };
    let mut outbox = Outbox::alone(Wire::default());
    let layout = if h == 0 { Layout::whole(MTU) } else { Layout::split(h.into(), part, MTU) };
    let mut spill = vec![0; MOST_PACKET_BYTES];
    let total = layout.scatter(outbox.room(), &mut spill, &mut [], |slices| {
        let mut rest = packet;
        slices.iter_mut().map(|slice| std::io::Read::read(&mut rest, slice).unwrap_or(0)).sum()
    });
    assert_eq!(total, packet.len());
    let packet = LinkPacket { vnet, layout, spill: &spill, total };
    engine.take_packet(packet, &mut outbox, now);
    outbox.flush();
    let wire = &outbox.network;
    if !has_session {
        assert!(wire.0.iter().all(|datagram| datagram.len() == INITIATION_BYTES));
        return 0;
    }
    let mut parts = parts.unwrap_or_else(|| vec![whole]);
    parts.iter_mut().for_each(|part| part.resize(padded(part.len(), MTU), 0));
    let texts = sealed::open(wire);
    assert!(texts.is_empty() || texts == parts, "{} parts of {}", texts.len(), parts.len());
    texts.len()
}

/// The parts of a packet, by copying.
fn apart(split: &Split, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut end = split.header_bytes();
    let parts = (0..split.count()).map(|part| {
        let payload = split.payload(part);
        assert_eq!(payload.start + split.header_bytes(), end);
        end = payload.end + split.header_bytes();
        let payload = packet.get(payload.start + split.header_bytes()..end);
        let mut bytes = [&vec![0; split.header_bytes()], payload.unwrap_or_default()].concat();
        split.finish(part, &mut bytes);
        bytes
    });
    let parts = parts.collect();
    assert_eq!(end, packet.len());
    parts
}

/// Packets behind each other, each with its length in front.
pub(crate) fn join(bytes: &[u8]) {
    let mut joiner = Joiner::new(Offers { tcp: true, udp: true });
    let mut memory = bytes.to_vec();
    let (mut at, mut total) = (0, 0);
    while let Some(&length) = memory.get(at..).and_then(|rest| rest.first_chunk::<2>()) {
        let start = at + 2;
        let end = (start + usize::from(u16::from_le_bytes(length))).min(memory.len());
        at = end;
        let Some(ip) = memory.get(start..end).and_then(IpHeader::parse) else { continue };
        total += ip.total_bytes;
        joiner.push(&memory[..], start..start + ip.total_bytes, &ip);
    }
    let mut delivered = 0;
    joiner.deliver(&mut memory[..], |slices| {
        let bytes: usize = slices.iter().skip(1).map(|slice| slice.len()).sum();
        assert!(bytes <= MOST_PACKET_BYTES);
        delivered += bytes;
    });
    assert!(delivered <= total, "bytes out of nothing");
}

/// What the kernel says beside a datagram (cmsg(3)).
pub(crate) fn control_messages(bytes: &[u8]) {
    let mut envelope = Envelope::default();
    for (to, from) in envelope.control.iter_mut().zip(bytes) {
        *to = *from;
    }
    envelope.control_bytes = bytes.len();
    let (segment, _, _) = envelope.received();
    assert!(segment != Some(0));
    for (to, from) in envelope.address.iter_mut().zip(bytes) {
        *to = *from;
    }
    let _ = envelope.from();
}

/// A request of wg(8).
pub(crate) fn uapi_requests(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(uapi::Request::Set(changes)) = uapi::parse(text)
    {
        let [mut engine, _] = acquainted(Instant::now());
        let _ = uapi::apply_to(&mut engine, &changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn corpus<T>(name: &str, door: impl Fn(&[u8]) -> T) -> Vec<T> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let files = std::fs::read_dir(corpus).unwrap();
        files.map(|file| door(&std::fs::read(file.unwrap().path()).unwrap())).collect()
    }

    /// Or a door could be shut without anybody's noticing.
    #[test]
    fn corpora_come_through_their_doors() {
        let parts = corpus("link", parts);
        let of = |what: fn(usize) -> bool| parts.iter().filter(|count| what(**count)).count();
        assert!(of(|count| count == 1) >= 2 && of(|count| count > 1) >= 6, "{parts:?}");
        let counts = corpus("datagrams", counted);
        let of = |what: fn(&Counts) -> usize| counts.iter().filter(|one| what(one) > 0).count();
        let (passed, replayed) = (of(|one| one.passed), of(|one| one.replayed));
        assert!(passed >= 8 && replayed >= 3, "{counts:?}");
        let (refused, dropped) = (of(|one| one.refused), of(|one| one.dropped));
        assert!(refused >= 3 && dropped >= 3, "{counts:?}");
    }
}
