//! A door for fuzzers ([`crate::fuzzing`]) to what the other end of a tunnel says inside of it.

use super::datagram::{Datagram, unwrap};
use super::path_mtu::PathMtu;
use super::session::{Role, Settings};
use super::sessions::{Outgoing, Sessions};
use super::{CONTROL_PORT, LinkId, Packet, State};
use crate::path_mtu::packet::{self, Kind, PORT as PATH_MTU_PORT};
use crate::path_mtu::{LEAST, Search};
use crate::probe::Probe;
use holdfast_api::tunnel::BfdTimers;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

const LINK: LinkId = 1;
const MOST_MTU: u16 = 1420;
/// Where a control packet has it (RFC 5880 §4.1).
const YOUR_DISCRIMINATOR: Range<usize> = 8..12;

/// Packets of the tunnel behind each other, each with its length in two bytes in front; 100 ms pass
/// after each. One that is no whole packet is taken as a payload of the peer's. Where a peer must
/// say what we said, ones everywhere stand for that.
pub(crate) fn inside(bytes: &[u8]) {
    let [local, peer] = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
    let mut now = Instant::now();
    let timers = BfdTimers { interval_ms: 100, multiplier: 3 };
    let Ok(settings) = Settings::new(timers, Role::Active) else { return };
    let mut sessions = Sessions::new(1);
    sessions.insert((), LINK, peer, settings, now);
    let mut path_mtu = PathMtu::new();
    path_mtu.begin((), peer, Search::new(MOST_MTU, 1, now));
    let (mut said, mut asked, mut changes) = ([0; 4], 0, Vec::new());
    let mut rest = bytes;
    while let Some((&length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(length));
        let (packet, behind) = behind.split_at(behind.len().min(length));
        rest = behind;
        if let Ok(probe) = Probe::parse(packet) {
            assert_eq!(Probe::parse(&probe.emit()), Ok(probe));
        }
        let mut payload = packet.to_vec();
        let raw = || Datagram { from: peer, to: local, ttl: u8::MAX, port: 0, payload: &[] };
        let datagram = unwrap(packet, &[CONTROL_PORT, PATH_MTU_PORT]).unwrap_or_else(raw);
        if datagram.port == 0 {
            if packet::parse(&payload) == Some((Kind::Answer, u64::MAX)) {
                payload = packet::payload(Kind::Answer, asked, payload.len()).unwrap_or_default();
            } else if let Some(yours) = payload.get_mut(YOUR_DISCRIMINATOR)
                && *yours == [u8::MAX; 4]
            {
                yours.copy_from_slice(&said);
            }
        } else {
            payload = datagram.payload.to_vec();
        }
        let datagram = Datagram { payload: &payload, ..datagram };
        if datagram.port == CONTROL_PORT || !path_mtu.receive(&datagram, now) {
            let Datagram { from, ttl, .. } = datagram;
            let _ = sessions.receive(LINK, from, ttl, &payload, now);
        }
        let send = |out: Outgoing| match Packet::parse(&out.bytes) {
            Ok(packet) => said = packet.my_discriminator.get().to_be_bytes(),
            Err(error) => panic!("we sent what is none: {error}"),
        };
        sessions.run(now, send, &mut changes);
        let up = sessions.status(&()).is_some_and(|status| status.state == State::Up);
        let told = path_mtu.run(local, up, now, |packet| {
            let Some(datagram) = unwrap(packet, &[PATH_MTU_PORT]) else {
                panic!("we sent what is none: {packet:?}")
            };
            if let Some((Kind::Question, nonce)) = packet::parse(datagram.payload) {
                asked = nonce;
            }
        });
        if let Some(((), Some(mtu))) = told {
            assert!((LEAST..=MOST_MTU).contains(&mtu), "{mtu}");
        }
        now += Duration::from_millis(100);
    }
    assert!(sessions.wake_at().is_some(), "somebody always asks");
}
