//! A device takes another private key: it is another one from then on, also for who knew it.

use super::*;
use crate::wireguard::message::Message;

/// Gives a device another key, and what it was before.
fn rotate(end: &mut End) -> End {
    let before = End::at(9, end.engine.private_key().unwrap().clone(), 1000, end.now);
    let key = PrivateKey::generate().unwrap();
    end.key = key.public();
    end.engine.set_private_key(Some(key), end.now);
    before
}

/// Lets go by what a device waits for before it begins a second handshake.
fn wait(ends: [&mut End; 2]) {
    ends.into_iter().for_each(|end| end.now += Duration::from_secs(6));
}

#[test]
fn the_sessions_of_the_key_before_carry_nothing_more() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"hello"));
    send(&mut b, &mut a, &packet(B, A, b"hello"));
    let late = b.give(&packet(B, A, b"on its way"));
    let [(_, late)] = &late.network[..] else { panic!("{late:?}") };
    rotate(&mut a);
    assert!(!a.engine.has_session(&b.key, a.now));
    assert!(a.take(b.address, late).link.is_empty());
    let out = a.give(&packet(A, B, b"waits"));
    let [(_, hello)] = &out.network[..] else { panic!("{out:?}") };
    assert!(matches!(Message::parse(hello), Some(Message::Initiation { .. })), "and nothing else");
    // Whoever does not know the new key says nothing to it.
    let answer = b.take(a.address, hello);
    assert!(answer.network.is_empty() && answer.link.is_empty());
    assert_eq!((a.received.len(), b.received.len()), (1, 1));
}

#[test]
fn who_follows_goes_on_and_the_key_before_is_a_strangers() {
    let (mut a, mut b) = pair();
    send(&mut a, &mut b, &packet(A, B, b"hello"));
    let late = a.give(&packet(A, B, b"on its way"));
    let mut before = rotate(&mut a);
    assert!(b.engine.remove_peer(&before.key));
    b.knows(&a, A, false);
    for (_, datagram) in &late.network {
        assert!(b.take(a.address, datagram).link.is_empty(), "of a session that is gone");
    }
    send(&mut b, &mut a, &packet(B, A, b"who are you"));
    assert_eq!(a.received, [packet(B, A, b"who are you")]);
    wait([&mut a, &mut b]);
    send(&mut a, &mut b, &packet(A, B, b"another one"));
    assert_eq!(b.received.last(), Some(&packet(A, B, b"another one")));
    // Somebody has found the old key.
    before.knows(&b, B, true);
    before.now = b.now;
    let hello = before.timers();
    assert!(!hello.network.is_empty());
    for (_, datagram) in &hello.network {
        assert!(b.take(before.address, datagram).network.is_empty());
    }
    // And whoever still means the old one is not answered by the new one.
    let mut c = End::at(4, PrivateKey::generate().unwrap(), 1000, a.now);
    c.knows(&End { address: a.address, ..before }, A, true);
    for (_, datagram) in &c.timers().network {
        assert!(a.take(c.address, datagram).network.is_empty());
    }
}

/// Of both sides at once, again and again, also while a handshake is under way.
#[test]
fn keys_may_change_in_the_midst_of_a_handshake() {
    let (mut a, mut b) = pair();
    for round in 0..4 {
        let hello = a.give(&packet(A, B, b"waits"));
        let [(_, hello)] = &hello.network[..] else { panic!("{hello:?}") };
        let answer = b.take(a.address, hello);
        let before = rotate(&mut a);
        b.engine.remove_peer(&before.key);
        b.knows(&a, A, false);
        for (_, datagram) in &answer.network {
            let out = a.take(b.address, datagram);
            assert!(out.network.is_empty(), "the answer to another one's handshake");
        }
        wait([&mut a, &mut b]);
        assert!(!a.engine.has_session(&b.key, a.now), "round {round}");
        let text = packet(B, A, &[round]);
        send(&mut b, &mut a, &text);
        assert_eq!(a.received.last(), Some(&text));
        // So that the next round begins without one.
        wait([&mut a, &mut b]);
        let before = rotate(&mut b);
        a.engine.remove_peer(&before.key);
        a.knows(&b, B, false);
    }
}
