//! `RTM_*NEXTHOP` messages (`linux/nexthop.h`).
//!
//! `netlink-packet-route` has none of them, so the header and the attributes that we use are
//! laid out here over `netlink-packet-core`. Attributes that we do not know are skipped.

use crate::model::{Family, Mark, Nexthop, NexthopTarget};
use netlink_packet_core::{
    DecodeError, Emitable, Nla, NlasIterator, parse_ip, parse_u16, parse_u32,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU8;

pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_FDB: u16 = 11;

/// Multipath by hash; the other type (resilient) is never asked for.
const NEXTHOP_GRP_TYPE_MPATH: u16 = 0;
/// `struct nhmsg`.
const HEADER_BYTES: usize = 8;
/// `struct nexthop_grp`: id, weight less one, high byte of the weight, reserved.
const MEMBER_BYTES: usize = 8;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One message about a nexthop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NexthopMessage {
    /// `nh_family`; `None` is `AF_UNSPEC`, which groups and requests by id have.
    pub(crate) family: Option<Family>,
    /// `nh_protocol`.
    pub(crate) protocol: Mark,
    pub(crate) attributes: Vec<Attribute>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Id(u32),
    /// Members and their weights, 1 to 256.
    Group(Vec<(u32, u16)>),
    /// Only said in requests; the kernel answers with it as well.
    GroupType(u16),
    Blackhole,
    Oif(u32),
    Gateway(IpAddr),
    /// For VXLAN forwarding entries; not usable for routes.
    Fdb,
}

impl Nla for Attribute {
    fn kind(&self) -> u16 {
        match self {
            Attribute::Id(_) => NHA_ID,
            Attribute::Group(_) => NHA_GROUP,
            Attribute::GroupType(_) => NHA_GROUP_TYPE,
            Attribute::Blackhole => NHA_BLACKHOLE,
            Attribute::Oif(_) => NHA_OIF,
            Attribute::Gateway(_) => NHA_GATEWAY,
            Attribute::Fdb => NHA_FDB,
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Attribute::Id(_) | Attribute::Oif(_) => 4,
            Attribute::GroupType(_) => 2,
            Attribute::Group(members) => members.len() * MEMBER_BYTES,
            Attribute::Gateway(IpAddr::V4(_)) => 4,
            Attribute::Gateway(IpAddr::V6(_)) => 16,
            Attribute::Blackhole | Attribute::Fdb => 0,
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Attribute::Id(value) | Attribute::Oif(value) => {
                buffer[..4].copy_from_slice(&value.to_ne_bytes());
            }
            Attribute::GroupType(value) => buffer[..2].copy_from_slice(&value.to_ne_bytes()),
            Attribute::Group(members) => {
                for ((id, weight), entry) in
                    members.iter().zip(buffer.chunks_exact_mut(MEMBER_BYTES))
                {
                    let [low, high] = weight.saturating_sub(1).to_le_bytes();
                    entry[..4].copy_from_slice(&id.to_ne_bytes());
                    entry[4..].copy_from_slice(&[low, high, 0, 0]);
                }
            }
            Attribute::Gateway(IpAddr::V4(ip)) => buffer[..4].copy_from_slice(&ip.octets()),
            Attribute::Gateway(IpAddr::V6(ip)) => buffer[..16].copy_from_slice(&ip.octets()),
            Attribute::Blackhole | Attribute::Fdb => {}
        }
    }
}

impl NexthopMessage {
    /// Asks for all nexthops.
    pub(crate) fn dump() -> Self {
        NexthopMessage { family: None, protocol: 0, attributes: Vec::new() }
    }

    /// Names the nexthop `id`, to get or delete it.
    pub(crate) fn by_id(id: u32) -> Self {
        NexthopMessage { family: None, protocol: 0, attributes: vec![Attribute::Id(id)] }
    }

    /// Describes `nexthop`, signed with `protocol`; `index` is that of its link.
    pub(crate) fn describe(nexthop: &Nexthop, protocol: Mark, index: Option<u32>) -> Self {
        let mut attributes = Vec::with_capacity(3);
        attributes.push(Attribute::Id(nexthop.id));
        let family = match &nexthop.target {
            NexthopTarget::Single { gateway, family, .. } => {
                attributes.extend(index.map(Attribute::Oif));
                attributes.extend(gateway.map(Attribute::Gateway));
                Some(*family)
            }
            NexthopTarget::Group(members) => {
                let members = members.iter().map(|(id, weight)| (*id, weight.get().into()));
                attributes.push(Attribute::Group(members.collect()));
                attributes.push(Attribute::GroupType(NEXTHOP_GRP_TYPE_MPATH));
                None
            }
            NexthopTarget::Blackhole(family) => {
                attributes.push(Attribute::Blackhole);
                Some(*family)
            }
        };
        NexthopMessage { family, protocol, attributes }
    }

    /// Reads a message of the kernel. `None` for what a [`Nexthop`] cannot say: resilient
    /// groups, forwarding entries, weights above 255.
    pub(crate) fn nexthop(
        &self,
        link: impl Fn(u32) -> Option<crate::model::LinkName>,
    ) -> Option<Nexthop> {
        let (mut id, mut group, mut oif, mut gateway, mut blackhole) =
            (None, None, None, None, false);
        for attribute in &self.attributes {
            match attribute {
                Attribute::Id(value) => id = Some(*value),
                Attribute::Group(members) => group = Some(members),
                Attribute::GroupType(NEXTHOP_GRP_TYPE_MPATH) => {}
                Attribute::GroupType(_) | Attribute::Fdb => return None,
                Attribute::Blackhole => blackhole = true,
                Attribute::Oif(value) => oif = Some(*value),
                Attribute::Gateway(value) => gateway = Some(*value),
            }
        }
        let target = if let Some(group) = group {
            let weighed = |(id, weight): &(u32, u16)| {
                Some((*id, NonZeroU8::new(u8::try_from(*weight).ok()?)?))
            };
            NexthopTarget::Group(group.iter().map(weighed).collect::<Option<BTreeMap<_, _>>>()?)
        } else if blackhole {
            NexthopTarget::Blackhole(self.family?)
        } else {
            NexthopTarget::Single { gateway, link: link(oif?)?, family: self.family? }
        };
        Some(Nexthop { id: id?, target })
    }

    /// The id that the message is about.
    pub(crate) fn id(&self) -> Option<u32> {
        self.attributes.iter().find_map(|a| match a {
            Attribute::Id(id) => Some(*id),
            _ => None,
        })
    }

    /// Reads the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let Some((header, rest)) = body.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::buffer_too_small(body.len(), HEADER_BYTES));
        };
        let family = match header[0] {
            AF_INET => Some(Family::V4),
            AF_INET6 => Some(Family::V6),
            _ => None,
        };
        let mut attributes = Vec::new();
        for nla in NlasIterator::new(rest) {
            let nla = nla?;
            let value = nla.value();
            attributes.push(match nla.kind() {
                NHA_ID => Attribute::Id(parse_u32(value)?),
                NHA_OIF => Attribute::Oif(parse_u32(value)?),
                NHA_GROUP_TYPE => Attribute::GroupType(parse_u16(value)?),
                NHA_GATEWAY => Attribute::Gateway(parse_ip(value)?),
                NHA_BLACKHOLE => Attribute::Blackhole,
                NHA_FDB => Attribute::Fdb,
                NHA_GROUP => Attribute::Group(parse_group(value)?),
                _ => continue,
            });
        }
        Ok(NexthopMessage { family, protocol: header[2], attributes })
    }
}

