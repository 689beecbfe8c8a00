//! Addresses that nodes and edges must be able to use. Pure.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Networks of which no host has an address that others could send to (RFC 6890, RFC 5771,
/// RFC 4291 section 2).
const SPECIAL: [IpNet; 9] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    // Multicast, and what was kept for later.
    v4([224, 0, 0, 0], 3),
    v6(0, 127),
    // IPv4 addresses in the clothes of IPv6.
    v6(0xffff << 32, 96),
    v6(0x64_ff9b << 96, 96),
    v6(0xfe80 << 112, 10),
    v6(0xff00 << 112, 8),
];

const fn v4(octets: [u8; 4], bits: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits))
}

const fn v6(number: u128, bits: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(number), bits))
}

/// Whether two networks have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Why no host can live in `net`, or not only hosts.
pub(super) fn unfit_net(net: &IpNet) -> Option<String> {
    if net.prefix_len() == 0 {
        return Some("covers all addresses".into());
    }
    let special = SPECIAL.iter().find(|special| overlap(special, net))?;
    Some(format!("overlaps {special}, where no hosts are"))
}

/// Why nothing can be sent to `to`.
pub(super) fn unfit_target(to: &SocketAddr) -> Option<String> {
    if to.port() == 0 {
        return Some("nothing can be sent to port 0".into());
    }
    unfit_host(to.ip())
}

/// Why `address` cannot be a host's. Loopback can: tests and laboratories run on one machine.
pub(super) fn unfit_host(address: IpAddr) -> Option<String> {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    (address.is_unspecified() || address.is_multicast() || broadcast)
        .then(|| "is no host's address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_hosts_are_told_from_others() {
        for good in ["10.0.0.0/8", "192.0.2.0/24", "fd00::/64", "2001:db8::/32", "203.0.113.7/32"] {
            assert_eq!(unfit_net(&good.parse().unwrap()), None, "{good}");
        }
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "127.0.0.1/32",
            "64.0.0.0/2",
            "239.1.0.0/16",
            "169.254.0.0/24",
            "::1/128",
            "::ffff:10.0.0.0/104",
            "fe80::/64",
            "ff02::/16",
        ] {
            assert!(unfit_net(&bad.parse().unwrap()).is_some(), "{bad}");
        }
    }

    #[test]
    fn nothing_can_be_sent_nowhere() {
        for good in ["192.0.2.1:51820", "127.0.0.1:1", "[2001:db8::1]:65535"] {
            assert_eq!(unfit_target(&good.parse().unwrap()), None, "{good}");
        }
        for bad in ["192.0.2.1:0", "0.0.0.0:51820", "[::]:1", "224.0.0.1:9", "255.255.255.255:9"] {
            assert!(unfit_target(&bad.parse().unwrap()).is_some(), "{bad}");
        }
    }
}
