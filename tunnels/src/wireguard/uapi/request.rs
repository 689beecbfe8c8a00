//! The text of requests.

use crate::wireguard::{PresharedKey, PrivateKey};
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use zeroize::Zeroizing;

/// One request.
#[derive(Debug)]
pub enum Request {
    /// Tell everything.
    Get,
    /// Change this, in this order.
    Set(Vec<Change>),
}

/// One line of a `set`.
#[derive(Debug, Clone)]
pub enum Change {
    /// The device's key; none takes it away.
    PrivateKey(Option<PrivateKey>),
    /// The UDP port.
    ListenPort(u16),
    /// The mark of its datagrams.
    Fwmark(u32),
    /// Forget all peers first.
    ReplacePeers,
    /// The following lines are about this peer.
    Peer(PublicKey),
    /// Forget the peer.
    Remove,
    /// Change the peer only if it is there.
    UpdateOnly,
    /// Its preshared key; none takes it away.
    PresharedKey(Option<PresharedKey>),
    /// Where it is.
    Endpoint(SocketAddr),
    /// Seconds between keepalives.
    Keepalive(u16),
    /// Forget its prefixes first.
    ReplaceAllowedIps,
    /// Another prefix of it.
    AllowedIp(IpNet),
    /// One prefix less.
    DropAllowedIp(IpNet),
}

/// Reads a request, without its final empty line. The zone of an endpoint is a link of the calling
/// thread's network namespace.
///
/// # Errors
/// `EINVAL` for a value that cannot be, `ENODEV` for the zone of no link, `EPROTO` for a line that is not
/// known.
pub fn parse(text: &str) -> Result<Request, Errno> {
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") if lines.next().is_none() => Ok(Request::Get),
        Some("set=1") => {
            // All at once: what is moved to grow leaves keys behind.
            let mut changes = Vec::with_capacity(lines.clone().count());
            for line in lines {
                changes.extend(parse_line(line)?);
            }
            Ok(Request::Set(changes))
        }
        _ => Err(Errno::EPROTO),
    }
}

fn parse_line(line: &str) -> Result<Option<Change>, Errno> {
    let (name, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
    let truth = |change| if value == "true" { Ok(change) } else { Err(Errno::EINVAL) };
    Ok(Some(match name {
        "private_key" => {
            let bytes = Zeroizing::new(unhex(value)?);
            Change::PrivateKey((*bytes != [0; 32]).then(|| PrivateKey::from_bytes(*bytes)))
        }
        "listen_port" => Change::ListenPort(digits(value)?),
        "fwmark" => Change::Fwmark(number(value)?),
        "replace_peers" => truth(Change::ReplacePeers)?,
        "public_key" => Change::Peer(PublicKey(unhex(value)?)),
        "remove" => truth(Change::Remove)?,
        "update_only" => truth(Change::UpdateOnly)?,
        "preshared_key" => {
            Change::PresharedKey(PresharedKey::from_bytes(*Zeroizing::new(unhex(value)?)))
        }
        "endpoint" => Change::Endpoint(endpoint(value)?),
        "persistent_keepalive_interval" => Change::Keepalive(digits(value)?),
        "replace_allowed_ips" => truth(Change::ReplaceAllowedIps)?,
        "allowed_ip" => match value.strip_prefix('-') {
            Some(net) => Change::DropAllowedIp(net.parse().map_err(|_| Errno::EINVAL)?),
            None => Change::AllowedIp(value.parse().map_err(|_| Errno::EINVAL)?),
        },
        // The only one there is.
        "protocol_version" if value == "1" => return Ok(None),
        _ => return Err(Errno::EPROTO),
    }))
}

fn number(text: &str) -> Result<u32, Errno> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).map_err(|_| Errno::EINVAL)
        }
        Some(_) => Err(Errno::EINVAL),
        None => digits(text),
    }
}

/// A number of digits and nothing else: Rust would take a sign.
fn digits<T: FromStr>(text: &str) -> Result<T, Errno> {
    if !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    text.parse().map_err(|_| Errno::EINVAL)
}

