//! What makes packets of TCP and UDP the parts of one (net/ipv4/tcp_offload.c and
//! net/ipv4/udp_offload.c, what they call GRO).

use super::checksum::Sum;
use super::packet::{
    IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpHeader, TCP, TCP_HEADER_BYTES, UDP, UDP_HEADER_BYTES,
    be16, be32,
};
use std::net::IpAddr;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    source: IpAddr,
    destination: IpAddr,
    ports: u32,
    protocol: u8,
}

impl Flow {
    /// Of a packet of TCP or UDP.
    pub(crate) fn of(ip: &IpHeader, packet: &[u8]) -> Option<Self> {
        let has_ports = matches!(ip.protocol, TCP | UDP);
        has_ports.then_some(Flow {
            source: ip.source,
            destination: ip.destination,
            ports: be32(packet, ip.header_bytes)?,
            protocol: ip.protocol,
        })
    }

    /// Whether a packet goes the same way, whatever else it is.
    pub(crate) fn is_between(&self, ip: &IpHeader) -> bool {
        (self.source, self.destination) == (ip.source, ip.destination)
    }
}

/// A packet that may be joined with others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// Its flow.
    pub flow: Flow,
    /// The bytes before TCP or UDP.
    pub l4: usize,
    /// The bytes of all headers.
    pub header_bytes: usize,
    /// The bytes behind them, 1 and more.
    pub payload_bytes: usize,
    /// Where in its stream it begins; 0 for UDP, whose datagrams follow in the order they come.
    pub seq: u32,
    /// Nothing may be joined behind it.
    pub is_last: bool,
}

impl Candidate {
    /// Of a packet that ends where its header says; none when it has to be delivered as it is.
    /// Its checksums are not looked at: what came through the tunnel is authentic, and was not
    /// damaged since its sender sealed it (as in drivers/net/wireguard/receive.c).
    pub(crate) fn of(ip: &IpHeader, packet: &[u8]) -> Option<Self> {
        let plain = match ip.destination {
            IpAddr::V4(_) => ip.header_bytes == IPV4_HEADER_BYTES,
            IpAddr::V6(_) => ip.header_bytes == IPV6_HEADER_BYTES,
        };
        if !plain || ip.is_fragment || packet.len() != ip.total_bytes {
            return None;
        }
        let (flow, l4) = (Flow::of(ip, packet)?, ip.header_bytes);
        let (l4_bytes, seq, is_last) = match ip.protocol {
            TCP => {
                let bytes = usize::from(*packet.get(l4 + 12)? >> 4) * 4;
                let flags = *packet.get(l4 + 13)?;
                // Only what is all data: no beginning, no end, nothing urgent, no marks.
                if bytes < TCP_HEADER_BYTES || flags & !TCP_PSH != TCP_ACK {
                    return None;
                }
                (bytes, be32(packet, l4 + 4)?, flags & TCP_PSH != 0)
            }
            UDP => {
                let length = usize::from(be16(packet, l4 + 4)?);
                if length != packet.len() - l4 || be16(packet, l4 + 6)? == 0 {
                    return None;
                }
                (UDP_HEADER_BYTES, 0, false)
            }
            _ => return None,
        };
        let header_bytes = l4 + l4_bytes;
        let payload_bytes = packet.len().checked_sub(header_bytes).filter(|bytes| *bytes > 0)?;
        Some(Candidate { flow, l4, header_bytes, payload_bytes, seq, is_last })
    }

    /// Whether the headers of `next` say the same as those of `head`, the first packet of this
    /// flow, but for what differs in each: lengths, checksums, numbers. `number` is how many
    /// packets after the first it is.
    pub(crate) fn is_like(&self, head: &[u8], next: &[u8], number: usize) -> bool {
        let l3 = match self.flow.destination {
            IpAddr::V4(_) => {
                // Identifications mean something where it may be fragmented (RFC 6864 §4).
                let may_fragment = head.get(6).is_some_and(|flags| flags & 0x40 == 0);
                let ids = be16(head, 4).zip(be16(next, 4));
                let numbered = ids.is_some_and(|(first, id)| {
                    usize::from(id.wrapping_sub(first)) == number & 0xffff
                });
                // Type of service; flags; time to live. The rest is the flow's.
                (!may_fragment || numbered) && same(head, next, 1..2) && same(head, next, 6..9)
            }
            // Traffic class and flow label; hop limit.
            IpAddr::V6(_) => same(head, next, 0..4) && same(head, next, 7..8),
        };
        let l4 = self.l4;
        // The acknowledgement and the offset; the window; the urgent pointer and the options.
        let of_tcp = || {
            same(head, next, l4 + 8..l4 + 13)
                && same(head, next, l4 + 14..l4 + 16)
                && same(head, next, l4 + 18..self.header_bytes)
        };
        l3 && (self.flow.protocol == UDP || of_tcp())
    }

    /// The sum of the pseudo header of `bytes` behind `l3`.
    pub(crate) fn pseudo(&self, l3: &[u8], bytes: usize) -> Sum {
        let addresses = match self.flow.destination {
            IpAddr::V4(_) => l3.get(12..20),
            IpAddr::V6(_) => l3.get(8..40),
        };
        Sum::default()
            .add(addresses.unwrap_or_default())
            .add_word(self.flow.protocol.into())
            .add_word(u16::try_from(bytes).unwrap_or(u16::MAX))
    }

    /// Whether it is of IPv4; else it is of IPv6.
    pub(crate) fn is_v4(&self) -> bool {
        self.flow.destination.is_ipv4()
    }

    /// Whether it is of TCP; else it is of UDP.
    pub(crate) fn is_tcp(&self) -> bool {
        self.flow.protocol == TCP
    }
}

fn same(one: &[u8], other: &[u8], range: std::ops::Range<usize>) -> bool {
    one.get(range.clone()).is_some_and(|bytes| Some(bytes) == other.get(range))
}
