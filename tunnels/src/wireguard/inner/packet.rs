//! What is read of the packets that a tunnel carries: enough to route, to split and to join them.
//!
//! Nothing here trusts a length that the bytes do not bear out. RFC 791, 8200, 9293, 768.

use super::ecn::Ecn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IPV4_HEADER_BYTES: usize = 20;
pub(crate) const IPV6_HEADER_BYTES: usize = 40;
pub(crate) const TCP_HEADER_BYTES: usize = 20;
pub(crate) const UDP_HEADER_BYTES: usize = 8;

/// The first header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IpHeader {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The bytes of this header, options included.
    pub header_bytes: usize,
    /// The bytes of the whole packet, as the header says.
    pub total_bytes: usize,
    /// What follows. Of IPv6 the next header: extension headers are not looked through, as
    /// nothing is joined or split behind them.
    pub protocol: u8,
    /// The congestion marks.
    pub ecn: Ecn,
    /// It is a part of a packet. Of IPv6 never: those have another next header.
    pub is_fragment: bool,
}

impl IpHeader {
    /// Reads it; none when it is no IP, or says to be longer than it is. What is behind the
    /// packet's end is padding.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        Self::parse_head(packet, packet.len())
    }

    /// Reads it from the first bytes of a packet of `bytes` bytes.
    pub(crate) fn parse_head(head: &[u8], bytes: usize) -> Option<Self> {
        match head.first()? >> 4 {
            4 => Self::parse_v4(head, bytes),
            6 => Self::parse_v6(head, bytes),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8], bytes: usize) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV4_HEADER_BYTES>()?;
        let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
        let total_bytes = usize::from(be16(fixed, 2)?);
        let fits = header_bytes >= IPV4_HEADER_BYTES
            && header_bytes <= total_bytes
            && total_bytes <= bytes;
        fits.then(|| IpHeader {
            source: Ipv4Addr::from_octets([fixed[12], fixed[13], fixed[14], fixed[15]]).into(),
            destination: Ipv4Addr::from_octets([fixed[16], fixed[17], fixed[18], fixed[19]]).into(),
            header_bytes,
            total_bytes,
            protocol: fixed[9],
            ecn: Ecn::of(fixed[1]),
            // More fragments, or not the first one.
            is_fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0,
        })
    }

    fn parse_v6(packet: &[u8], bytes: usize) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV6_HEADER_BYTES>()?;
        let total_bytes = IPV6_HEADER_BYTES + usize::from(be16(fixed, 4)?);
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv6Addr::from_octets(*fixed.get(at..)?.first_chunk()?).into())
        };
        if total_bytes > bytes {
            return None;
        }
        Some(IpHeader {
            source: address(8)?,
            destination: address(24)?,
            header_bytes: IPV6_HEADER_BYTES,
            total_bytes,
            protocol: fixed[6],
            ecn: Ecn::of((fixed[0] << 4) | (fixed[1] >> 4)),
            is_fragment: false,
        })
    }
}

/// Writes other congestion marks into a packet, and the checksum that then holds.
pub(crate) fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match packet {
        [first, class, ..] if *first >> 4 == 6 => *class = (*class & 0xcf) | (ecn.bits() << 4),
        [first, class, rest @ ..] if *first >> 4 == 4 => {
            let before = u16::from_be_bytes([*first, *class]);
            *class = (*class & 0xfc) | ecn.bits();
            let after = u16::from_be_bytes([*first, *class]);
            if let Some(checksum) = rest.get_mut(8..10) {
                let old = u16::from_be_bytes([checksum[0], checksum[1]]);
                checksum.copy_from_slice(&updated(old, before, after).to_be_bytes());
            }
        }
        _ => {}
    }
}

/// A checksum after one word under it has changed (RFC 1624 §3, equation 3).
fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or_default()
}

/// The word at `at`.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// The double word at `at`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

/// Writes the word at `at`, if there is one.
pub(crate) fn put16(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *to = word.to_be_bytes();
    }
}

