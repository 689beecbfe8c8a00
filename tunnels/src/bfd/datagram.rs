//! Control packets, and others between the two ends of a tunnel, as whole IP packets (RFC 5881 §4 and §5), for links whose packets pass
//! through our hands anyway: no socket, no crossing of the TUN device, no second thread to
//! wake for each of them, and no queue of the link in which they could wait or get lost.

use super::packet::PACKET_BYTES;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// The most that [`wrap`] makes of a control packet.
pub(crate) const LONGEST: usize = V6_HEADER + UDP_HEADER + PACKET_BYTES;
const HOPS: u8 = 255;
/// Class selector 6, network control (RFC 4594 §3.2).
const DSCP: u8 = 0xc0;
const DO_NOT_FRAGMENT: u8 = 0x40;

/// A packet that was found to be one of BFD's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// The UDP port that it is for.
    pub(crate) port: u16,
    pub(crate) payload: &'a [u8],
}

/// What is around a payload between these addresses.
pub(crate) fn header_bytes(to: IpAddr) -> usize {
    UDP_HEADER + if to.is_ipv4() { V4_HEADER } else { V6_HEADER }
}

/// Wraps a payload into the beginning of `buffer`, to the second of the ports; none when the
/// addresses are of two families or there is no room.
pub(crate) fn wrap<'a>(
    from: IpAddr,
    to: IpAddr,
    ports: [u16; 2],
    payload: &[u8],
    buffer: &'a mut [u8],
) -> Option<&'a [u8]> {
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let whole = buffer.get_mut(..header_bytes(to) + payload.len())?;
    // The addresses are the end of either header.
    let (header, addresses) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            whole[..V4_HEADER].copy_from_slice(&v4_header(from, to, udp_length));
            (V4_HEADER, 12)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            whole[..V6_HEADER].copy_from_slice(&v6_header(from, to, udp_length));
            (V6_HEADER, 8)
        }
        _ => return None,
    };
    let udp = &mut whole[header..];
    udp[..2].copy_from_slice(&ports[0].to_be_bytes());
    udp[2..4].copy_from_slice(&ports[1].to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    udp[6..8].fill(0);
    udp[UDP_HEADER..].copy_from_slice(payload);
    // The pseudo header of RFC 768 and RFC 8200 §8.1 adds up to the same for both families.
    let pseudo = u32::from(UDP) + u32::from(udp_length);
    let checksum = match fold(pseudo + sum(&whole[addresses..])) {
        // Zero would mean that there is none.
        0 => u16::MAX,
        checksum => checksum,
    };
    whole[header + 6..header + 8].copy_from_slice(&checksum.to_be_bytes());
    Some(whole)
}

