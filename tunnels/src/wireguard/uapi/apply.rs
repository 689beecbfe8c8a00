//! What requests do to a device.

use super::GONE;
use super::request::Change;
use crate::wireguard::device::{PEERS_AT_ONCE, WeakDevice};
use crate::wireguard::engine::Engine;
use crate::wireguard::{PeerConfig, PrivateKey};
use holdfast_api::tunnel::PublicKey;
use nix::errno::Errno;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Makes the changes in their order.
pub(super) async fn apply(device: &WeakDevice, changes: Vec<Change>) -> Result<(), Errno> {
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
    // Not moved any more: what is moved leaves keys behind.
    let changes = Arc::new(changes);
    for turn in turns(&changes) {
        let changes = Arc::clone(&changes);
        let work = move |engine: &mut Engine, _| {
            apply_peers(engine, changes.get(turn).unwrap_or_default())
        };
        device.ask(work).await.ok_or(GONE)??;
    }
    Ok(())
}

/// Where the changes of a few peers together begin and end: packets pass between two of them.
fn turns(changes: &[Change]) -> Vec<Range<usize>> {
    let peers = changes.iter().enumerate().filter(|(_, change)| matches!(change, Change::Peer(_)));
    let mut bounds = vec![0];
    bounds.extend(peers.map(|(at, _)| at).skip(PEERS_AT_ONCE).step_by(PEERS_AT_ONCE));
    bounds.push(changes.len());
    bounds.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// The peer that the lines at hand are about.
struct Current {
    key: PublicKey,
    config: PeerConfig,
    /// Or shall not be there in the first place.
    removed: bool,
}

/// Makes the changes that are about keys and peers. The device's own key is no peer, and nothing is
/// said of that, so that one list of peers can be given to all of them (`set_peer` in
/// drivers/net/wireguard/netlink.c).
pub(in crate::wireguard) fn apply_peers(
    engine: &mut Engine,
    changes: &[Change],
) -> Result<(), Errno> {
    let now = Instant::now();
    let mut current: Option<Current> = None;
    let mut own = engine.private_key().map(PrivateKey::public);
    for change in changes {
        match change {
            Change::ListenPort(_) | Change::Fwmark(_) => {}
            Change::PrivateKey(key) => {
                engine.set_private_key(key.clone(), now);
                own = engine.private_key().map(PrivateKey::public);
                if let Some(own) = &own {
                    engine.remove_peer(own);
                }
            }
            Change::ReplacePeers => {
                for key in engine.keys() {
                    engine.remove_peer(&key);
                }
            }
            Change::Peer(key) => {
                finish(engine, current.take(), now);
                let config =
                    engine.status(key, now).map(|status| status.config).unwrap_or_default();
                current = Some(Current { key: *key, config, removed: own == Some(*key) });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::Offers;
    use crate::wireguard::engine::Start;
    use crate::wireguard::uapi::show::render_peer;
    use crate::wireguard::uapi::{Request, parse};
    use std::time::Duration;

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
    #[test]
    fn the_devices_own_key_is_no_peer() {
        let key = PrivateKey::generate().unwrap();
        let hex = |bytes: &[u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let (private, own) = (hex(key.expose()), hex(&key.public().0));
        let other = "11".repeat(32);
        let mut engine = engine();
        let both = format!("public_key={own}\nallowed_ip=10.0.0.1/32\npublic_key={other}\n");
        set(&mut engine, &both).unwrap();
        assert_eq!(engine.keys().len(), 2, "it is not the own one yet");
        set(&mut engine, &format!("private_key={private}")).unwrap();
        assert_eq!(engine.keys(), [PublicKey([0x11; 32])]);
        assert_eq!(engine.owner("10.0.0.1/32".parse().unwrap()), None);
        set(&mut engine, &both).unwrap();
        assert_eq!(engine.keys(), [PublicKey([0x11; 32])]);
        // Without a key of its own it is anybody's.
        set(&mut engine, &format!("private_key={}\n{both}", "00".repeat(32))).unwrap();
        assert_eq!(engine.keys().len(), 2);
    }

    #[test]
    fn the_changes_of_a_few_peers_are_made_at_a_time() {
        let line = |_| [Change::Peer(PublicKey([1; 32])), Change::Keepalive(25)];
        for peers in [0, 1, PEERS_AT_ONCE, PEERS_AT_ONCE + 1, 3 * PEERS_AT_ONCE] {
            let changes: Vec<Change> =
                std::iter::once(Change::ReplacePeers).chain((0..peers).flat_map(line)).collect();
            let turns = turns(&changes);
            assert_eq!(turns.len(), peers.div_ceil(PEERS_AT_ONCE).max(1));
            assert!(
                turns.iter().skip(1).all(|turn| matches!(changes[turn.start], Change::Peer(_)))
            );
            assert_eq!(turns.into_iter().flatten().count(), changes.len(), "all, each once");
        }
    }
}
