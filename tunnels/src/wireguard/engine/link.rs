//! The way out: a packet of the link becomes datagrams to the peer whose prefix it is for.

use super::Engine;
use crate::wireguard::inner::ecn::Ecn;
use crate::wireguard::inner::offload::VnetHeader;
use crate::wireguard::inner::packet::{IpHeader, UDP, be16};
use crate::wireguard::inner::split::{MOST_HEADER_BYTES, Split, complete_checksum};
use crate::wireguard::layout::Layout;
use crate::wireguard::message::{DATA_HEADER_BYTES, TAG_BYTES, padded};
use crate::wireguard::outbox::{Fragments, Network, Outbox, Way};
use crate::wireguard::staged::MOST_PACKETS;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

/// A packet of the link, read to [`Outbox::room`] and what is behind it.
#[derive(Debug)]
pub(crate) struct LinkPacket<'a> {
    /// What the kernel says of it.
    pub vnet: VnetHeader,
    /// Where it was read to.
    pub layout: Layout,
    /// What did not fit there.
    pub spill: &'a [u8],
    /// Its bytes.
    pub total: usize,
}

/// What the way out needs besides peers.
#[derive(Debug)]
pub(super) struct Link {
    mtu: usize,
    /// For packets that were not where they should be.
    whole: Vec<u8>,
}

impl Default for Link {
    fn default() -> Self {
        Link { mtu: crate::wireguard::DEFAULT_MTU as usize, whole: Vec::new() }
    }
}

/// Whom a packet is for.
struct Target {
    number: usize,
    way: Way,
    ecn: Ecn,
}

/// How many datagrams were sealed, and the bytes of all.
#[derive(Default)]
struct Sealed {
    datagrams: u64,
    bytes: u64,
}