/// Looks whether a packet is a datagram to one of `ports`: UDP, whole, without extensions.
pub(crate) fn unwrap<'a>(packet: &'a [u8], ports: &[u16]) -> Option<Datagram<'a>> {
    let (from, to, ttl, udp) = match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<V4_HEADER>()?;
            let whole = header[0] == 0x45 && header[6] & 0x3f == 0 && header[7] == 0;
            if !whole || header[9] != UDP {
                return None;
            }
            let ip = |at: usize| {
                IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            (ip(12), ip(16), header[8], packet.get(V4_HEADER..)?)
        }
        6 => {
            let header = packet.first_chunk::<V6_HEADER>()?;
            if header[6] != UDP {
                return None;
            }
            let ip = |at: usize| {
                header[at..at + 16].try_into().map(|ip: [u8; 16]| IpAddr::from(ip)).ok()
            };
            (ip(8)?, ip(24)?, header[7], packet.get(V6_HEADER..)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    if !ports.contains(&port) {
        return None;
    }
    // The checksum is not looked at: WireGuard has authenticated every bit.
    Some(Datagram { from, to, ttl, port, payload: udp.get(UDP_HEADER..length)? })
}

fn v4_header(from: Ipv4Addr, to: Ipv4Addr, udp_length: u16) -> [u8; V4_HEADER] {
    let mut header = [0; V4_HEADER];
    header[..2].copy_from_slice(&[0x45, DSCP]);
    header[2..4].copy_from_slice(&(udp_length.saturating_add(20)).to_be_bytes());
    header[6] = DO_NOT_FRAGMENT;
    header[8..10].copy_from_slice(&[HOPS, UDP]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let checksum = fold(sum(&header)).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    header
}

fn v6_header(from: Ipv6Addr, to: Ipv6Addr, udp_length: u16) -> [u8; V6_HEADER] {
    let mut header = [0; V6_HEADER];
    header[..2].copy_from_slice(&[0x60 | DSCP >> 4, DSCP << 4]);
    header[4..6].copy_from_slice(&udp_length.to_be_bytes());
    header[6..8].copy_from_slice(&[UDP, HOPS]);
    header[8..24].copy_from_slice(&from.octets());
    header[24..].copy_from_slice(&to.octets());
    header
}

/// The sum of 16-bit words of RFC 1071; what is summed here is short.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(|pair| u32::from(word(pair))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::socket::CONTROL_PORT;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(v6: bool, a: [u8; 16], b: [u8; 16], ports: [u16; 2], payload in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let ip = |bytes: [u8; 16]| match v6 {
                true => IpAddr::from(bytes),
                false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            };
            let (from, to) = (ip(a), ip(b));
            let mut buffer = [0xaa; 2000];
            let bytes = wrap(from, to, ports, &payload, &mut buffer).unwrap();
            let port = ports[1];
            prop_assert_eq!(unwrap(bytes, &[port]), Some(Datagram { from, to, ttl: 255, port, payload: &payload }));
            prop_assert_eq!(unwrap(bytes, &[!port]), None);
            prop_assert_eq!(bytes.len(), header_bytes(to) + payload.len());
            let udp = &bytes[header_bytes(to) - UDP_HEADER..];
            let addresses = if v6 { 8..40 } else { 12..20 };
            let pseudo = sum(&bytes[addresses]) + u32::from(UDP) + u32::try_from(udp.len()).unwrap();
            prop_assert_eq!(fold(pseudo + sum(udp)), 0, "the checksum of UDP");
            if !v6 {
                prop_assert_eq!(fold(sum(&bytes[..V4_HEADER])), 0, "a right checksum adds up to nothing");
            }
        }

        #[test]
        fn arbitrary_packets_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), version in 4u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | 5;
            }
            if let Some(found) = unwrap(&bytes, &[CONTROL_PORT, 0]) {
                prop_assert!(found.payload.len() < bytes.len());
            }
        }
    }

    #[test]
    fn other_traffic_is_left_alone() {
        let (here, there) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut buffer = [0; LONGEST];
        let good = wrap(here, there, [50_000, CONTROL_PORT], &[7; PACKET_BYTES], &mut buffer)
            .unwrap()
            .to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert!(unwrap(&good, &[CONTROL_PORT]).is_some());
        assert_eq!(unwrap(&with(9, 6), &[CONTROL_PORT]), None, "TCP");
        assert_eq!(unwrap(&with(7, 1), &[CONTROL_PORT]), None, "a later fragment");
        assert_eq!(unwrap(&with(6, 0x20), &[CONTROL_PORT]), None, "a first fragment");
        assert_eq!(unwrap(&with(23, 0xc9), &[CONTROL_PORT]), None, "another port");
        assert_eq!(unwrap(&with(25, 200), &[CONTROL_PORT]), None, "longer than it is");
        assert_eq!(unwrap(&good[..27], &[CONTROL_PORT]), None, "cut short");
        assert_eq!(
            unwrap(&with(8, 64), &[CONTROL_PORT]).unwrap().ttl,
            64,
            "routed: for the session to discard"
        );
        let v6 = "::1".parse().unwrap();
        assert_eq!(wrap(here, v6, [1, 2], &[0; PACKET_BYTES], &mut buffer), None);
    }
}
