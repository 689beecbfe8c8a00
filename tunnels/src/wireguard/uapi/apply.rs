//! What requests do to a device, and what it says about itself.

use super::GONE;
use super::request::Change;
use crate::wireguard::device::{PEERS_AT_ONCE, WeakDevice};
use crate::wireguard::engine::Engine;
use crate::wireguard::{PeerConfig, PeerStatus};
use holdfast_api::tunnel::PublicKey;
use nix::errno::Errno;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

/// What a peer takes of the text, with a dozen prefixes: text that is moved to grow leaves keys
/// behind.
const ROOM_PER_PEER: usize = 1024;

/// Everything, in the words of the protocol.
pub(super) fn render(device: &WeakDevice) -> Result<Zeroizing<String>, Errno> {
    let (port, mark) = device.listen().ok_or(GONE)?;
    let key = device.ask(|engine, _| engine.private_key().cloned()).ok_or(GONE)?;
    let peers = device.peers().ok_or(GONE)?;
    let mut text = Zeroizing::new(String::with_capacity(200 + peers.len() * ROOM_PER_PEER));
    if let Some(key) = &key {
        text.push_str("private_key=");
        text.push_str(&hex(key.expose()));
        text.push('\n');
    }
    text.push_str(&format!("listen_port={port}\n"));
    if mark != 0 {
        text.push_str(&format!("fwmark={mark}\n"));
    }
    // Side by side: a handshake is told with the same second however long it takes to tell it.
    let (wall, now) = (SystemTime::now(), Instant::now());
    let now = (wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), now);
    for peer in &peers {
        render_peer(&mut text, peer, now);
    }
    Ok(text)
}

fn render_peer(text: &mut String, peer: &PeerStatus, (wall, now): (Duration, Instant)) {
    let config = &peer.config;
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={value}");
    };
    line("public_key", &*hex(&peer.public_key.0));
    if let Some(key) = &config.preshared_key {
        line("preshared_key", &*hex(key.expose()));
    }
    if let Some(endpoint) = config.endpoint {
        line("endpoint", &endpoint);
    }
    let age = peer.handshake_at.map(|at| now.saturating_duration_since(at));
    let at = age.and_then(|age| wall.checked_sub(age)).unwrap_or_default();
    line("last_handshake_time_sec", &at.as_secs());
    line("last_handshake_time_nsec", &at.subsec_nanos());
    line("tx_bytes", &peer.tx_bytes);
    line("rx_bytes", &peer.rx_bytes);
    line("persistent_keepalive_interval", &config.keepalive_secs);
    for net in &config.allowed_ips {
        line("allowed_ip", net);
    }
    line("protocol_version", &1);
}

/// Makes the changes in their order.
pub(super) fn apply(device: &WeakDevice, changes: Vec<Change>) -> Result<(), Errno> {
    let is_of_peer = |change: &Change| {
        !matches!(
            change,
            Change::PrivateKey(_)
                | Change::ListenPort(_)
                | Change::Fwmark(_)
                | Change::ReplacePeers
        )
    };
    let first = changes.iter().find(|change| is_of_peer(change));
    if first.is_some_and(|change| !matches!(change, Change::Peer(_))) {
        return Err(Errno::EPROTO);
    }

    let (mut port, mut mark) = device.listen().ok_or(GONE)?;
    for change in &changes {
        match change {
            Change::ListenPort(value) => port = *value,
            Change::Fwmark(value) => mark = *value,
            _ => {}
        }
    }
    if device.listen() != Some((port, mark)) {
        let refused =
            |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        device.listen_on(port, mark).map_err(refused)?;
    }
    for some in in_turns(changes) {
        device.ask(move |engine, _| apply_peers(engine, &some)).ok_or(GONE)??;
    }
    Ok(())
}

/// The changes in their order, those of a few peers together: packets pass between two of them.
fn in_turns(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut turns = vec![Vec::new()];
    let mut peers = 0;
    for change in changes {
        if matches!(change, Change::Peer(_)) {
            peers += 1;
            if peers % PEERS_AT_ONCE == 0 {
                turns.push(Vec::new());
            }
        }
        if let Some(turn) = turns.last_mut() {
            turn.push(change);
        }
    }
    turns
}

/// The peer that the lines at hand are about.
struct Current {
    key: PublicKey,
    config: PeerConfig,
    removed: bool,
}

