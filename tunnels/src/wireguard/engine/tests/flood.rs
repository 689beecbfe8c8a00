//! A flood of first messages: of strangers, and of thousands of nodes whose edge was started anew.

use super::*;
use crate::wireguard::message::{COOKIE_REPLY_BYTES, INITIATION_BYTES, RESPONSE_BYTES};

const LIMIT: u64 = 100;

fn counted(out: &Collect, bytes: usize) -> u64 {
    out.network.iter().filter(|(_, datagram)| datagram.len() == bytes).count() as u64
}

/// First messages with a right mac1, of keys that `target` does not know.
fn strangers(target: &End, count: u16) -> Vec<Vec<u8>> {
    let one = |port| {
        let mut stranger = End::new(port);
        stranger.knows(target, A, true);
        stranger.timers().network.remove(0).1
    };
    (0..count).map(one).collect()
}

/// Three strangers a millisecond, each from an address of its own: what they cost is bounded, not
/// a packet of a peer is lost, and its session is renewed among them.
#[test]
fn strangers_cost_little_and_peers_go_on() {
    let (mut a, mut b) =
        (End::new(1), End::at(2, PrivateKey::generate().unwrap(), LIMIT, Instant::now()));
    a.knows(&b, B, false);
    b.knows(&a, A, false);
    send(&mut a, &mut b, &packet(A, B, b"first"));
    b.received.clear();
    let flood = strangers(&b, 3);
    let mut addresses = (0u32..).map(|n| SocketAddr::from(((0x0b00_0000 | n).to_be_bytes(), 9)));
    let (mut refused, mut answered, mut renewed) = (0, 0, 0);
    let seconds = 3;
    for millis in 0..seconds * 1000u64 {
        (a.now, b.now) = (a.now + Duration::from_millis(1), b.now + Duration::from_millis(1));
        for (stranger, from) in flood.iter().zip(addresses.by_ref()) {
            let out = b.take(from, stranger);
            refused += counted(&out, COOKIE_REPLY_BYTES);
            answered += counted(&out, RESPONSE_BYTES);
            assert!(out.link.is_empty());
        }
        let (out, address) = (a.give(&packet(A, B, &millis.to_be_bytes())), a.address);
        settle(&mut [&mut a, &mut b], out, address);
        if millis == 1000 {
            a.engine.renew(&b.key, a.now);
        }
        if millis > 1000 {
            let out = a.timers();
            renewed += counted(&out, INITIATION_BYTES);
            settle(&mut [&mut a, &mut b], out, address);
        }
    }
    let sent: Vec<_> = (0..seconds * 1000).map(|n| packet(A, B, &n.to_be_bytes())).collect();
    assert!(b.received == sent, "a packet was lost");
    assert_eq!((renewed, answered), (2, 0), "the first is answered with a cookie");
    assert!(b.status(&a).handshake_age.unwrap() < Duration::from_secs(2), "and the second holds");
    let worked = seconds * 3000 - refused;
    assert!(worked <= LIMIT * (seconds + 1) + 20, "{worked} were worked on");
    let counts = b.engine.handshakes();
    // The peer's own two among them: it was asked to come back with a cookie, once.
    assert_eq!(counts.cookies, refused + 1);
    assert_eq!(counts.taken + counts.cookies + counts.dropped, seconds * 3000 + 3);
}

/// All at once, more than are taken in a second: none has to show its address, and who asks again
/// while it waits is answered to what it asked last.
#[test]
fn after_a_restart_every_node_is_answered_once() {
    let now = Instant::now();
    let mut edge = End::at(1, PrivateKey::generate().unwrap(), 1, now);
    let mut nodes: Vec<End> =
        (0..60u16).map(|n| End::at(100 + n, PrivateKey::generate().unwrap(), 1000, now)).collect();
    let mut outbox = Outbox::alone(Collect::default());
    for (node, n) in nodes.iter_mut().zip(0u8..) {
        edge.knows(node, [10, 1, 0, n], false);
        node.knows(&edge, B, true);
    }
    for round in 0..3 {
        for node in &mut nodes {
            node.now = now + Duration::from_millis(round * 700);
            for (_, datagram) in node.timers().network {
                let mut memory = datagram;
                let range = 0..memory.len();
                let datagrams = Datagrams {
                    at: None,
                    from: node.address,
                    ecn: Ecn::NotEct,
                    segment: memory.len(),
                    range,
                };
                edge.engine.take_datagrams(
                    &mut memory,
                    &datagrams,
                    &mut outbox,
                    &mut |_| false,
                    now,
                );
            }
        }
    }
    assert!(edge.engine.due_at().is_some_and(|at| at <= now), "they wait to be worked on");
    while edge.engine.due_at().is_some_and(|at| at <= now) {
        edge.engine.timers(&mut outbox, now);
    }
    outbox.flush();
    let counts = edge.engine.handshakes();
    assert_eq!((counts.cookies, counts.dropped), (0, 0));
    assert!(counts.taken > nodes.len() as u64, "who asks again is counted again");
    let answers = std::mem::take(&mut outbox.network.network);
    assert_eq!(answers.len(), nodes.len(), "one for each");
    for (node, (to, answer)) in nodes.iter_mut().zip(&answers) {
        assert_eq!(node.address, *to, "in the order of their first messages");
        node.take(edge.address, answer);
        assert!(node.engine.has_session(&edge.key, node.now));
    }
}
