//! Addresses.

use super::Kernel;
use crate::error::TalkError;
use crate::model::{Address, Family, LinkName, Mark};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

impl Family {
    pub(super) fn wire(self) -> AddressFamily {
        match self {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        }
    }
}

/// True for an address that nobody on its link can hold as well: the end of a point-to-point
/// link, or a host address. Duplicate address detection (RFC 4862 §5.4) would only make it
/// tentative for a while, in which the kernel refuses routes that name it as their source
/// (`ip6_route_info_create` in `net/ipv6/route.c`).
fn is_alone(address: &Address) -> bool {
    address.peer.is_some() || address.net.prefix_len() == address.net.max_prefix_len()
}

/// Describes `address` on the link with `index`, to add or delete it.
pub(super) fn describe(address: &Address, index: u32, mark: Option<Mark>) -> AddressMessage {
    let ip = address.net.addr();
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: Family::from(ip).wire(),
        prefix_len: address.net.prefix_len(),
        index,
        ..AddressHeader::default()
    };
    if ip.is_ipv6() && is_alone(address) {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(address.peer.unwrap_or(ip)));
    message
        .attributes
        .extend(mark.map(|mark| AddressAttribute::Protocol(AddressProtocol::from(mark))));
    message
}

/// Reads an `RTM_NEWADDR`; `None` for addresses that the model does not have.
pub(super) fn read(
    body: &[u8],
    names: &BTreeMap<u32, LinkName>,
) -> Result<Option<(Address, Mark)>, DecodeError> {
    let message = AddressMessage::parse(body)?;
    let (mut local, mut other, mut mark) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Protocol(protocol) => mark = u8::from(*protocol),
            _ => {}
        }
    }
    // IPv6 leaves the local address out when there is no peer.
    let Some(ip) = local.or(other) else { return Ok(None) };
    let peer: Option<IpAddr> = other.filter(|other| *other != ip);
    let named = names.get(&message.header.index).cloned();
    let net = IpNet::new(ip, message.header.prefix_len).ok();
    Ok(named.zip(net).map(|(link, net)| (Address { link, net, peer }, mark)))
}

impl Kernel {
    /// All addresses with their marks.
    pub(super) fn dump_addresses(
        &mut self,
        names: &BTreeMap<u32, LinkName>,
    ) -> Result<Vec<(Address, Mark)>, TalkError> {
        self.route.dump(RTM_GETADDR, &AddressMessage::default(), Vec::new, |all, kind, body| {
            if kind == RTM_NEWADDR {
                let read = read(body, names).map_err(|e| TalkError::Unreadable(e.to_string()))?;
                all.extend(read);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(ip: IpAddr, length in 0u8..=32, peer: bool, mark: u8) {
            let link: LinkName = "hf-x".parse().unwrap();
            let peer = peer.then(|| match ip {
                IpAddr::V4(_) => IpAddr::from([203, 0, 113, 9]),
                IpAddr::V6(_) => "2001:db8:9::9".parse().unwrap(),
            }).filter(|peer| *peer != ip);
            let address = Address { link: link.clone(), net: IpNet::new(ip, length).unwrap(), peer };
            let message = describe(&address, 5, Some(mark));
            let mut body = vec![0; message.buffer_len()];
            message.emit(&mut body);
            prop_assert_eq!(read(&body, &[(5, link)].into()).unwrap(), Some((address, mark)));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body, &BTreeMap::new());
        }
    }
}