fn parse_group(value: &[u8]) -> Result<Vec<(u32, u16)>, DecodeError> {
    let (members, []) = value.as_chunks::<MEMBER_BYTES>() else {
        return Err(DecodeError::invalid_buffer("NHA_GROUP", value.len(), MEMBER_BYTES));
    };
    let member = |m: &[u8; MEMBER_BYTES]| {
        let [a, b, c, d, low, high, ..] = *m;
        (u32::from_ne_bytes([a, b, c, d]), u16::from_le_bytes([low, high]).saturating_add(1))
    };
    Ok(members.iter().map(member).collect())
}

impl Emitable for NexthopMessage {
    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let family = match self.family {
            None => AF_UNSPEC,
            Some(Family::V4) => AF_INET,
            Some(Family::V6) => AF_INET6,
        };
        buffer[..HEADER_BYTES].copy_from_slice(&[family, 0, self.protocol, 0, 0, 0, 0, 0]);
        self.attributes.as_slice().emit(&mut buffer[HEADER_BYTES..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute() -> impl Strategy<Value = Attribute> {
        prop_oneof![
            any::<u32>().prop_map(Attribute::Id),
            any::<u32>().prop_map(Attribute::Oif),
            any::<u16>().prop_map(Attribute::GroupType),
            any::<IpAddr>().prop_map(Attribute::Gateway),
            prop::collection::vec((any::<u32>(), 1u16..), 0..5).prop_map(Attribute::Group),
            Just(Attribute::Blackhole),
            Just(Attribute::Fdb),
        ]
    }

    fn bytes(message: &NexthopMessage) -> Vec<u8> {
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut buffer);
        buffer
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            family in prop::option::of(prop_oneof![Just(Family::V4), Just(Family::V6)]),
            protocol: u8,
            attributes in prop::collection::vec(attribute(), 0..6),
        ) {
            let message = NexthopMessage { family, protocol, attributes };
            prop_assert_eq!(NexthopMessage::parse(&bytes(&message)).unwrap(), message);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = NexthopMessage::parse(&body) {
                message.nexthop(|_| None);
                message.id();
            }
        }

        #[test]
        fn damaged_messages_do_not_panic(
            attributes in prop::collection::vec(attribute(), 0..6),
            at: prop::sample::Index, value: u8,
        ) {
            let mut body = bytes(&NexthopMessage { family: None, protocol: 72, attributes });
            *at.get_mut(&mut body) = value;
            let _ = NexthopMessage::parse(&body).map(|m| m.nexthop(|_| None));
        }
    }

    #[test]
    fn laid_out_as_the_kernel_has_it() {
        let message = NexthopMessage::describe(&Nexthop::active(0x4846_0000, 7), 72, None);
        let expected = [
            0, 0, 72, 0, 0, 0, 0, 0, // nhmsg
            8, 0, 1, 0, 0, 0, 0x46, 0x48, // NHA_ID
            12, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, // NHA_GROUP
            6, 0, 3, 0, 0, 0, 0, 0, // NHA_GROUP_TYPE, padded
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes(&message), expected);
        }
    }

    #[test]
    fn what_a_nexthop_cannot_say_is_left_out() {
        let resilient = NexthopMessage {
            family: None,
            protocol: 72,
            attributes: vec![
                Attribute::Id(1),
                Attribute::Group(vec![(2, 1)]),
                Attribute::GroupType(1),
            ],
        };
        assert_eq!(resilient.nexthop(|_| None), None);
        assert_eq!(resilient.id(), Some(1));
    }
}
