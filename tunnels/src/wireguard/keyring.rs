//! The sessions of one peer, as long as they may be used: the one in use, the one before it, and one
//! that its initiator has not confirmed yet (whitepaper §6.3; drivers/net/wireguard/noise.c,
//! `add_new_keypair` and `wg_noise_received_with_keypair`).

use super::session::Session;
use std::time::Instant;

/// At most three sessions.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    previous: Option<Box<Session>>,
    current: Option<Box<Session>>,
    next: Option<Box<Session>>,
}

impl Keyring {
    /// Adds the session of a handshake that we began: its answer came, so both have the keys and
    /// it is used from now on.
    pub(crate) fn add_initiated(&mut self, session: Box<Session>) {
        // A next one that waits is newer than what was in use: the peer may send with it.
        self.previous = self.next.take().or(self.current.take());
        self.current = Some(session);
    }

    /// Adds the session of a handshake that the peer began. It is used once the peer has used
    /// it: our answer may be lost. The one before stays, unlike the kernel's: when both sides began
    /// at once, it may be what the peer still sends with.
    pub(crate) fn add_answered(&mut self, session: Box<Session>) {
        self.next = Some(session);
    }

    /// The session that the peer addresses so.
    pub(crate) fn find(&mut self, local_index: u32) -> Option<&mut Session> {
        [&mut self.current, &mut self.next, &mut self.previous]
            .into_iter()
            .filter_map(Option::as_deref_mut)
            .find(|session| session.local_index == local_index)
    }

    /// An authentic packet came in the session that the peer addresses so. True when it was the
    /// first in a session that waited for it, which is used from now on.
    pub(crate) fn confirm(&mut self, local_index: u32) -> bool {
        let confirms = self.next.as_ref().is_some_and(|next| next.local_index == local_index);
        if confirms {
            self.previous = self.current.take();
            self.current = self.next.take();
        }
        confirms
    }

    /// The session to send with, if it may still be used.
    pub(crate) fn sending(&mut self, now: Instant) -> Option<&mut Session> {
        self.current.as_deref_mut().filter(|session| session.is_alive(now))
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        [&self.previous, &self.current, &self.next].into_iter().flatten().count()
    }

    /// Whether one of them is addressed so.
    pub(crate) fn has(&self, local_index: u32) -> bool {
        [&self.current, &self.next, &self.previous]
            .into_iter()
            .flatten()
            .any(|session| session.local_index == local_index)
    }

    /// Forgets those that may not be used any more; gives when the next one of the others ends.
    pub(crate) fn retire(&mut self, now: Instant) -> Option<Instant> {
        let ends = [&mut self.previous, &mut self.current, &mut self.next].map(|place| {
            place.take_if(|session| !session.is_alive(now));
            place.as_ref().map(|session| session.ends_at())
        });
        ends.into_iter().flatten().min()
    }

    /// Forgets all keys.
    pub(crate) fn clear(&mut self) {
        *self = Keyring::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::noise::SessionKeys;
    use crate::wireguard::timers::REJECT_AFTER_TIME;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn session(index: u32, is_initiator: bool, now: Instant) -> Box<Session> {
        let key = || Zeroizing::new([1; 32]);
        let keys = SessionKeys { send: key(), receive: key() };
        Box::new(Session::new(keys, (index, index), is_initiator, now))
    }

    #[test]
    fn an_answered_session_waits_for_its_first_packet() {
        let now = Instant::now();
        let mut ring = Keyring::default();
        ring.add_answered(session(1, false, now));
        assert!(ring.sending(now).is_none() && ring.find(1).is_some());
        assert!(ring.confirm(1) && !ring.confirm(1));
        assert_eq!(ring.sending(now).unwrap().local_index, 1);
        ring.add_answered(session(2, false, now));
        assert_eq!(ring.sending(now).unwrap().local_index, 1, "until it is confirmed");
        assert!(!ring.confirm(1) && ring.confirm(2));
        assert!(ring.has(1) && ring.has(2), "what is on its way in the old one still arrives");
        ring.clear();
        assert!(!ring.has(1) && !ring.has(2));
    }

    #[test]
    fn what_may_not_be_used_any_more_is_not_kept() {
        let start = Instant::now();
        let later = start + REJECT_AFTER_TIME / 2;
        let mut ring = Keyring::default();
        ring.add_initiated(session(1, true, start));
        ring.add_initiated(session(2, true, later));
        ring.add_answered(session(3, false, later));
        let end = start + REJECT_AFTER_TIME;
        assert_eq!(ring.retire(later), Some(end));
        assert!(ring.has(1) && ring.has(2) && ring.has(3));
        assert_eq!(ring.retire(end), Some(later + REJECT_AFTER_TIME));
        assert!(!ring.has(1) && ring.has(2) && ring.has(3));
        assert_eq!(ring.retire(later + REJECT_AFTER_TIME), None);
        assert!(!ring.has(2) && !ring.has(3));
    }

    proptest! {
        /// Whatever the order of handshakes, lost answers and packets in old sessions: what the
        /// peer may send with is known here, as long as it only goes forward.
        #[test]
        fn the_two_newest_that_the_peer_may_use_are_known(steps in proptest::collection::vec(0u8..4, 0..60)) {
            let now = Instant::now();
            let mut ring = Keyring::default();
            let (mut serial, mut current, mut next): (_, _, Option<u32>) = (0, None, None);
            for step in steps {
                serial += 1;
                match step {
                    0 => {
                        ring.add_initiated(session(serial, true, now));
                        let before = next.take().or(current);
                        prop_assert!(before.is_none_or(|before| ring.has(before)), "it may still be in use");
                        current = Some(serial);
                        prop_assert!(ring.has(serial));
                    }
                    1 | 2 => {
                        ring.add_answered(session(serial, false, now));
                        next = Some(serial);
                        prop_assert!(ring.has(serial));
                        prop_assert!(current.is_none_or(|current| ring.has(current)));
                        if step == 2 {
                            prop_assert!(ring.confirm(serial));
                            prop_assert!(current.is_none_or(|before| ring.has(before)), "what is on its way arrives");
                            (current, next) = (Some(serial), None);
                        }
                    }
                    _ => {
                        if let Some(current) = current {
                            prop_assert!(!ring.confirm(current), "what is in use is confirmed");
                        }
                    }
                }
                prop_assert_eq!(ring.sending(now).map(|session| session.local_index), current);
            }
        }
    }
}