/// As getnameinfo(3) writes it for wg(8): a zone is the name of a link, or the number of one that has
/// none.
fn endpoint(text: &str) -> Result<SocketAddr, Errno> {
    let with_zone = text.strip_prefix('[').and_then(|rest| rest.split_once('%'));
    let Some((ip, (zone, port))) =
        with_zone.and_then(|(ip, rest)| Some((ip, rest.rsplit_once("]:")?)))
    else {
        return text.parse().map_err(|_| Errno::EINVAL);
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| Errno::EINVAL)?;
    let port = digits(port)?;
    let scope = if_nametoindex(zone).or_else(|_| digits(zone)).map_err(|_| Errno::ENODEV)?;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

fn unhex(text: &str) -> Result<[u8; 32], Errno> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| Errno::EINVAL)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| Errno::EINVAL)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_has_the_errno_of_the_protocol() {
        assert!(matches!(parse("get=1"), Ok(Request::Get)));
        let errno = |line: &str| parse(&format!("set=1\n{line}")).unwrap_err();
        assert_eq!(parse("").unwrap_err(), Errno::EPROTO);
        assert_eq!(parse("get=2").unwrap_err(), Errno::EPROTO);
        assert_eq!(parse("get=1\nset=1").unwrap_err(), Errno::EPROTO);
        assert_eq!(errno("colour=blue"), Errno::EPROTO);
        assert_eq!(errno("no equals sign"), Errno::EPROTO);
        assert_eq!(errno("protocol_version=2"), Errno::EPROTO);
        assert_eq!(errno("listen_port=65536"), Errno::EINVAL);
        assert_eq!(errno("public_key=00"), Errno::EINVAL);
        assert_eq!(errno("remove=yes"), Errno::EINVAL);
        assert_eq!(errno("endpoint=nowhere"), Errno::EINVAL);
        for signed in [
            "listen_port=+51820",
            "fwmark=+1",
            "fwmark=0x+1",
            "fwmark=0x",
            "persistent_keepalive_interval=+25",
            "persistent_keepalive_interval=",
            "endpoint=[fe80::1%1]:+7",
            &format!("public_key={}", "+1".repeat(32)),
        ] {
            assert_eq!(errno(signed), Errno::EINVAL, "{signed}");
        }
        assert_eq!(errno("endpoint=[fe80::1%no-such-link]:51820"), Errno::ENODEV);
        assert_eq!(errno("endpoint=[fe80::1%]:51820"), Errno::ENODEV);
        assert_eq!(errno("endpoint=[192.0.2.1%lo]:51820"), Errno::EINVAL);
        assert_eq!(errno("allowed_ip=10.0.0.0/33"), Errno::EINVAL);
    }

    #[test]
    fn endpoints_are_read_as_wg_writes_them_and_as_we_do() {
        let read = |text: &str| match parse(&format!("set=1\nendpoint={text}")) {
            Ok(Request::Set(changes)) => match changes[..] {
                [Change::Endpoint(endpoint)] => endpoint,
                ref other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        // Every namespace has it, as its first.
        let scoped = read("[fe80::1%lo]:51820");
        assert_eq!(scoped, SocketAddrV6::new("fe80::1".parse().unwrap(), 51_820, 0, 1).into());
        assert_eq!(
            read("[fe80::1%7]:1").to_string(),
            "[fe80::1%7]:1",
            "the number of a link that is gone"
        );
        for text in [&scoped.to_string(), "[fe80::1%1]:51820", "[2001:db8::1]:7", "192.0.2.1:7"] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_endpoints_never_panic(text in "\\[?[0-9a-f:.%lo]{0,20}\\]?:?[0-9+]{0,6}") {
            let _ = parse(&format!("set=1\nendpoint={text}"));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(set=1\n)?[ -~\n\u{e9}]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn arbitrary_hexadecimal_never_panics(text in "[0-9a-f\u{e9}]{0,70}") {
            let _ = parse(&format!("set=1\npublic_key={text}"));
        }
    }
}
