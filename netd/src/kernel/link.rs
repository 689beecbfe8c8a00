//! Links: writing requests and reading what the kernel says about them.
//!
//! Of a link's some sixty attributes only those that the model knows are read. A network card
//! with an attribute that this version cannot read must not make the whole network unreadable,
//! so what cannot be read of somebody else's link is passed over.

use super::{Kernel, refused};
use crate::error::TalkError;
use crate::model::{BondMode, Link, LinkKind, LinkName, Mac, Peer};
use crate::netns::NetNs;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NlasIterator, ParseableParametrized,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    BondMode as WireBondMode, InfoBond, InfoData, InfoKind, InfoMacVlan, InfoVeth, InfoVlan,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkInfo, LinkMessage, MacVlanMode,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const HEADER_BYTES: usize = 16;

/// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_LINK`, `IFLA_MASTER`, `IFLA_LINKINFO`.
const WANTED: [u16; 6] = [1, 3, 4, 5, 10, IFLA_LINKINFO];
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// A link as the kernel says it: with indexes of others where the model has names.
#[derive(Debug, Clone, Default)]
pub(super) struct RawLink {
    pub(super) index: u32,
    pub(super) name: Option<LinkName>,
    up: bool,
    mtu: Option<u32>,
    mac: Option<Mac>,
    lower: Option<u32>,
    /// `lower` is an index of another namespace.
    lower_elsewhere: bool,
    controller: Option<u32>,
    kind: Option<String>,
    data: Option<InfoData>,
}

impl RawLink {
    /// Reads the body of an `RTM_NEWLINK`.
    pub(super) fn parse(body: &[u8]) -> Result<Self, TalkError> {
        let unreadable =
            |error: netlink_packet_core::DecodeError| TalkError::Unreadable(error.to_string());
        let header = LinkHeader::parse(body).map_err(unreadable)?;
        let mut link = RawLink {
            index: header.index,
            up: header.flags.contains(LinkFlags::Up),
            ..RawLink::default()
        };
        for nla in NlasIterator::new(&body[HEADER_BYTES..]) {
            let nla = nla.map_err(unreadable)?;
            if nla.kind() == IFLA_LINK_NETNSID {
                link.lower_elsewhere = true;
            }
            if !WANTED.contains(&nla.kind()) {
                continue;
            }
            match LinkAttribute::parse_with_param(&nla, AddressFamily::Unspec) {
                Ok(LinkAttribute::IfName(name)) => link.name = name.parse().ok(),
                Ok(LinkAttribute::Mtu(mtu)) => link.mtu = Some(mtu),
                Ok(LinkAttribute::Address(bytes)) => link.mac = bytes.try_into().ok().map(Mac),
                Ok(LinkAttribute::Link(index)) => link.lower = Some(index).filter(|i| *i != 0),
                Ok(LinkAttribute::Controller(index)) => {
                    link.controller = Some(index).filter(|i| *i != 0)
                }
                Ok(LinkAttribute::LinkInfo(infos)) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(data) => link.data = Some(data),
                            _ => {}
                        }
                    }
                }
                Ok(_) => {}
                // A detail of the kind that this version cannot read: the kind is enough.
                Err(_) if nla.kind() == IFLA_LINKINFO => {
                    let kinds = NlasIterator::new(nla.value()).filter_map(Result::ok);
                    link.kind = kinds
                        .filter(|info| info.kind() == IFLA_INFO_KIND)
                        .map(|info| {
                            String::from_utf8_lossy(info.value()).trim_end_matches('\0').to_string()
                        })
                        .next();
                }
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(link)
    }

    /// As the model has it, with names from `names`.
    pub(super) fn link(&self, names: &BTreeMap<u32, LinkName>) -> Option<Link> {
        let mut link = Link::new(self.name.clone()?, self.kind(names));
        link.up = self.up;
        link.mtu = self.mtu;
        link.address = self.mac;
        link.controller = self.controller.and_then(|index| names.get(&index).cloned());
        Some(link)
    }

    fn kind(&self, names: &BTreeMap<u32, LinkName>) -> LinkKind {
        let Some(kind) = self.kind.as_deref() else { return LinkKind::Physical };
        let lower =
            || self.lower.filter(|_| !self.lower_elsewhere).and_then(|i| names.get(&i).cloned());
        let known = match (kind, &self.data) {
            ("veth", _) => {
                Some(LinkKind::Veth { peer: lower().map_or(Peer::Elsewhere, Peer::Here) })
            }
            ("bridge", _) => Some(LinkKind::Bridge),
            ("tun", _) => Some(LinkKind::Tun),
            ("wireguard", _) => Some(LinkKind::Wireguard(Default::default())),
            ("macvlan", Some(InfoData::MacVlan(infos)))
                if infos.contains(&InfoMacVlan::Mode(MacVlanMode::Bridge)) =>
            {
                lower().map(|parent| LinkKind::Macvlan { parent })
            }
            ("vlan", Some(InfoData::Vlan(infos))) => infos
                .iter()
                .find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None })
                .and_then(|id| Some(LinkKind::Vlan { parent: lower()?, id })),
            ("bond", Some(InfoData::Bond(infos))) => bond(infos),
            _ => None,
        };
        known.unwrap_or_else(|| LinkKind::Other(kind.to_string()))
    }
}

fn bond(infos: &[InfoBond]) -> Option<LinkKind> {
    let mut mode = None;
    let mut miimon_ms = 0;
    for info in infos {
        match info {
            InfoBond::Mode(wire) => {
                mode = BondMode::ALL.into_iter().find(|mode| wire_mode(*mode) == *wire);
            }
            InfoBond::MiiMon(value) => miimon_ms = *value,
            _ => {}
        }
    }
    Some(LinkKind::Bond { mode: mode?, miimon_ms })
}

