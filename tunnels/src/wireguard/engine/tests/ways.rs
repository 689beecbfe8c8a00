//! Where a peer is, and which of our own addresses it knows.

use super::*;
use crate::wireguard::outbox::Way;

/// The address stays ours when the way out that belongs to it does not lead anywhere any more.
#[test]
fn an_address_of_ours_that_brings_no_answer_is_given_up() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"hello"));
    let ours = Some(IpAddr::from([192, 0, 2, 77]));
    let by = |a: &mut End| a.engine.peer(0).unwrap().way().unwrap().from;
    a.engine.peer_mut(0).unwrap().heard_from(Way { to: b.address, from: ours });
    a.give(&packet(A, B, b"into the void"));
    assert_eq!(by(&mut a), ours, "as long as nothing is wrong");
    a.now += Duration::from_secs(16);
    assert_eq!(a.timers().network.len(), 1, "nobody answered");
    assert_eq!(by(&mut a), None);
    // Whoever answers says by which address he is heard.
    a.engine.peer_mut(0).unwrap().heard_from(Way { to: b.address, from: ours });
    a.engine.renew(&b.key, a.now);
    a.timers();
    assert_eq!(by(&mut a), None);
}

/// Also when the call to where it was is in its longest pause.
#[test]
fn an_endpoint_that_is_set_is_called_at_once() {
    let (mut a, b) = (End::new(1), End::new(2));
    a.knows(&b, B, true);
    for _ in 0..9 {
        a.now = a.engine.due_at().unwrap().max(a.now);
        assert_eq!(a.timers().network.len(), 1);
    }
    assert!(a.engine.due_at().unwrap() > a.now + Duration::from_secs(3));
    let moved = End { address: ([198, 51, 100, 7], 9).into(), ..b };
    a.knows(&moved, B, true);
    assert!(a.engine.due_at().unwrap() <= a.now);
    assert_eq!(a.timers().network[0].0, moved.address);
    let soon = a.engine.due_at().unwrap() - a.now;
    assert!(soon < Duration::from_millis(500), "{soon:?}: a new place is called anew");
}

/// A probe of the path's MTU says nothing once it is cut or late.
#[test]
fn what_must_not_be_cut_does_not_wait_for_a_session() {
    let (mut a, b) = pair();
    let mut outbox = Outbox::alone(Collect::default());
    a.engine.send(&packet(A, B, b"probe"), Fragments::Forbidden, &mut outbox, a.now);
    outbox.flush();
    assert!(outbox.network.network.is_empty());
    assert!(!a.engine.peer(0).unwrap().has_staged());
    assert_eq!(a.give(&packet(A, B, b"data")).network.len(), 1, "{:?} is called for this", b.key);
}
