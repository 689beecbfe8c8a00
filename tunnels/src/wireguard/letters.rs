//! Datagrams that came in one piece, looked at once: which of them are packets of sessions, and what
//! those were when they have been opened.
//!
//! Opening needs nothing but the keys, so any thread may do it; what a packet then means is decided
//! in the order in which they came.

use super::aead::{PacketKey, ReadyKey};
use super::message::DATA_HEADER_BYTES;
use std::ops::Range;

/// The datagrams of one piece.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    pub(crate) list: Vec<Letter>,
    keys: Vec<(u32, PacketKey)>,
}

/// A datagram.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// Where it is in the piece.
    pub(crate) place: Range<usize>,
    /// What it says of itself, when it is a packet of a session that is known.
    pub(crate) packet: Option<Packet>,
}

/// A packet of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    /// How the sender addresses the session.
    pub(crate) receiver: u32,
    /// Its number.
    pub(crate) counter: u64,
    /// The bytes of the text, once it was opened; none when it is not authentic.
    pub(crate) text_bytes: Option<usize>,
    key: usize,
}

impl Letters {
    /// None.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.keys.clear();
    }

    /// A datagram that is no packet of a known session.
    pub(crate) fn push_other(&mut self, place: Range<usize>) {
        self.list.push(Letter { place, packet: None });
    }

    /// A packet; `key` gives the key of its session, if that is known.
    pub(crate) fn push(
        &mut self,
        place: Range<usize>,
        (receiver, counter): (u32, u64),
        key: impl FnOnce() -> Option<PacketKey>,
    ) {
        if self.keys.last().is_none_or(|(last, _)| *last != receiver) {
            let Some(key) = key() else { return self.push_other(place) };
            self.keys.push((receiver, key));
        }
        let key = self.keys.len() - 1;
        let packet = Some(Packet { receiver, counter, text_bytes: None, key });
        self.list.push(Letter { place, packet });
    }

    /// Opens all packets in place.
    pub(crate) fn open(&mut self, piece: &mut [u8]) {
        let mut ready: Option<(usize, ReadyKey)> = None;
        for letter in &mut self.list {
            let Some(packet) = &mut letter.packet else { continue };
            if ready.as_ref().is_none_or(|(key, _)| *key != packet.key) {
                let key = self.keys.get(packet.key).and_then(|(_, key)| key.ready());
                ready = key.map(|ready| (packet.key, ready));
            }
            let sealed = piece.get_mut(letter.place.start + DATA_HEADER_BYTES..letter.place.end);
            if let (Some((_, key)), Some(sealed)) = (&ready, sealed) {
                packet.text_bytes = key.open(packet.counter, sealed);
            }
        }
        // Keys stay no longer than they are needed.
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::message::{TAG_BYTES, data_header};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    proptest! {
        /// Whoever's they are and whatever is between them: what is authentic is opened, and the
        /// rest is not.
        #[test]
        fn what_is_authentic_is_opened(packets in proptest::collection::vec((0u8..3, 0usize..200, 0u8..6), 0..40)) {
            let keys = [1, 2].map(|n| PacketKey::new(Zeroizing::new([n; 32])));
            let mut piece = Vec::new();
            let mut letters = Letters::default();
            let mut want = Vec::new();
            for (counter, (whose, bytes, how)) in (0u64..).zip(packets) {
                let key = keys.get(usize::from(whose));
                let mut text = vec![whose; bytes];
                let ready = key.unwrap_or(&keys[0]).ready().unwrap();
                let tag = ready.seal(counter, &mut text).unwrap();
                let start = piece.len();
                piece.extend(data_header(whose.into(), counter));
                piece.extend(text);
                piece.extend(tag);
                let place = start..piece.len();
                prop_assert_eq!(place.len(), DATA_HEADER_BYTES + bytes + TAG_BYTES);
                match how {
                    0 => letters.push_other(place),
                    1 => {
                        piece[start + DATA_HEADER_BYTES] ^= 1;
                        letters.push(place, (whose.into(), counter), || key.cloned());
                    }
                    _ => letters.push(place, (whose.into(), counter), || key.cloned()),
                }
                want.push((how > 1 && key.is_some()).then_some((whose, bytes)));
            }
            letters.open(&mut piece);
            prop_assert!(letters.keys.is_empty());
            let got: Vec<_> = letters.list.iter().map(|letter| {
                let packet = letter.packet?;
                let bytes = packet.text_bytes?;
                let start = letter.place.start + DATA_HEADER_BYTES;
                let whose = u8::try_from(packet.receiver).unwrap();
                assert!(piece[start..start + bytes].iter().all(|byte| *byte == whose));
                Some((whose, bytes))
            }).collect();
            prop_assert_eq!(got, want);
        }
    }
}