fn wire_mode(mode: BondMode) -> WireBondMode {
    WireBondMode::from(mode as u8)
}

impl Kernel {
    /// All links by index.
    pub(super) fn dump_links(&mut self) -> Result<BTreeMap<u32, RawLink>, TalkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let links =
            self.route.dump(RTM_GETLINK, &request, BTreeMap::new, |links, kind, body| {
                if kind == RTM_NEWLINK {
                    let link = RawLink::parse(body)?;
                    links.insert(link.index, link);
                }
                Ok(())
            })?;
        self.indexes =
            links.values().filter_map(|link| Some((link.name.clone()?, link.index))).collect();
        Ok(links)
    }

    /// One link by name.
    pub(super) fn get_link(&mut self, name: &LinkName) -> Result<RawLink, TalkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_string()));
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        self.route.ask(RTM_GETLINK, NLM_F_ACK, &request, |_, body| {
            found = Some(RawLink::parse(body)?);
            Ok(())
        })?;
        found.ok_or_else(|| refused(Errno::ENODEV, "no answer about the link"))
    }

    pub(super) fn ask_index(&mut self, name: &LinkName) -> Result<u32, TalkError> {
        self.get_link(name).map(|link| link.index)
    }

    /// Makes a link, down and in no controller.
    pub(super) fn create_link(&mut self, link: &Link) -> Result<(), TalkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(link.name.to_string()));
        request.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
        request.attributes.extend(link.address.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        if let Some(parent) = link.parent() {
            request.attributes.push(LinkAttribute::Link(self.index(parent)?));
        }
        // Held open until the kernel has answered.
        let mut peer_namespace = None;
        let (kind, data) = match &link.kind {
            LinkKind::Veth { peer } => {
                let mut message = LinkMessage::default();
                match peer {
                    Peer::Here(name) => {
                        message.attributes.push(LinkAttribute::IfName(name.to_string()))
                    }
                    Peer::In { netns, name } => {
                        let namespace =
                            NetNs::open(netns).map_err(|error| TalkError::Socket(error.source))?;
                        message.attributes.push(LinkAttribute::IfName(name.to_string()));
                        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
                        peer_namespace = Some(namespace);
                    }
                    Peer::Elsewhere => {}
                }
                // The peer starts with the same MTU, or the pair drops what only one end takes.
                message.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
                (InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(message))))
            }
            LinkKind::Bridge => (InfoKind::Bridge, None),
            LinkKind::Vlan { id, .. } => {
                (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(*id)])))
            }
            LinkKind::Bond { mode, miimon_ms } => {
                let infos = vec![InfoBond::Mode(wire_mode(*mode)), InfoBond::MiiMon(*miimon_ms)];
                (InfoKind::Bond, Some(InfoData::Bond(infos)))
            }
            LinkKind::Macvlan { .. } => {
                let infos = vec![InfoMacVlan::Mode(MacVlanMode::Bridge)];
                (InfoKind::MacVlan, Some(InfoData::MacVlan(infos)))
            }
            LinkKind::Wireguard(_) => (InfoKind::Wireguard, None),
            LinkKind::Physical | LinkKind::Tun | LinkKind::Other(_) => {
                return Err(refused(
                    Errno::EOPNOTSUPP,
                    "links of this kind are not made by netlink",
                ));
            }
        };
        let mut infos = vec![LinkInfo::Kind(kind)];
        infos.extend(data.map(LinkInfo::Data));
        request.attributes.push(LinkAttribute::LinkInfo(infos));
        let made = self.route.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &request);
        drop(peer_namespace);
        made
    }

    pub(super) fn delete_link(&mut self, name: &LinkName) -> Result<(), TalkError> {
        let mut request = LinkMessage::default();
        request.header.index = self.ask_index(name)?;
        self.indexes.remove(name);
        self.route.request(RTM_DELLINK, 0, &request)
    }

    pub(super) fn set_up(&mut self, name: &LinkName, up: bool) -> Result<(), TalkError> {
        let mut request = LinkMessage::default();
        request.header.index = self.index(name)?;
        request.header.change_mask = LinkFlags::Up;
        request.header.flags.set(LinkFlags::Up, up);
        self.route.request(RTM_NEWLINK, 0, &request)
    }

    pub(super) fn set_link(
        &mut self,
        name: &LinkName,
        attribute: LinkAttribute,
    ) -> Result<(), TalkError> {
        let mut request = LinkMessage::default();
        request.header.index = self.index(name)?;
        request.attributes.push(attribute);
        self.route.request(RTM_NEWLINK, 0, &request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(link) = RawLink::parse(&body) {
                link.link(&BTreeMap::new());
            }
        }

        #[test]
        fn damaged_messages_do_not_panic(at: prop::sample::Index, value: u8) {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName("hf-x".into()));
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
            ]));
            let mut body = vec![0; message.buffer_len()];
            message.emit(&mut body);
            *at.get_mut(&mut body) = value;
            let _ = RawLink::parse(&body).map(|link| link.link(&BTreeMap::new()));
        }
    }

    #[test]
    fn a_kind_with_unreadable_details_is_still_a_link() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("vx0".into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            // An id of one byte where two belong.
            LinkInfo::Data(InfoData::Other(vec![5, 0, 1, 0, 7, 0, 0, 0])),
        ]));
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        let link = RawLink::parse(&body).unwrap().link(&BTreeMap::new()).unwrap();
        assert_eq!(link.kind, LinkKind::Other("vlan".into()));
    }
}
