//! Addresses and control messages in the bytes that the kernel takes and gives (cmsg(3), ip(7),
//! ipv6(7), udp(7)).

use super::inner::ecn::Ecn;
use super::sys::{ADDRESS_BYTES, Envelope};
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `struct cmsghdr`: length, level, kind.
const HEADER_BYTES: usize = size_of::<usize>() + 8;

impl Envelope {
    /// For a datagram to `to`.
    pub(super) fn to(to: SocketAddr) -> Self {
        let mut envelope = Envelope::default();
        let family = match to {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
        let mut bytes = [family, to.port().to_be_bytes()].concat();
        match to {
            SocketAddr::V4(v4) => {
                bytes.extend(v4.ip().octets());
                bytes.extend([0; 8]);
            }
            SocketAddr::V6(v6) => {
                bytes.extend(v6.flowinfo().to_ne_bytes());
                bytes.extend(v6.ip().octets());
                bytes.extend(v6.scope_id().to_ne_bytes());
            }
        }
        envelope.address[..bytes.len()].copy_from_slice(&bytes);
        envelope.address_bytes = u32::try_from(bytes.len()).unwrap_or_default();
        envelope
    }

    /// Where a datagram is from; none when the kernel gave no address of IP.
    pub(super) fn from(&self) -> Option<SocketAddr> {
        let address: &[u8; ADDRESS_BYTES] = &self.address;
        let (family, rest) = address.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Some(SocketAddr::new(IpAddr::V4(ip), port))
            }
            libc::AF_INET6 => {
                let (flow, rest) = rest.split_first_chunk::<4>()?;
                let (ip, rest) = rest.split_first_chunk::<16>()?;
                let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
                let flow = u32::from_ne_bytes(*flow);
                Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// The datagram is to be sent as many of `bytes` each.
    pub(super) fn set_segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    /// The datagram is to carry these marks.
    pub(super) fn set_ecn(&mut self, ecn: Ecn, to: IpAddr) {
        let class = i32::from(ecn.bits()).to_ne_bytes();
        match to.to_canonical() {
            IpAddr::V4(_) => self.push(libc::IPPROTO_IP, libc::IP_TOS, &class),
            IpAddr::V6(_) => self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class),
        }
    }

    /// The datagram is to go out from this address.
    pub(super) fn set_source(&mut self, from: IpAddr) {
        match from.to_canonical() {
            // `struct in_pktinfo`: link, address to send from, address that was sent to.
            IpAddr::V4(ip) => {
                let info = [[0; 4], ip.octets(), [0; 4]];
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info.as_flattened());
            }
            // `struct in6_pktinfo`: address, link.
            IpAddr::V6(ip) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// What the kernel says of a datagram that came: the bytes of each if it is several, the
    /// marks, and to which of our addresses it was sent.
    pub(super) fn received(&self) -> (Option<usize>, Ecn, Option<IpAddr>) {
        let (mut segment, mut ecn, mut at) = (None, Ecn::NotEct, None);
        let mut rest = self.control.get(..self.control_bytes).unwrap_or_default();
        while let Some((level, kind, data, behind)) = split_control(rest) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = data
                        .first_chunk()
                        .and_then(|bytes| usize::try_from(i32::from_ne_bytes(*bytes)).ok());
                }
                // One byte of the one, an int of the other.
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    ecn = data.first().copied().map(Ecn::of).unwrap_or_default();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                    ecn = class.map(|class| Ecn::of(class.to_le_bytes()[0])).unwrap_or_default();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let local = data.get(4..).and_then(|rest| rest.first_chunk::<4>());
                    at = local.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    at = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
                }
                _ => {}
            }
            rest = behind;
        }
        (segment.filter(|bytes| *bytes > 0), ecn, at)
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let space = (HEADER_BYTES + data.len()).next_multiple_of(size_of::<usize>());
        let Some(place) = self.control.get_mut(self.control_bytes..self.control_bytes + space)
        else {
            return;
        };
        let length = (HEADER_BYTES + data.len()).to_ne_bytes();
        let parts = [&length[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        for (to, from) in place.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        self.control_bytes += space;
    }
}

/// The first control message: level, kind, data; and what is behind it.
fn split_control(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<{ size_of::<usize>() }>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<4>()?;
    let length = usize::from_ne_bytes(*length);
    let data = bytes.get(HEADER_BYTES..length)?;
    let behind = bytes.get(length.checked_next_multiple_of(size_of::<usize>())?..);
    let (level, kind) = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
    Some((level, kind, data, behind.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::sys::CONTROL_BYTES;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_are_read_as_written(v6: bool, ip: [u8; 16], port: u16, scope: u32) {
            let address = match v6 {
                true => SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into(),
                false => SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port)),
            };
            let envelope = Envelope::to(address);
            prop_assert_eq!(envelope.from(), Some(address));
            prop_assert_eq!(envelope.address_bytes, if v6 { 28 } else { 16 });
        }

        #[test]
        fn marks_are_read_as_written(v6: bool, bits in 0u8..4, segment in 1u16..) {
            let to: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
            let mut envelope = Envelope::default();
            envelope.set_segment(segment);
            envelope.set_ecn(Ecn::of(bits), to);
            prop_assert_eq!(envelope.received(), (None, Ecn::of(bits), None), "what is sent is no answer");
            envelope.set_source(to);
            prop_assert_eq!(envelope.received(), (None, Ecn::of(bits), Some(to)));
        }

        #[test]
        fn anything_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), CONTROL_BYTES), length in 0usize..200) {
            let control = bytes.try_into().unwrap();
            let envelope = Envelope { control, control_bytes: length, ..Envelope::default() };
            let (segment, _, _) = envelope.received();
            prop_assert!(segment != Some(0));
        }
    }
}
