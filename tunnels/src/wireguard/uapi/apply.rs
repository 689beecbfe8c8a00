//! What requests do to a device, and what it says about itself.

use super::GONE;
use super::request::Change;
use crate::wireguard::device::WeakDevice;
use crate::wireguard::engine::Engine;
use crate::wireguard::{PeerConfig, PeerStatus};
use holdfast_api::tunnel::PublicKey;
use nix::errno::Errno;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

/// Everything, in the words of the protocol.
pub(super) fn render(device: &WeakDevice) -> Result<Zeroizing<String>, Errno> {
    let (port, mark) = device.listen().ok_or(GONE)?;
    let (key, peers) = device
        .with_engine(|engine| (engine.private_key().clone(), engine.statuses().collect::<Vec<_>>()))
        .ok_or(GONE)?;
    let mut text =
        Zeroizing::new(format!("private_key={}\nlisten_port={port}\n", *hex(key.expose())));
    if mark != 0 {
        text.push_str(&format!("fwmark={mark}\n"));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for peer in &peers {
        render_peer(&mut text, peer, now);
    }
    Ok(text)
}

fn render_peer(text: &mut String, peer: &PeerStatus, now: Duration) {
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
    let at = peer.handshake_age.and_then(|age| now.checked_sub(age)).unwrap_or_default();
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
pub(super) fn apply(device: &WeakDevice, changes: &[Change]) -> Result<(), Errno> {
    let (mut port, mut mark) = device.listen().ok_or(GONE)?;
    for change in changes {
        match change {
            Change::ListenPort(value) => port = *value,
            Change::Fwmark(value) => mark = *value,
            // A device without a key is one that does not run.
            Change::PrivateKey(None) => return Err(Errno::EOPNOTSUPP),
            _ => {}
        }
    }
    if device.listen() != Some((port, mark)) {
        let refused =
            |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        device.listen_on(port, mark).map_err(refused)?;
    }
    device.with_engine(|engine| apply_peers(engine, changes)).ok_or(GONE)?
}

/// The peer that the lines at hand are about.
struct Current {
    key: PublicKey,
    config: PeerConfig,
    removed: bool,
}

fn apply_peers(engine: &mut Engine, changes: &[Change]) -> Result<(), Errno> {
    let now = Instant::now();
    let mut current: Option<Current> = None;
    for change in changes {
        match change {
            Change::ListenPort(_) | Change::Fwmark(_) | Change::PrivateKey(None) => {}
            Change::PrivateKey(Some(key)) => engine.set_private_key(key.clone(), now),
            Change::ReplacePeers => {
                for key in engine.keys() {
                    engine.remove_peer(&key);
                }
            }
            Change::Peer(key) => {
                finish(engine, current.take(), now);
                let config = engine.status(key).map(|status| status.config).unwrap_or_default();
                current = Some(Current { key: *key, config, removed: false });
            }
            other => {
                let current = current.as_mut().ok_or(Errno::EPROTO)?;
                apply_to_peer(engine, current, other);
            }
        }
    }
    finish(engine, current, now);
    Ok(())
}

fn apply_to_peer(engine: &mut Engine, current: &mut Current, change: &Change) {
    let config = &mut current.config;
    match change {
        Change::Remove => {
            engine.remove_peer(&current.key);
            current.removed = true;
        }
        Change::UpdateOnly => current.removed |= engine.status(&current.key).is_none(),
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
    use crate::wireguard::PrivateKey;
    use crate::wireguard::uapi::{Request, parse};

    fn engine() -> Engine {
        Engine::new(PrivateKey::generate().unwrap(), 10, Instant::now())
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
        for status in engine.statuses() {
            render_peer(&mut text, &status, Duration::from_secs(100));
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
