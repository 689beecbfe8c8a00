//! WireGuard devices of the kernel, by generic netlink (`linux/wireguard.h`).
//!
//! The link itself is made by [`super::link`]; keys and peers are set here. A change sends only
//! the peers that differ, so that the sessions of the others live on.

use super::{Kernel, refused};
use crate::error::TalkError;
use crate::model::{LinkName, PeerState, WgKey, WireguardDevice, WireguardPeer};
use ipnet::IpNet;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NlasIterator, ParseableParametrized, parse_u16,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlHeader, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer as WirePeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// `GENL_ID_CTRL`.
const CONTROLLER: u16 = 16;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const GENERIC_HEADER_BYTES: usize = 4;
const FAMILY: &str = "wireguard";
/// A message and each of its attributes are limited to 64 KiB by their length fields.
const PEERS_BYTES: usize = 16 * 1024;
/// `WGALLOWEDIP_A_*` in a peer with more than fits one message: split as the peers are.
const ALLOWED_IPS: usize = 256;

impl Kernel {
    /// Whether this kernel has WireGuard, which may mean that its module was loaded just now.
    pub fn wireguard_supported(&mut self) -> bool {
        if self.wireguard.is_none() {
            self.wireguard = self.find_wireguard().ok();
        }
        self.wireguard.is_some()
    }

    /// What the peers of the device `link` have done so far, by public key.
    ///
    /// # Errors
    /// `ENODEV` when it is not there, `EOPNOTSUPP` when it or the kernel has no WireGuard.
    pub fn wireguard_peers(
        &mut self,
        link: &LinkName,
    ) -> Result<BTreeMap<WgKey, PeerState>, TalkError> {
        Ok(self.dump_wireguard(link)?.1)
    }

    pub(super) fn read_wireguard(&mut self, link: &LinkName) -> Result<WireguardDevice, TalkError> {
        Ok(self.dump_wireguard(link)?.0)
    }

    /// Asks the generic netlink controller for the family's number.
    pub(super) fn find_wireguard(&mut self) -> Result<u16, TalkError> {
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_string())],
        });
        let mut found = None;
        self.generic.ask(CONTROLLER, NLM_F_ACK, &request, |_, body| {
            let attributes = body.get(GENERIC_HEADER_BYTES..).unwrap_or_default();
            found = NlasIterator::new(attributes)
                .filter_map(Result::ok)
                .find(|nla| nla.kind() == CTRL_ATTR_FAMILY_ID)
                .and_then(|nla| parse_u16(nla.value()).ok());
            Ok(())
        })?;
        found.ok_or_else(|| refused(Errno::EOPNOTSUPP, "the kernel has no WireGuard"))
    }

    fn family(&mut self) -> Result<u16, TalkError> {
        match self.wireguard {
            Some(family) => Ok(family),
            None => {
                let family = self.find_wireguard()?;
                self.wireguard = Some(family);
                Ok(family)
            }
        }
    }

    fn dump_wireguard(
        &mut self,
        link: &LinkName,
    ) -> Result<(WireguardDevice, BTreeMap<WgKey, PeerState>), TalkError> {
        let family = self.family()?;
        let request =
            message(WireguardCmd::GetDevice, vec![WireguardAttribute::IfName(link.to_string())]);
        let mut read = (WireguardDevice::default(), BTreeMap::new());
        // The answer comes in pieces; a peer whose allowed addresses fill one goes on in the next.
        self.generic.ask(family, NLM_F_DUMP, &request, |_, body| {
            parse_device(body, &mut read.0, &mut read.1)
        })?;
        Ok(read)
    }

    /// Changes keys and peers of a device from `from` to `to`.
    pub(super) fn set_wireguard(
        &mut self,
        link: &LinkName,
        from: &WireguardDevice,
        to: &WireguardDevice,
    ) -> Result<(), TalkError> {
        let family = self.family()?;
        let name = || WireguardAttribute::IfName(link.to_string());
        // All zeros take the private key away. One with other bits than the kernel has, even
        // those that do not count, would end every session.
        let key = to.private_key.map_or([0; 32], |key| key.clamped().0);
        let mut first = vec![
            name(),
            WireguardAttribute::PrivateKey(key),
            WireguardAttribute::Fwmark(to.fwmark),
        ];
        first.extend(to.listen_port.map(WireguardAttribute::ListenPort));
        self.generic.request(family, 0, &message(WireguardCmd::SetDevice, first))?;

        let mut peers = Vec::new();
        for (key, _) in from.peers.iter().filter(|(key, _)| !to.peers.contains_key(key)) {
            let flags = WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe);
            peers.push(WirePeer(vec![WireguardPeerAttribute::PublicKey(key.0), flags]));
        }
        for (key, peer) in &to.peers {
            if from.peers.get(key) != Some(peer) {
                peers.extend(describe_peer(key, peer));
            }
        }
        let mut peers = peers.into_iter().peekable();
        while peers.peek().is_some() {
            let mut some = Vec::new();
            let mut bytes = 0;
            while let Some(peer) =
                peers.next_if(|p| bytes == 0 || bytes + p.buffer_len() <= PEERS_BYTES)
            {
                bytes += peer.buffer_len();
                some.push(peer);
            }
            let attributes = vec![name(), WireguardAttribute::Peers(some)];
            self.generic.request(family, 0, &message(WireguardCmd::SetDevice, attributes))?;
        }
        Ok(())
    }
}

