//! The text of requests.

use crate::wireguard::{PresharedKey, PrivateKey};
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use nix::errno::Errno;
use std::net::SocketAddr;
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

/// Reads a request, without its final empty line.
///
/// # Errors
/// `EINVAL` for a value that cannot be, `EPROTO` for a line that is not known.
pub fn parse(text: &str) -> Result<Request, Errno> {
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") => Ok(Request::Get),
        Some("set=1") => {
            let changes = lines.filter_map(|line| parse_line(line).transpose());
            changes.collect::<Result<_, _>>().map(Request::Set)
        }
        _ => Err(Errno::EPROTO),
    }
}

fn parse_line(line: &str) -> Result<Option<Change>, Errno> {
    let (name, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
    let truth = |change| if value == "true" { Ok(change) } else { Err(Errno::EINVAL) };
    let invalid = |_| Errno::EINVAL;
    Ok(Some(match name {
        "private_key" => {
            let bytes = Zeroizing::new(unhex(value)?);
            Change::PrivateKey((*bytes != [0; 32]).then(|| PrivateKey::from_bytes(*bytes)))
        }
        "listen_port" => Change::ListenPort(value.parse().map_err(invalid)?),
        "fwmark" => Change::Fwmark(number(value)?),
        "replace_peers" => truth(Change::ReplacePeers)?,
        "public_key" => Change::Peer(PublicKey(unhex(value)?)),
        "remove" => truth(Change::Remove)?,
        "update_only" => truth(Change::UpdateOnly)?,
        "preshared_key" => {
            Change::PresharedKey(PresharedKey::from_bytes(*Zeroizing::new(unhex(value)?)))
        }
        "endpoint" => Change::Endpoint(value.parse().map_err(|_| Errno::EINVAL)?),
        "persistent_keepalive_interval" => Change::Keepalive(value.parse().map_err(invalid)?),
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
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| Errno::EINVAL)
}

fn unhex(text: &str) -> Result<[u8; 32], Errno> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
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
        assert_eq!(errno("colour=blue"), Errno::EPROTO);
        assert_eq!(errno("no equals sign"), Errno::EPROTO);
        assert_eq!(errno("protocol_version=2"), Errno::EPROTO);
        assert_eq!(errno("listen_port=65536"), Errno::EINVAL);
        assert_eq!(errno("public_key=00"), Errno::EINVAL);
        assert_eq!(errno("remove=yes"), Errno::EINVAL);
        assert_eq!(errno("endpoint=nowhere"), Errno::EINVAL);
        assert_eq!(errno("allowed_ip=10.0.0.0/33"), Errno::EINVAL);
    }

    proptest! {
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
