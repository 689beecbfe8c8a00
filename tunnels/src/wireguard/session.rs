//! One session: two keys, the numbers that were sealed with one and seen of the other.

use super::aead::PacketKey;
use super::noise::SessionKeys;
use super::replay::ReplayWindow;
use super::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT};
use std::time::Instant;

/// A session is renewed after so many packets.
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// It is not used beyond this: the window could not tell the last numbers apart.
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    /// How the peer addresses it.
    pub local_index: u32,
    /// How it addresses the peer.
    pub remote_index: u32,
    is_initiator: bool,
    born: Instant,
    send: PacketKey,
    receive: PacketKey,
    next: u64,
    window: ReplayWindow,
}

/// What packets are sealed with.
#[derive(Debug, Clone)]
pub(crate) struct Sealing {
    /// The key.
    pub key: PacketKey,
    /// Whose session it is there.
    pub remote_index: u32,
    /// The number of the first packet.
    pub first: u64,
}

impl Session {
    /// Of the keys of a handshake.
    pub(crate) fn new(
        keys: SessionKeys,
        (local_index, remote_index): (u32, u32),
        is_initiator: bool,
        now: Instant,
    ) -> Self {
        Session {
            local_index,
            remote_index,
            is_initiator,
            born: now,
            send: PacketKey::new(keys.send),
            receive: PacketKey::new(keys.receive),
            next: 0,
            window: ReplayWindow::default(),
        }
    }

    /// Whether its handshake was ours.
    pub(crate) fn is_initiator(&self) -> bool {
        self.is_initiator
    }

    /// Whether it may still be used.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) < REJECT_AFTER_TIME
            && self.next < REJECT_AFTER_MESSAGES
    }

    /// From when on it may not be used, whatever was sent in it.
    pub(crate) fn ends_at(&self) -> Instant {
        self.born + REJECT_AFTER_TIME
    }

    /// Takes numbers for `count` packets to the peer; none when it may not be used.
    pub(crate) fn reserve(&mut self, count: u64, now: Instant) -> Option<Sealing> {
        let first = self.next;
        let next = first.checked_add(count).filter(|next| *next <= REJECT_AFTER_MESSAGES)?;
        if !self.is_alive(now) {
            return None;
        }
        self.next = next;
        Some(Sealing { key: self.send.clone(), remote_index: self.remote_index, first })
    }

    /// What a packet from the peer is opened with; none when it may not be used.
    pub(crate) fn opening(&self, now: Instant) -> Option<&PacketKey> {
        self.is_alive(now).then_some(&self.receive)
    }

    /// Takes the number of an authentic packet; false when it was seen, or is too old to tell.
    pub(crate) fn take(&mut self, counter: u64) -> bool {
        counter < REJECT_AFTER_MESSAGES && self.window.take(counter)
    }

    /// Whether whoever sends with it should renew it.
    pub(crate) fn is_stale_to_send(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.born);
        self.next > REKEY_AFTER_MESSAGES || (self.is_initiator && age > REKEY_AFTER_TIME)
    }

    /// Whether whoever only receives with it should renew it: it would end before the answer to
    /// a keepalive came.
    pub(crate) fn is_stale_to_receive(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.born);
        self.is_initiator && age > REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use zeroize::Zeroizing;

    fn pair(now: Instant) -> (Session, Session) {
        let keys = |send: u8, receive: u8| SessionKeys {
            send: Zeroizing::new([send; 32]),
            receive: Zeroizing::new([receive; 32]),
        };
        (
            Session::new(keys(1, 2), (10, 20), true, now),
            Session::new(keys(2, 1), (20, 10), false, now),
        )
    }

    #[test]
    fn what_one_seals_the_other_opens_once() {
        let now = Instant::now();
        let (mut a, mut b) = pair(now);
        let sealing = a.reserve(3, now).unwrap();
        assert_eq!((sealing.first, sealing.remote_index), (0, 20));
        assert_eq!(a.reserve(1, now).unwrap().first, 3);
        let mut packet = b"hello".to_vec();
        let seal = sealing.key.ready().unwrap();
        let tag = seal.seal(2, &mut packet).unwrap();
        packet.extend(tag);
        let key = b.opening(now).unwrap().ready().unwrap();
        assert!(key.open(1, &mut packet.clone()).is_none(), "another number");
        assert!(seal.open(2, &mut packet.clone()).is_some(), "one key, one direction");
        assert!(a.opening(now).unwrap().ready().unwrap().open(2, &mut packet.clone()).is_none());
        let length = key.open(2, &mut packet).unwrap();
        assert_eq!(&packet[..length], b"hello");
        assert!(b.take(2) && !b.take(2));
        assert!(!format!("{a:?}").contains("1, 1"), "no key is shown");
    }

    /// Ten thousand peers have as many, and twice as many for a third of the time.
    #[test]
    fn it_is_little_more_than_its_window() {
        let bytes = size_of::<Session>();
        assert!(bytes <= size_of::<ReplayWindow>() + 128, "{bytes}");
    }

    #[test]
    fn it_ends_by_age_and_by_number() {
        let now = Instant::now();
        let (mut a, mut b) = pair(now);
        let later = now + REKEY_AFTER_TIME + Duration::from_secs(1);
        assert!(a.is_stale_to_send(later) && !a.is_stale_to_send(now));
        assert!(!b.is_stale_to_send(later), "only one of both renews");
        assert!(a.is_stale_to_receive(now + Duration::from_secs(166)));
        assert!(!a.is_stale_to_receive(now + Duration::from_secs(165)));
        let end = now + REJECT_AFTER_TIME;
        assert!(a.reserve(1, end).is_none() && a.opening(end).is_none());
        b.next = REKEY_AFTER_MESSAGES + 1;
        assert!(b.is_stale_to_send(now), "by number both may");
        b.next = REJECT_AFTER_MESSAGES - 1;
        assert!(b.reserve(2, now).is_none());
        assert!(b.reserve(1, now).is_some());
        assert!(b.reserve(1, now).is_none(), "not one more");
        assert!(!b.take(REJECT_AFTER_MESSAGES) && b.take(REJECT_AFTER_MESSAGES - 1));
    }
}
