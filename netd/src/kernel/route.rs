//! Routes.

use super::Kernel;
use crate::error::TalkError;
use crate::model::{Family, Item, LinkName, Mark, Route, RouteKey, RouteTarget};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// Whether a request is to add or replace, or to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Add,
    Delete,
}

/// A route of the kernel, as far as the model can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Route(Route, Mark),
    /// Its place is taken by something that the model has no words for (several nexthops,
    /// an encapsulation, a link without a name).
    Place(RouteKey, Mark),
}

impl Seen {
    pub(super) fn table(&self) -> u32 {
        match self {
            Seen::Route(route, _) => route.table,
            Seen::Place(key, _) => key.table,
        }
    }
}

/// Describes `route`; `index` is that of the link that it names.
pub(super) fn describe(
    route: &Route,
    index: Option<u32>,
    mark: Mark,
    purpose: Purpose,
) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: route.family().wire(),
        destination_prefix_length: route.prefix.prefix_len(),
        // Tables above 255 do not fit the header; the attribute counts in any case.
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::from(mark),
        scope: match (purpose, &route.target) {
            // "Whatever its scope": a delete request with another one finds nothing.
            (Purpose::Delete, _) => RouteScope::NoWhere,
            (Purpose::Add, RouteTarget::Dev(_)) if route.family() == Family::V4 => RouteScope::Link,
            (Purpose::Add, _) => RouteScope::Universe,
        },
        kind: match route.target {
            RouteTarget::Blackhole => RouteType::BlackHole,
            RouteTarget::Unreachable => RouteType::Unreachable,
            RouteTarget::Throw => RouteType::Throw,
            _ => RouteType::Unicast,
        },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.reserve(7);
    attributes.push(RouteAttribute::Table(route.table));
    attributes.push(RouteAttribute::Destination(route.prefix.addr().into()));
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    match &route.target {
        RouteTarget::Via { gateway, onlink, .. } => {
            attributes.push(if Family::from(*gateway) == route.family() {
                RouteAttribute::Gateway((*gateway).into())
            } else {
                RouteAttribute::Via(match gateway {
                    IpAddr::V4(ip) => RouteVia::Inet(*ip),
                    IpAddr::V6(ip) => RouteVia::Inet6(*ip),
                })
            });
            attributes.extend(index.map(RouteAttribute::Oif));
            if *onlink {
                message.header.flags |= RouteFlags::Onlink;
            }
        }
        RouteTarget::Dev(_) => attributes.extend(index.map(RouteAttribute::Oif)),
        RouteTarget::Nexthop(id) => attributes.push(RouteAttribute::NhId(*id)),
        RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Throw => {}
    }
    if purpose == Purpose::Add {
        attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        attributes
            .extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    }
    message
}