fn message(
    cmd: WireguardCmd,
    attributes: Vec<WireguardAttribute>,
) -> GenlMessage<WireguardMessage> {
    GenlMessage::from_payload(WireguardMessage { cmd, attributes })
}

/// A peer in as many pieces as its allowed addresses need.
fn describe_peer(key: &WgKey, peer: &WireguardPeer) -> Vec<WirePeer> {
    let allowed: Vec<WireguardAllowedIp> = peer.allowed_ips.iter().map(describe_allowed).collect();
    let mut pieces = Vec::new();
    let mut chunks = allowed.chunks(ALLOWED_IPS);
    let mut first = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::PresharedKey(peer.preshared_key.map_or([0; 32], |key| key.0)),
        WireguardPeerAttribute::PersistentKeepalive(peer.keepalive_secs),
        WireguardPeerAttribute::AllowedIps(chunks.next().unwrap_or_default().to_vec()),
    ];
    first.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
    pieces.push(WirePeer(first));
    for chunk in chunks {
        pieces.push(WirePeer(vec![
            WireguardPeerAttribute::PublicKey(key.0),
            WireguardPeerAttribute::AllowedIps(chunk.to_vec()),
        ]));
    }
    pieces
}

fn describe_allowed(net: &IpNet) -> WireguardAllowedIp {
    let family = match net {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(net.addr()),
        WireguardAllowedIpAttr::Cidr(net.prefix_len()),
    ])
}