/// Makes the changes that are about keys and peers.
pub(in crate::wireguard) fn apply_peers(
    engine: &mut Engine,
    changes: &[Change],
) -> Result<(), Errno> {
    let now = Instant::now();
    let mut current: Option<Current> = None;
    for change in changes {
        match change {
            Change::ListenPort(_) | Change::Fwmark(_) => {}
            Change::PrivateKey(key) => engine.set_private_key(key.clone(), now),
            Change::ReplacePeers => {
                for key in engine.keys() {
                    engine.remove_peer(&key);
                }
            }
            Change::Peer(key) => {
                finish(engine, current.take(), now);
                let config =
                    engine.status(key, now).map(|status| status.config).unwrap_or_default();
                current = Some(Current { key: *key, config, removed: false });
            }
            other => {
                let current = current.as_mut().ok_or(Errno::EPROTO)?;
                apply_to_peer(engine, current, other, now);
            }
        }
    }
    finish(engine, current, now);
    Ok(())
}

fn apply_to_peer(engine: &mut Engine, current: &mut Current, change: &Change, now: Instant) {
    let config = &mut current.config;
    match change {
        Change::Remove => {
            engine.remove_peer(&current.key);
            current.removed = true;
        }
        Change::UpdateOnly => current.removed |= engine.status(&current.key, now).is_none(),
        Change::PresharedKey(key) => config.preshared_key.clone_from(key),
        Change::Endpoint(endpoint) => config.endpoint = Some(*endpoint),
        Change::Keepalive(secs) => config.keepalive_secs = *secs,
        Change::ReplaceAllowedIps => config.allowed_ips.clear(),
        Change::AllowedIp(net) => {
            config.allowed_ips.insert(net.trunc());
        }
        Change::DropAllowedIp(net) => {
            config.allowed_ips.remove(&net.trunc());
        }
        Change::PrivateKey(_)
        | Change::ListenPort(_)
        | Change::Fwmark(_)
        | Change::ReplacePeers
        | Change::Peer(_) => {}
    }
}

fn finish(engine: &mut Engine, current: Option<Current>, now: Instant) {
    if let Some(Current { key, config, removed: false }) = current {
        engine.set_peer(key, config, now);
    }
}

fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::engine::Start;
    use crate::wireguard::uapi::{Request, parse};
    use crate::wireguard::{Offers, PrivateKey};

    fn engine() -> Engine {
        let start = Start { now: Instant::now(), wall: Duration::ZERO, seed: 1 };
        Engine::new(PrivateKey::generate().unwrap(), 10, Offers::default(), start)
    }

    fn set(engine: &mut Engine, lines: &str) -> Result<(), Errno> {
        let Request::Set(changes) = parse(&format!("set=1\n{lines}"))? else { panic!() };
        apply_peers(engine, &changes)
    }

    #[test]
    fn peers_come_change_and_go_by_the_protocol() {
        let mut engine = engine();
        let (one, two) = ("11".repeat(32), "22".repeat(32));
        set(&mut engine, &format!(
            "public_key={one}\nendpoint=192.0.2.1:7\nallowed_ip=10.0.0.1/32\nallowed_ip=fd00::/8\n\
             public_key={two}\npersistent_keepalive_interval=25\nprotocol_version=1"
        )).unwrap();
        assert_eq!(engine.keys().len(), 2);
        set(&mut engine, &format!("public_key={one}\nupdate_only=true\nallowed_ip=-10.0.0.1/32"))
            .unwrap();
        set(
            &mut engine,
            &format!("public_key={}\nupdate_only=true\nallowed_ip=10.0.0.9/32", "33".repeat(32)),
        )
        .unwrap();
        let mut text = String::new();
        for status in engine.statuses(None, Instant::now()) {
            render_peer(&mut text, &status, (Duration::from_secs(100), Instant::now()));
        }
        let never =
            "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n";
        assert_eq!(
            text,
            format!(
                "public_key={one}\nendpoint=192.0.2.1:7\n{never}persistent_keepalive_interval=0\nallowed_ip=fd00::/8\nprotocol_version=1\n\
             public_key={two}\n{never}persistent_keepalive_interval=25\nprotocol_version=1\n"
            )
        );
        set(&mut engine, &format!("public_key={one}\nremove=true")).unwrap();
        assert_eq!(engine.keys().len(), 1);
        set(&mut engine, "replace_peers=true").unwrap();
        assert!(engine.keys().is_empty());
        assert_eq!(set(&mut engine, "allowed_ip=10.0.0.1/32"), Err(Errno::EPROTO), "whose?");
    }
}
