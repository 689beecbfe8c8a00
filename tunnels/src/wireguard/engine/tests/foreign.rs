//! The protocol with somebody who learned it elsewhere: boringtun, in memory.

use super::*;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

const PSK: [u8; 32] = [9; 32];

struct Foreign {
    tunn: Tunn,
    address: SocketAddr,
    received: Vec<Vec<u8>>,
}

impl Foreign {
    /// Somebody else, and our end that knows them.
    fn with(psk: Option<[u8; 32]>) -> (End, Foreign) {
        let mut ours = End::new(1);
        let secret = x25519::StaticSecret::from([3; 32]);
        let key = PublicKey(x25519::PublicKey::from(&secret).to_bytes());
        let tunn = Tunn::new(secret, x25519::PublicKey::from(ours.key.0), psk, None, 7, None);
        let address = ([192, 0, 2, 1], 2).into();
        let config = PeerConfig {
            endpoint: Some(address),
            preshared_key: psk.and_then(PresharedKey::from_bytes),
            allowed_ips: [IpNet::from(IpAddr::from(B))].into(),
            ..PeerConfig::default()
        };
        ours.engine.set_peer(key, config, ours.now);
        (ours, Foreign { tunn, address, received: Vec::new() })
    }

    /// Takes a datagram; what it answers.
    fn take(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; 2000];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(None, input, &mut buffer) {
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
