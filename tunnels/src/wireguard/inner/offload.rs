//! `struct virtio_net_hdr` (linux/virtio_net.h): what the kernel and a TUN device with
//! `IFF_VNET_HDR` tell each other about a packet that is yet to be split or summed up.
//!
//! Ten bytes, in the machine's order (`TUNSETVNETLE` is not used).

/// Before each packet.
pub(crate) const VNET_HEADER_BYTES: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How a packet that is too large for the link is to be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gso {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either, into datagrams.
    UdpL4,
}

/// The header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// Where the checksum that is still to be made begins, and where behind that it is written.
    /// What is there now is the sum of the pseudo header.
    pub checksum: Option<(u16, u16)>,
    /// Whether and how it is to be split, and the bytes of payload of each part; never 0.
    pub gso: Option<(Gso, u16)>,
    /// The bytes of all headers, of a packet to be split. The kernel takes it as a hint.
    pub header_bytes: u16,
}

impl VnetHeader {
    /// Reads it; none for what the kernel was not told that we take.
    pub(crate) fn parse(bytes: &[u8; VNET_HEADER_BYTES]) -> Option<Self> {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        let word = u16::from_ne_bytes;
        let size = word([s0, s1]);
        let gso = match gso & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some((Gso::Tcp4, size)),
            GSO_TCPV6 => Some((Gso::Tcp6, size)),
            GSO_UDP_L4 => Some((Gso::UdpL4, size)),
            _ => return None,
        };
        if gso.is_some_and(|(_, size)| size == 0) {
            return None;
        }
        let checksum = (flags & NEEDS_CSUM != 0).then(|| (word([c0, c1]), word([o0, o1])));
        Some(VnetHeader { checksum, gso, header_bytes: word([h0, h1]) })
    }

    /// The bytes of it.
    pub(crate) fn encode(&self) -> [u8; VNET_HEADER_BYTES] {
        let (start, offset) = self.checksum.unwrap_or_default();
        let (kind, size) = match self.gso {
            None => (GSO_NONE, 0),
            Some((Gso::Tcp4, size)) => (GSO_TCPV4, size),
            Some((Gso::Tcp6, size)) => (GSO_TCPV6, size),
            Some((Gso::UdpL4, size)) => (GSO_UDP_L4, size),
        };
        let flags = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        let [h0, h1] = self.header_bytes.to_ne_bytes();
        let [s0, s1] = size.to_ne_bytes();
        let [c0, c1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = VnetHeader> {
        let gso = prop_oneof![Just(Gso::Tcp4), Just(Gso::Tcp6), Just(Gso::UdpL4)];
        let checksum = proptest::option::of(any::<(u16, u16)>());
        (checksum, proptest::option::of((gso, 1u16..)), any::<u16>())
            .prop_map(|(checksum, gso, header_bytes)| VnetHeader { checksum, gso, header_bytes })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in headers()) {
            prop_assert_eq!(VnetHeader::parse(&header.encode()), Some(header));
        }

        #[test]
        fn anything_is_read_without_harm(bytes: [u8; VNET_HEADER_BYTES]) {
            if let Some(header) = VnetHeader::parse(&bytes) {
                prop_assert!(header.gso.is_none_or(|(_, size)| size > 0));
            }
        }
    }

    #[test]
    fn the_kernels_bytes_are_these() {
        // 1448 bytes each over a header of 66, as the kernel passes TCP over IPv4 with options.
        let header =
            VnetHeader { checksum: Some((20, 16)), gso: Some((Gso::Tcp4, 1448)), header_bytes: 52 };
        let mut bytes = vec![1, 1];
        for word in [52u16, 1448, 20, 16] {
            bytes.extend(word.to_ne_bytes());
        }
        assert_eq!(header.encode().to_vec(), bytes);
        assert_eq!(VnetHeader::parse(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0]), None, "UFO was not offered");
    }
}