/// Writes the double word at `at`, if there is one.
pub(crate) fn put32(bytes: &mut [u8], at: usize, word: u32) {
    if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *to = word.to_be_bytes();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::checksum::Sum;
    use super::*;
    use proptest::prelude::*;

    /// A whole packet of TCP or UDP with right checksums, as a stack would send it.
    #[derive(Debug, Clone)]
    pub(crate) struct Sample {
        pub(crate) v6: bool,
        pub(crate) protocol: u8,
        pub(crate) tos: u8,
        pub(crate) id: u16,
        pub(crate) dont_fragment: bool,
        pub(crate) ports: [u16; 2],
        pub(crate) seq: u32,
        pub(crate) ack: u32,
        pub(crate) flags: u8,
        pub(crate) options: Vec<u8>,
        pub(crate) payload: Vec<u8>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Sample {
                v6: false,
                protocol: TCP,
                tos: 0,
                id: 7,
                dont_fragment: true,
                ports: [1000, 2000],
                seq: 1,
                ack: 1,
                flags: 0x10,
                options: Vec::new(),
                payload: Vec::new(),
            }
        }
    }

    impl Sample {
        pub(crate) fn l4_bytes(&self) -> usize {
            if self.protocol == TCP { TCP_HEADER_BYTES + self.options.len() } else { 8 }
        }

        pub(crate) fn header_bytes(&self) -> usize {
            (if self.v6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES }) + self.l4_bytes()
        }

        pub(crate) fn build(&self) -> Vec<u8> {
            let l4_length = self.l4_bytes() + self.payload.len();
            let length = u16::try_from(l4_length).unwrap();
            let addresses: Vec<u8> = match self.v6 {
                true => [[0x20; 16], [0x30; 16]].concat(),
                false => [[10, 0, 0, 1], [10, 0, 0, 2]].concat(),
            };
            let mut packet = Vec::new();
            if self.v6 {
                packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                packet.extend(length.to_be_bytes());
                packet.extend([self.protocol, 64]);
            } else {
                packet.extend([0x45, self.tos]);
                packet.extend((length + 20).to_be_bytes());
                packet.extend(self.id.to_be_bytes());
                packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0]);
                packet.extend([64, self.protocol, 0, 0]);
            }
            packet.extend(&addresses);
            if !self.v6 {
                let sum = Sum::default().add(&packet).checksum();
                put16(&mut packet, 10, sum);
            }
            let l4 = packet.len();
            packet.extend(self.ports.map(u16::to_be_bytes).concat());
            let checksum_at = if self.protocol == TCP {
                packet.extend(self.seq.to_be_bytes());
                packet.extend(self.ack.to_be_bytes());
                let offset = u8::try_from(self.l4_bytes() / 4).unwrap() << 4;
                packet.extend([offset, self.flags, 0x10, 0, 0, 0, 0, 0]);
                packet.extend(&self.options);
                16
            } else {
                packet.extend(length.to_be_bytes());
                packet.extend([0, 0]);
                6
            };
            packet.extend(&self.payload);
            let pseudo = Sum::default().add(&addresses).add_word(self.protocol.into());
            let sum = pseudo.add_word(length).add(&packet[l4..]).checksum();
            let sum = if self.protocol == UDP && sum == 0 { 0xffff } else { sum };
            put16(&mut packet, l4 + checksum_at, sum);
            packet
        }
    }

    fn header_sum_is_right(packet: &[u8]) -> bool {
        Sum::default().add(&packet[..20]).value() == 0xffff
    }

    #[test]
    fn headers_are_read() {
        for (v6, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
            let sample =
                Sample { v6, protocol, tos: 0x2a, payload: vec![1; 9], ..Sample::default() };
            let mut packet = sample.build();
            let length = packet.len();
            packet.extend([0; 7]);
            let ip = IpHeader::parse(&packet).unwrap();
            assert_eq!((ip.total_bytes, ip.protocol), (length, protocol), "padding is not counted");
            assert_eq!(ip.header_bytes, if v6 { 40 } else { 20 });
            assert_eq!(ip.ecn, Ecn::Ect0);
            assert!(!ip.is_fragment);
            assert_ne!(ip.source, ip.destination);
            for cut in 0..length {
                assert_eq!(IpHeader::parse(&packet[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn fragments_are_told() {
        let mut packet = Sample::default().build();
        assert!(
            !IpHeader::parse(&packet).unwrap().is_fragment,
            "may not be fragmented is no fragment"
        );
        for bytes in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
            packet[6..8].copy_from_slice(&bytes);
            assert!(IpHeader::parse(&packet).unwrap().is_fragment);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(ip) = IpHeader::parse(&bytes) {
                prop_assert!(ip.header_bytes <= ip.total_bytes && ip.total_bytes <= bytes.len());
            }
            let mut marked = bytes.clone();
            set_ecn(&mut marked, Ecn::Ce);
            prop_assert_eq!(marked.len(), bytes.len());
        }

        #[test]
        fn a_marked_packet_has_the_right_checksum(v6: bool, tos: u8, to in 0u8..4, id: u16) {
            let mut packet = Sample { v6, tos, id, ..Sample::default() }.build();
            let want = Sample { v6, tos: tos & 0xfc | to, id, ..Sample::default() }.build();
            set_ecn(&mut packet, Ecn::of(to));
            if v6 {
                prop_assert_eq!(packet, want);
            } else {
                prop_assert!(header_sum_is_right(&packet));
                prop_assert_eq!(packet[1], want[1]);
            }
        }
    }
}
