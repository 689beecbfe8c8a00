//! The protocol with somebody who learned it elsewhere: boringtun, in memory.

use super::*;
use crate::wireguard::cookie::Proof;
use crate::wireguard::message::{COOKIE_REPLY_BYTES, RESPONSE_BYTES};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use std::sync::Arc;

const PSK: [u8; 32] = [9; 32];

struct Foreign {
    tunn: Tunn,
    address: SocketAddr,
    /// Where we are.
    ours: IpAddr,
    received: Vec<Vec<u8>>,
}

impl Foreign {
    /// Somebody else, and our end that knows them.
    fn with(psk: Option<[u8; 32]>) -> (End, Foreign) {
        Self::beside(End::new(1), psk, None)
    }

    /// Somebody else who takes so many handshakes a second, and `ours` that knows them.
    fn beside(mut ours: End, psk: Option<[u8; 32]>, limit: Option<u64>) -> (End, Foreign) {
        let secret = x25519::StaticSecret::from([3; 32]);
        let public = x25519::PublicKey::from(&secret);
        let key = PublicKey(public.to_bytes());
        let limiter = limit.map(|limit| Arc::new(RateLimiter::new(&public, limit)));
        let to_us = x25519::PublicKey::from(ours.key.0);
        let tunn = Tunn::new(secret, to_us, psk, None, 7, limiter);
        let address = ([192, 0, 2, 1], 2).into();
        let config = PeerConfig {
            endpoint: Some(address),
            preshared_key: psk.and_then(PresharedKey::from_bytes),
            allowed_ips: [IpNet::from(IpAddr::from(B))].into(),
            ..PeerConfig::default()
        };
        ours.engine.set_peer(key, config, ours.now);
        let foreign = Foreign { tunn, address, ours: ours.address.ip(), received: Vec::new() };
        (ours, foreign)
    }

    /// A first message, also when the last one was not answered.
    fn call(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 2000];
        match self.tunn.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Takes a datagram; what it answers.
    fn take(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; 2000];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(Some(self.ours), input, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.received.push(packet.to_vec());
                    return answers;
                }
                _ => return answers,
            }
            // It gives what it has queued one by one.
            input = &[];
        }
    }

    fn give(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 2000];
        match self.tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => vec![datagram.to_vec()],
            _ => Vec::new(),
        }
    }
}

/// Carries datagrams until the wire is silent.
fn settle(ours: &mut End, foreign: &mut Foreign, out: Collect, to_us: Vec<Vec<u8>>) {
    let mut to_them: Vec<Vec<u8>> = out.network.into_iter().map(|(_, datagram)| datagram).collect();
    let mut to_us = to_us;
    for _ in 0..20 {
        to_us.extend(to_them.drain(..).flat_map(|datagram| foreign.take(&datagram)));
        for datagram in std::mem::take(&mut to_us) {
            let mut out = ours.take(foreign.address, &datagram);
            ours.received.append(&mut out.link);
            to_them.extend(out.network.into_iter().map(|(_, datagram)| datagram));
        }
    }
    assert!(to_them.is_empty(), "the wire never falls silent");
}

#[test]
fn either_side_may_begin() {
    for psk in [None, Some(PSK)] {
        for we_begin in [true, false] {
            let (mut ours, mut foreign) = Foreign::with(psk);
            let (there, back) = (packet(A, B, &[1; 1000]), packet(B, A, b"back"));
            if we_begin {
                let out = ours.give(&there);
                settle(&mut ours, &mut foreign, out, Vec::new());
                let out = foreign.give(&back);
                settle(&mut ours, &mut foreign, Collect::default(), out);
            } else {
                let out = foreign.give(&back);
                settle(&mut ours, &mut foreign, Collect::default(), out);
                let out = ours.give(&there);
                settle(&mut ours, &mut foreign, out, Vec::new());
            }
            assert_eq!(foreign.received, [there], "{psk:?} {we_begin}");
            assert_eq!(ours.received, [back], "{psk:?} {we_begin}");
        }
    }
}

#[test]
fn another_preshared_key_brings_no_session() {
    let (mut ours, mut foreign) = Foreign::with(Some(PSK));
    foreign.tunn = Tunn::new(
        x25519::StaticSecret::from([3; 32]),
        x25519::PublicKey::from(ours.key.0),
        None,
        None,
        7,
        None,
    );
    let out = ours.give(&packet(A, B, b"there"));
    settle(&mut ours, &mut foreign, out, Vec::new());
    let out = foreign.give(&packet(B, A, b"back"));
    settle(&mut ours, &mut foreign, Collect::default(), out);
    assert!(foreign.received.is_empty() && ours.received.is_empty());
}

/// Beyond our limit they are asked to show their address, and do.
#[test]
fn a_cookie_of_ours_is_shown_to_us() {
    let ours = End::at(1, PrivateKey::generate().unwrap(), 1, Instant::now());
    let (mut ours, mut foreign) = Foreign::beside(ours, None, None);
    let lost = ours.take(foreign.address, &foreign.call());
    assert_eq!(lost.network[0].1.len(), RESPONSE_BYTES, "the one of this second");
    ours.now += Duration::from_millis(250);
    let proof = |ours: &End, datagram: &[u8]| {
        ours.engine.checker.check(datagram, ([192, 0, 2, 1], 2).into(), ours.now)
    };
    let without = foreign.call();
    let reply = ours.take(foreign.address, &without).network.remove(0).1;
    assert_eq!((reply.len(), proof(&ours, &without)), (COOKIE_REPLY_BYTES, Proof::Key));
    assert!(foreign.take(&reply).is_empty());
    let with = foreign.call();
    assert_eq!(proof(&ours, &with), Proof::Address);
    settle(&mut ours, &mut foreign, Collect::default(), vec![with]);
    let out = foreign.give(&packet(B, A, b"back"));
    settle(&mut ours, &mut foreign, Collect::default(), out);
    assert_eq!(ours.received, [packet(B, A, b"back")]);
}

/// They take no handshake of anybody who does not show an address, and ours does: with its next
/// first message, and with its next answer.
#[test]
fn a_cookie_of_theirs_is_shown_to_them() {
    for we_begin in [true, false] {
        let (mut ours, mut foreign) = Foreign::beside(End::new(1), None, Some(0));
        let (there, back) = (packet(A, B, b"there"), packet(B, A, b"back"));
        let first = match we_begin {
            true => ours.give(&there).network.remove(0).1,
            false => {
                // Theirs to us is not limited.
                let call = foreign.call();
                ours.take(foreign.address, &call).network.remove(0).1
            }
        };
        let replies = foreign.take(&first);
        assert_eq!(replies.iter().map(Vec::len).collect::<Vec<_>>(), [COOKIE_REPLY_BYTES]);
        assert!(ours.take(foreign.address, &replies[0]).network.is_empty());
        ours.now += Duration::from_secs(6);
        if we_begin {
            let out = ours.timers();
            settle(&mut ours, &mut foreign, out, Vec::new());
            assert_eq!(foreign.received, [there]);
        } else {
            let call = foreign.call();
            settle(&mut ours, &mut foreign, Collect::default(), vec![call]);
        }
        let out = foreign.give(&back);
        settle(&mut ours, &mut foreign, Collect::default(), out);
        assert_eq!(ours.received, [back], "{we_begin}");
    }
}