/// Reads one piece of a device's answer.
fn parse_device(
    body: &[u8],
    device: &mut WireguardDevice,
    states: &mut BTreeMap<WgKey, PeerState>,
) -> Result<(), TalkError> {
    let unreadable =
        |error: netlink_packet_core::DecodeError| TalkError::Unreadable(error.to_string());
    let header = GenlHeader::parse(body).map_err(unreadable)?;
    let attributes = &body[GENERIC_HEADER_BYTES..];
    check_lengths(attributes, &DEVICE)?;
    let message = WireguardMessage::parse_with_param(attributes, header).map_err(unreadable)?;
    for attribute in message.attributes {
        match attribute {
            WireguardAttribute::PrivateKey(key) => {
                device.private_key = Some(WgKey(key)).filter(|key| key.0 != [0; 32]);
            }
            WireguardAttribute::ListenPort(port) => device.listen_port = Some(port),
            WireguardAttribute::Fwmark(mark) => device.fwmark = mark,
            WireguardAttribute::Peers(peers) => {
                for peer in peers {
                    parse_peer(peer, device, states);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Attributes whose length `netlink-packet-wireguard` takes for granted, and those that hold
/// others: (type, least length, inside).
struct Shape(&'static [(u16, usize, Option<&'static Shape>)]);

/// Elements of a list have the type 0, or a number that does not matter.
const ELEMENT: u16 = u16::MAX;
/// `WGALLOWEDIP_A_CIDR_MASK`.
const ALLOWED_IP: Shape = Shape(&[(3, 1, None)]);
const ALLOWED_IP_LIST: Shape = Shape(&[(ELEMENT, 0, Some(&ALLOWED_IP))]);
/// `WGPEER_A_ENDPOINT`, `WGPEER_A_ALLOWEDIPS`.
const PEER: Shape = Shape(&[(4, 16, None), (9, 0, Some(&ALLOWED_IP_LIST))]);
const PEER_LIST: Shape = Shape(&[(ELEMENT, 0, Some(&PEER))]);
/// `WGDEVICE_A_PEERS`.
const DEVICE: Shape = Shape(&[(8, 0, Some(&PEER_LIST))]);

/// Refuses what would make the crate panic. The kernel never sends it; a law is a law.
fn check_lengths(attributes: &[u8], shape: &Shape) -> Result<(), TalkError> {
    for nla in NlasIterator::new(attributes) {
        let nla = nla.map_err(|error| TalkError::Unreadable(error.to_string()))?;
        let known =
            |(kind, _, _): &&(u16, usize, Option<&Shape>)| *kind == nla.kind() || *kind == ELEMENT;
        let Some((_, least, inside)) = shape.0.iter().find(known) else { continue };
        if nla.value().len() < *least {
            return Err(TalkError::Unreadable("an attribute of WireGuard is too short".into()));
        }
        if let Some(inside) = inside {
            check_lengths(nla.value(), inside)?;
        }
    }
    Ok(())
}

fn parse_peer(
    wire: WirePeer,
    device: &mut WireguardDevice,
    states: &mut BTreeMap<WgKey, PeerState>,
) {
    let Some(key) = wire.0.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(WgKey(*key)),
        _ => None,
    }) else {
        return;
    };
    let peer = device.peers.entry(key).or_default();
    let state = states.entry(key).or_default();
    for attribute in wire.0 {
        match attribute {
            WireguardPeerAttribute::PresharedKey(key) => {
                peer.preshared_key = Some(WgKey(key)).filter(|key| key.0 != [0; 32]);
            }
            WireguardPeerAttribute::Endpoint(endpoint) => {
                peer.endpoint = Some(endpoint);
                state.endpoint = Some(endpoint);
            }
            WireguardPeerAttribute::PersistentKeepalive(secs) => peer.keepalive_secs = secs,
            WireguardPeerAttribute::LastHandshake(time) => {
                // Zero is "never".
                state.last_handshake =
                    match (u64::try_from(time.seconds), u32::try_from(time.nano_seconds)) {
                        (Ok(secs), Ok(nanos)) if secs > 0 => SystemTime::UNIX_EPOCH
                            .checked_add(Duration::new(secs, nanos.min(999_999_999))),
                        _ => None,
                    };
            }
            WireguardPeerAttribute::RxBytes(bytes) => state.rx_bytes = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => state.tx_bytes = bytes,
            WireguardPeerAttribute::AllowedIps(allowed) => {
                peer.allowed_ips.extend(allowed.iter().filter_map(parse_allowed));
            }
            _ => {}
        }
    }
}

fn parse_allowed(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut ip, mut length): (Option<IpAddr>, _) = (None, None);
    for attribute in &allowed.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(address) => ip = Some(*address),
            WireguardAllowedIpAttr::Cidr(value) => length = Some(*value),
            _ => {}
        }
    }
    IpNet::new(ip?, length?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(message: &GenlMessage<WireguardMessage>) -> Vec<u8> {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body
    }

    proptest! {
        #[test]
        fn peers_read_back_from_their_pieces(
            key in prop::array::uniform32(any::<u8>()), psk in prop::option::of(prop::array::uniform32(1u8..)),
            keepalive_secs: u16, hosts in prop::collection::btree_set(any::<u32>(), 0..600),
            endpoint in prop::option::of((any::<[u8; 4]>(), 1u16..)),
        ) {
            let peer = WireguardPeer {
                endpoint: endpoint.map(Into::into),
                preshared_key: psk.map(WgKey),
                keepalive_secs,
                allowed_ips: hosts.into_iter().map(|ip| IpNet::from(IpAddr::from(ip.to_be_bytes()))).collect(),
            };
            let mut device = WireguardDevice::default();
            let mut states = BTreeMap::new();
            for piece in describe_peer(&WgKey(key), &peer) {
                let body = bytes(&message(WireguardCmd::SetDevice, vec![WireguardAttribute::Peers(vec![piece])]));
                prop_assert!(body.len() < usize::from(u16::MAX));
                parse_device(&body, &mut device, &mut states).unwrap();
            }
            prop_assert_eq!(device.peers.get(&WgKey(key)), Some(&peer));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn damaged_messages_do_not_panic(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let peer = WireguardPeer {
                endpoint: Some(([192, 0, 2, 1], 51820).into()),
                allowed_ips: ["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()].into(),
                ..WireguardPeer::default()
            };
            let pieces = describe_peer(&WgKey([1; 32]), &peer);
            let mut body = bytes(&message(WireguardCmd::SetDevice, vec![WireguardAttribute::Peers(pieces)]));
            *at.get_mut(&mut body) = value;
            body.truncate(cut.index(body.len() * 4).min(body.len()));
            let _ = parse_device(&body, &mut WireguardDevice::default(), &mut BTreeMap::new());
        }
    }

    #[test]
    fn keys_do_not_show() {
        let device = WireguardDevice { private_key: Some(WgKey([7; 32])), ..Default::default() };
        assert!(!format!("{device:?}").contains('7'));
    }
}