impl Engine {
    /// The link's MTU in bytes: no padding goes beyond it.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.link.mtu = mtu;
    }

    /// Where to expect the next packet that is not to be split.
    pub(crate) fn layout(&self) -> Layout {
        Layout::whole(self.link.mtu)
    }

    /// Encrypts a packet from the link that was read to where the datagrams will be; gives where
    /// to expect the next one. Without a session it waits for one, with up to 128 others per
    /// peer. A packet is dropped that belongs to no peer, or to one that was never heard and has no
    /// endpoint, or that is a datagram of this very tunnel on its way back into it.
    pub(crate) fn take_packet<N: Network>(
        &mut self,
        packet: LinkPacket<'_>,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) -> Layout {
        let mtu = self.link.mtu;
        let LinkPacket { vnet, layout, total, .. } = packet;
        let room = outbox.room();
        let first = layout.packet(0, layout.part);
        let first = first.start.min(room.len())..first.end.min(first.start + total).min(room.len());
        let mut whole = std::mem::take(&mut self.link.whole);
        whole.clear();
        if first.len() < total.min(MOST_HEADER_BYTES) {
            layout.gather(room, packet.spill, total, &mut whole);
        }
        let head = if whole.is_empty() { &room[first] } else { &whole[..] };
        let split = Split::of(&vnet, head, total);
        let next = match &split {
            Some(split) => Layout::split(split.header_bytes(), split.part_bytes(), mtu),
            None => Layout::whole(mtu),
        };
        let target = self.target(head, total);
        if split.is_none() && vnet.gso.is_some() {
            tracing::debug!(?vnet, total, "a packet that cannot be split as the kernel asks");
        } else if let Some(target) = target {
            let is_in_place = whole.is_empty()
                && match &split {
                    Some(split) => next == layout && layout.holds(split.count(), room.len()),
                    None => total <= head.len(),
                };
            if is_in_place {
                self.send_in_place(&target, &packet, split.as_ref(), outbox, now);
            } else {
                if whole.is_empty() {
                    layout.gather(room, packet.spill, total, &mut whole);
                }
                self.send_copies(&target, &vnet, split.as_ref(), &mut whole, outbox, now);
            }
        }
        self.link.whole = whole;
        next
    }

    /// Encrypts a packet that is elsewhere, whole and with its checksums. One that must not be cut
    /// is not padded either: its size is what it is sent for.
    pub(crate) fn send<N: Network>(
        &mut self,
        packet: &[u8],
        fragments: Fragments,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        outbox.fragments = fragments;
        if let Some(target) = self.target(packet, packet.len()) {
            self.send_parts(&target, std::iter::once(packet), outbox, now);
        }
        outbox.fragments = Fragments::Allowed;
    }

    /// Whom a packet of `total` bytes is for that begins with `head`.
    fn target(&self, head: &[u8], total: usize) -> Option<Target> {
        let ip = IpHeader::parse_head(head, total)?;
        let number = self.allowed.lookup(ip.destination)? as usize;
        // Nobody knows where the peer is, so there is nothing to wait for either.
        let way = self.peers.get(number)?.as_ref()?.way()?;
        if is_udp_to(&ip, head, way.to) {
            tracing::debug!(destination = %way.to, "a datagram of the tunnel was routed into the tunnel");
            return None;
        }
        Some(Target { number, way, ecn: ip.ecn })
    }

    fn send_in_place<N: Network>(
        &mut self,
        target: &Target,
        packet: &LinkPacket<'_>,
        split: Option<&Split>,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let mtu = self.link.mtu;
        let count = split.map_or(1, Split::count);
        let Some(peer) = self.peers.get_mut(target.number).and_then(Option::as_mut) else { return };
        let place = |part| match split {
            Some(split) => packet.layout.packet(part, split.payload(part).len()),
            None => DATA_HEADER_BYTES..DATA_HEADER_BYTES + packet.total,
        };
        let room = outbox.room();
        for part in 0..count {
            let Some(bytes) = room.get_mut(place(part)) else { return };
            match split {
                Some(split) => split.finish(part, bytes),
                None => complete_checksum(&packet.vnet, bytes),
            }
        }
        let Some(sealing) = peer.reserve(count as u64, now) else {
            for part in 0..count {
                peer.stage(room.get(place(part)).unwrap_or_default());
            }
            return self.after_staging(target.number, outbox, now);
        };
        let mut last = 0;
        for part in 0..count {
            match pad(room, &place(part), mtu) {
                Some(bytes) => last = bytes,
                // Never: room was made for the whole.
                None => return,
            }
        }
        let segment = if count == 1 { last } else { packet.layout.stride };
        let sizes = (segment, count, last);
        let bytes = outbox.seal((target.way, target.ecn), &sealing, sizes);
        let sealed = Sealed { datagrams: count as u64, bytes: bytes as u64 };
        self.after_sending(target.number, &sealed, outbox, now);
    }

    fn send_copies<N: Network>(
        &mut self,
        target: &Target,
        vnet: &VnetHeader,
        split: Option<&Split>,
        whole: &mut [u8],
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let Some(split) = split else {
            complete_checksum(vnet, whole);
            return self.send_parts(target, std::iter::once(&*whole), outbox, now);
        };
        let payload = whole.get(split.header_bytes()..).unwrap_or_default();
        let parts = (0..split.count()).map(|part| {
            let mut packet = vec![0; split.header_bytes()];
            packet.extend_from_slice(payload.get(split.payload(part)).unwrap_or_default());
            split.finish(part, &mut packet);
            packet
        });
        self.send_parts(target, parts, outbox, now);
    }

    /// Encrypts whole packets that are elsewhere.
    fn send_parts<N: Network>(
        &mut self,
        target: &Target,
        packets: impl Iterator<Item = impl AsRef<[u8]>>,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let mtu = self.link.mtu;
        let Some(peer) = self.peers.get_mut(target.number).and_then(Option::as_mut) else { return };
        let mut sealed = Sealed::default();
        let mut is_staged = false;
        let fragments = outbox.fragments;
        for packet in packets {
            let packet = packet.as_ref();
            let Some(sealing) = peer.reserve(1, now) else {
                // What must not be cut would be forgotten by then.
                if fragments == Fragments::Allowed {
                    peer.stage(packet);
                    is_staged = true;
                }
                continue;
            };
            let room = outbox.room();
            let place = DATA_HEADER_BYTES..DATA_HEADER_BYTES + packet.len();
            let Some(bytes) = room.get_mut(place.clone()) else { continue };
            bytes.copy_from_slice(packet);
            let most = match fragments {
                Fragments::Allowed => mtu,
                Fragments::Forbidden => packet.len(),
            };
            if let Some(bytes) = pad(room, &place, most) {
                let way = (target.way, target.ecn);
                sealed.bytes += outbox.seal(way, &sealing, (bytes, 1, bytes)) as u64;
                sealed.datagrams += u64::from(!packet.is_empty());
            }
        }
        if is_staged {
            self.after_staging(target.number, outbox, now);
        }
        if sealed.bytes > 0 {
            self.after_sending(target.number, &sealed, outbox, now);
        }
    }

    /// Sends what waited for a session; true when something did.
    pub(super) fn send_staged<N: Network>(
        &mut self,
        number: usize,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return false };
        let Some(way) = peer.way() else { return false };
        // Without a session they would only be staged again.
        if !peer.has_staged() || !peer.can_send(now) {
            return false;
        }
        for _ in 0..MOST_PACKETS {
            let peer = self.peers.get_mut(number).and_then(Option::as_mut);
            let Some(packet) = peer.and_then(|peer| peer.unstage()) else { break };
            let ecn = IpHeader::parse(&packet).map(|ip| ip.ecn).unwrap_or_default();
            let target = Target { number, way, ecn };
            self.send_parts(&target, std::iter::once(packet), outbox, now);
        }
        true
    }

    /// Sends an empty packet, or a first message where there is no session for it.
    pub(super) fn keepalive<N: Network>(
        &mut self,
        number: usize,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        let Some(way) = peer.way() else { return };
        if peer.can_send(now) {
            let target = Target { number, way, ecn: Ecn::NotEct };
            self.send_parts(&target, std::iter::once(&[]), outbox, now);
        } else if peer.may_initiate(now) {
            self.initiate(number, outbox, now);
        }
    }

    fn after_staging<N: Network>(&mut self, number: usize, outbox: &mut Outbox<N>, now: Instant) {
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        if peer.may_initiate(now) && !peer.timers.is_shaking() {
            self.initiate(number, outbox, now);
        }
        self.keep_deadline(number);
    }

    fn after_sending<N: Network>(
        &mut self,
        number: usize,
        sealed: &Sealed,
        outbox: &mut Outbox<N>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        peer.tx_bytes += sealed.bytes;
        peer.timers.authenticated_sent(now);
        if sealed.datagrams > 0 {
            peer.data_sent(now);
        }
        if peer.is_stale_to_send(now) {
            self.initiate(number, outbox, now);
        }
        self.keep_deadline(number);
    }
}

/// Pads the packet at `place` in `room`; gives the bytes of the datagram that it will be, none where
/// there is no room for that.
fn pad(room: &mut [u8], place: &Range<usize>, mtu: usize) -> Option<usize> {
    let padded = padded(place.len(), mtu);
    let behind = place.start + padded + TAG_BYTES;
    room.get_mut(place.end..behind)?.get_mut(..padded - place.len())?.fill(0);
    Some(DATA_HEADER_BYTES + padded + TAG_BYTES)
}

/// Whether a packet is a UDP datagram to `endpoint`.
fn is_udp_to(ip: &IpHeader, head: &[u8], endpoint: SocketAddr) -> bool {
    ip.protocol == UDP
        && ip.destination == endpoint.ip().to_canonical()
        && be16(head, ip.header_bytes + 2) == Some(endpoint.port())
}
