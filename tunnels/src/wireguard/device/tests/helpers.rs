//! What comes in large pieces is opened by helpers, and delivered in its order.

use super::*;
use std::net::Ipv6Addr;

/// Datagrams of a piece, and pieces of a round.
const EACH: u32 = 20;
const PIECES: u32 = 6;
/// Of the first piece's packets; a datagram larger than those before it begins another piece.
const LEAST_PAYLOAD: usize = 1000;
/// Sixteen bytes of padding would hide a smaller step.
const STEP: usize = 16;
/// Pieces that helpers shall have opened.
const OPENED: u64 = 20;

/// How many pieces the device's helpers have done.
fn helped(device: &Device) -> u64 {
    let (told, tells) = mpsc::channel();
    let shared = device.downgrade().0.upgrade().unwrap();
    shared.tell(Box::new(move |worker, _| {
        let _ = told.send(worker.helpers.as_ref().map_or(0, |helpers| helpers.helped()));
    }));
    tells.recv_timeout(PATIENCE).unwrap()
}

/// The first bytes are the number.
fn numbered(number: u32, piece: u32) -> Vec<u8> {
    let mut payload = vec![0x5a; LEAST_PAYLOAD + piece as usize * STEP];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    packet(A, B, &payload)
}

/// Several large pieces wait at once, so that the first is the thread's and the others are handed
/// out: by runs of datagrams (`UDP_SEGMENT`, `UDP_GRO`) of either family.
#[test]
fn what_helpers_open_arrives_in_its_order() {
    for outside in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        if std::net::UdpSocket::bind((outside, 0)).is_err() {
            eprintln!("skipped: this machine has no {outside}");
            continue;
        }
        let tuning = Tuning { helpers: Some(2), ..Tuning::default() };
        let [a, b] = ["a", "b"].map(|name| End::tuned(name, tuning));
        a.knows_at(&b, B, outside);
        b.knows_at(&a, A, outside);
        a.link.send(&packet(A, B, b"hello")).unwrap();
        assert_eq!(b.read(), packet(A, B, b"hello"));
        let sent = || a.device.peer(&b.key).unwrap().tx_bytes;
        let (mut number, deadline) = (0, Instant::now() + PATIENCE * 6);
        while helped(&b.device) < OPENED {
            assert!(Instant::now() < deadline, "{} pieces by helpers", helped(&b.device));
            let round: Vec<Vec<u8>> =
                (0..PIECES * EACH).map(|n| numbered(number + n, n / EACH)).collect();
            number += PIECES * EACH;
            let bytes = |packet: &Vec<u8>| packet.len().next_multiple_of(16) as u64 + 32;
            let want = sent() + round.iter().map(bytes).sum::<u64>();
            let holds = [&b, &a].map(|end| hold(&end.device));
            let [b_goes, a_goes] = holds;
            for packet in &round {
                a.link.send(packet).unwrap();
            }
            drop(a_goes);
            // What is counted has been sent by then: it is told between two turns.
            holdfast_poll::until("all is sent", PATIENCE, || match sent() {
                bytes if bytes >= want => Ok(()),
                bytes => Err(want - bytes),
            });
            drop(b_goes);
            for want in &round {
                let got = b.read();
                assert!(got == *want, "{:?} and not {:?}", got.get(20..24), &want[20..24]);
            }
        }
    }
}
