//! What a link splits and merges by itself, for the setup of a report.
//!
//! Asked over generic netlink (Documentation/networking/ethtool-netlink.rst), so that no ethtool(8)
//! is needed. A kernel without it, and a link that has none, say so and fail nothing.

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};

/// Those that matter to a tunnel, by the kernel's names (net/ethtool/common.c).
const MATTER: [&str; 7] = [
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "rx-gro",
    "rx-udp-gro-forwarding",
    "tx-checksum-ip-generic",
];

// linux/genetlink.h, linux/ethtool_netlink.h.
const CTRL: u16 = 0x10;
const CTRL_GETFAMILY: u8 = 3;
const CTRL_FAMILY_ID: u16 = 1;
const CTRL_FAMILY_NAME: u16 = 2;
const FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BITSET_BITS_BIT: u16 = 1;
const BITSET_BIT_NAME: u16 = 2;
const NESTED: u16 = 1 << 15;
/// What of an attribute's type is the type (linux/netlink.h: NLA_TYPE_MASK).
const TYPE_MASK: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// Of a message, and of generic netlink's.
const HEADERS: usize = 16 + 4;

/// The offloads of a link of this thread's network namespace that are on.
pub(crate) fn of_link(link: &str) -> String {
    active(link).map_or_else(
        |error| format!("unknown: {error:#}"),
        |names| {
            let on: Vec<&str> =
                MATTER.into_iter().filter(|name| names.iter().any(|has| has == name)).collect();
            if on.is_empty() { "none".into() } else { on.join(", ") }
        },
    )
}

fn active(link: &str) -> anyhow::Result<Vec<String>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let family = SockProtocol::NetlinkGeneric;
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, flags, family).context("generic netlink")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(2))?;
    let name = attribute(CTRL_FAMILY_NAME, b"ethtool\0");
    let answer = ask(&socket, CTRL, CTRL_GETFAMILY, &name).context("ethtool's family")?;
    let id = attributes(&answer).find(|(kind, _)| *kind == CTRL_FAMILY_ID);
    let id = id.and_then(|(_, value)| value.first_chunk().copied()).context("no family")?;
    let device = attribute(HEADER_DEV_NAME, format!("{link}\0").as_bytes());
    let header = attribute(FEATURES_HEADER | NESTED, &device);
    let answer = ask(&socket, u16::from_ne_bytes(id), FEATURES_GET, &header).context("features")?;
    Ok(names(&answer))
}

fn ask(socket: &OwnedFd, family: u16, command: u8, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u32::try_from(HEADERS + payload.len())?;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(payload);
    let to = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty()).context("cannot ask")?;
    let mut answer = vec![0; 32 << 10];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context("no answer")?;
    answer.truncate(length);
    content(&answer).map(<[u8]>::to_vec)
}

/// The attributes of an answer.
fn content(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk().copied());
    if u16::from_ne_bytes(kind.context("a short answer")?) == NLMSG_ERROR {
        let code = answer.get(16..20).and_then(|code| code.first_chunk().copied());
        let code = i32::from_ne_bytes(code.context("a short error")?);
        bail!(std::io::Error::from_raw_os_error(code.saturating_neg()));
    }
    ensure!(answer.len() >= HEADERS, "a short answer");
    Ok(&answer[HEADERS..])
}

/// The names of the active features: a list without a mask names those that are on.
fn names(features: &[u8]) -> Vec<String> {
    let inside = |of: &'static [u16], from| {
        of.iter().fold(vec![from], |nests: Vec<&[u8]>, wanted| {
            let all = nests.into_iter().flat_map(attributes);
            all.filter(|(kind, _)| kind == wanted).map(|(_, value)| value).collect()
        })
    };
    let way = &[FEATURES_ACTIVE, BITSET_BITS, BITSET_BITS_BIT, BITSET_BIT_NAME];
    inside(way, features)
        .into_iter()
        .filter_map(|name| {
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            Some(std::str::from_utf8(name).ok()?.to_owned())
        })
        .collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    // Names of links and of families are short.
    attribute.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Types and values of attributes one after the other; what is cut off is left out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..4)?.first_chunk()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nest(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | NESTED, &inside.concat())
    }

    fn features(on: &[&str]) -> Vec<u8> {
        let bits: Vec<Vec<u8>> = on
            .iter()
            .map(|name| {
                let name = attribute(BITSET_BIT_NAME, format!("{name}\0").as_bytes());
                nest(BITSET_BITS_BIT, &[attribute(1, &[0; 4]), name])
            })
            .collect();
        let active = nest(FEATURES_ACTIVE, &[attribute(1, &[]), nest(BITSET_BITS, &bits)]);
        let wanted = nest(3, &[nest(BITSET_BITS, &[nest(1, &[attribute(2, b"other\0")])])]);
        [wanted, active].concat()
    }

    proptest! {
        #[test]
        fn what_is_on_is_read(on in proptest::collection::vec("[a-z0-9-]{1,30}", 0..60)) {
            let on: Vec<&str> = on.iter().map(String::as_str).collect();
            prop_assert_eq!(names(&features(&on)), on);
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..300) {
            let _ = names(&bytes);
            let _ = content(&bytes);
            let whole = features(&["a", "tx-udp-segmentation"]);
            let _ = names(&whole[..cut.min(whole.len())]);
        }
    }

    #[test]
    fn a_link_that_is_not_there_is_said() {
        assert!(of_link("no-such-link").starts_with("unknown: "));
    }
}