/// Reads an `RTM_NEWROUTE`; `None` for what is no route of ours or in our way (cached, local,
/// broadcast and multicast entries).
pub(super) fn read(
    body: &[u8],
    names: &BTreeMap<u32, LinkName>,
) -> Result<Option<Seen>, DecodeError> {
    let message = RouteMessage::parse(body)?;
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let (mut table, mut metric) = (u32::from(header.table), 0);
    let (mut prefix, mut gateway, mut source) = (None, None, None);
    let (mut oif, mut nexthop, mut mtu, mut beyond) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Destination(address) => prefix = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::NhId(id) => nexthop = Some(*id),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics
                    .iter()
                    .find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) => beyond = true,
            _ => {}
        }
    }
    let family = match header.address_family {
        netlink_packet_route::AddressFamily::Inet => Family::V4,
        netlink_packet_route::AddressFamily::Inet6 => Family::V6,
        _ => return Ok(None),
    };
    let everything = match family {
        Family::V4 => IpAddr::from([0u8; 4]),
        Family::V6 => IpAddr::from([0u8; 16]),
    };
    let Ok(prefix) = IpNet::new(prefix.unwrap_or(everything), header.destination_prefix_length)
    else {
        return Ok(None);
    };
    let link = || oif.and_then(|index| names.get(&index).cloned());
    let target = match (header.kind, nexthop) {
        // With a nexthop object the kernel repeats what that says at the moment, also that it leads
        // nowhere (fib_dump_info in net/ipv4/fib_semantics.c); the object counts.
        (RouteType::Unicast | RouteType::BlackHole, Some(id)) => Some(RouteTarget::Nexthop(id)),
        (RouteType::BlackHole, None) => Some(RouteTarget::Blackhole),
        (RouteType::Unreachable, _) => Some(RouteTarget::Unreachable),
        (RouteType::Throw, _) => Some(RouteTarget::Throw),
        (RouteType::Unicast, None) if beyond => None,
        (RouteType::Unicast, None) => link().map(|link| match gateway {
            Some(gateway) => {
                let onlink = header.flags.contains(RouteFlags::Onlink);
                RouteTarget::Via { gateway, link, onlink }
            }
            None => RouteTarget::Dev(link),
        }),
        (RouteType::Prohibit, _) => None,
        _ => return Ok(None),
    };
    let mark = u8::from(header.protocol);
    let blank =
        Route { table, prefix, target: RouteTarget::Blackhole, metric, source, mtu }.normal();
    Ok(Some(match target {
        Some(target) => Seen::Route(Route { target, ..blank }, mark),
        None => Seen::Place(blank.key(), mark),
    }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

impl Kernel {
    /// Routes of both families in the tables that `wanted` accepts; only those signed with
    /// `mark` when it is given, which the kernel filters itself.
    pub(super) fn dump_routes(
        &mut self,
        names: &BTreeMap<u32, LinkName>,
        mark: Option<Mark>,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Vec<Seen>, TalkError> {
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family.wire();
            request.header.protocol = mark.map_or(RouteProtocol::Unspec, RouteProtocol::from);
            let routes = self.route.dump(RTM_GETROUTE, &request, Vec::new, |routes, kind, body| {
                if kind == RTM_NEWROUTE {
                    let seen =
                        read(body, names).map_err(|e| TalkError::Unreadable(e.to_string()))?;
                    routes.extend(seen.filter(|seen| wanted(seen.table())));
                }
                Ok(())
            });
            match routes {
                Ok(routes) => all.extend(routes),
                // A kernel without IPv6 has no IPv6 routes.
                Err(error)
                    if matches!(error.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn target() -> impl Strategy<Value = RouteTarget> {
        let link: LinkName = "hf-x".parse().unwrap();
        let on = link.clone();
        prop_oneof![
            (any::<IpAddr>(), any::<bool>()).prop_map(move |(gateway, onlink)| {
                RouteTarget::Via { gateway, link: link.clone(), onlink }
            }),
            Just(RouteTarget::Dev(on)),
            (1u32..).prop_map(RouteTarget::Nexthop),
            Just(RouteTarget::Blackhole),
            Just(RouteTarget::Unreachable),
            Just(RouteTarget::Throw),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            ip: IpAddr, length in 0u8..=32, target in target(), table in 1u32.., metric: u32,
            mtu in prop::option::of(68u32..65_536), mark: u8,
        ) {
            let source = metric.is_multiple_of(2).then_some(ip);
            let route = Route { table, prefix: IpNet::new(ip, length).unwrap(), target, metric, source, mtu }.normal();
            let message = describe(&route, route.link().map(|_| 5), mark, Purpose::Add);
            let mut body = vec![0; message.buffer_len()];
            message.emit(&mut body);
            let names = [(5, "hf-x".parse().unwrap())].into();
            prop_assert_eq!(read(&body, &names).unwrap(), Some(Seen::Route(route, mark)));
        }

        /// As the kernel describes a route over a nexthop that leads nowhere.
        #[test]
        fn a_nexthop_that_leads_nowhere_is_a_nexthop(id in 1u32.., v6: bool) {
            let prefix = if v6 { "fd00:1::/48" } else { "10.1.0.0/16" };
            let target = RouteTarget::Nexthop(id);
            let route = Route::new(7200, prefix.parse().unwrap(), target).normal();
            let mut message = describe(&route, None, 72, Purpose::Add);
            message.header.kind = RouteType::BlackHole;
            let mut body = vec![0; message.buffer_len()];
            message.emit(&mut body);
            prop_assert_eq!(read(&body, &BTreeMap::new()).unwrap(), Some(Seen::Route(route, 72)));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&body, &BTreeMap::new());
        }
    }
}
