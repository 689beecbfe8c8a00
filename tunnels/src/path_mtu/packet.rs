//! What goes there and back: a question that is padded to the size in question, and the same as an
//! answer.
//!
//! ```text
//!  0      4      5        8         16
//!  ┌──────┬──────┬────────┬─────────┬──────────────┐
//!  │ HFPM │ kind │ zero   │ nonce   │ zeros ...    │   kind: 1 question, 2 answer
//!  └──────┴──────┴────────┴─────────┴──────────────┘
//! ```
//!
//! From overlay address to overlay address over UDP port 3785, that of BFD's echo (RFC 5881 §4),
//! whose content is nobody else's business. The tunnel has authenticated it, and the answer is no
//! larger than the question.

/// The UDP port of questions and answers.
pub(crate) const PORT: u16 = 3785;
/// No packet is larger.
pub(crate) const LONGEST: usize = 2048;
/// Of what is not padding.
const LEAST_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"HFPM";
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To be answered.
    Question,
    /// To a question of ours.
    Answer,
}

/// The payload of `bytes` bytes; none when there is no such payload.
pub(crate) fn payload(kind: Kind, nonce: u64, bytes: usize) -> Option<Vec<u8>> {
    if !(LEAST_BYTES..=LONGEST).contains(&bytes) {
        return None;
    }
    let mut payload = vec![0; bytes];
    payload[..4].copy_from_slice(&MAGIC);
    payload[4] = match kind {
        Kind::Question => QUESTION,
        Kind::Answer => ANSWER,
    };
    payload[8..LEAST_BYTES].copy_from_slice(&nonce.to_be_bytes());
    Some(payload)
}

/// Reads a payload: its kind, and its nonce.
pub(crate) fn parse(payload: &[u8]) -> Option<(Kind, u64)> {
    let (head, _) = payload.split_first_chunk::<LEAST_BYTES>()?;
    let [m0, m1, m2, m3, kind, _, _, _, nonce @ ..] = *head;
    let kind = match kind {
        QUESTION => Kind::Question,
        ANSWER => Kind::Answer,
        _ => return None,
    };
    let is_ours = [m0, m1, m2, m3] == MAGIC && payload.len() <= LONGEST;
    is_ours.then_some((kind, u64::from_be_bytes(nonce)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(question: bool, nonce: u64, bytes in 0usize..3000) {
            let kind = if question { Kind::Question } else { Kind::Answer };
            match payload(kind, nonce, bytes) {
                Some(payload) => {
                    prop_assert_eq!(payload.len(), bytes);
                    prop_assert_eq!(parse(&payload), Some((kind, nonce)));
                }
                None => prop_assert!(!(16..=2048).contains(&bytes)),
            }
        }

        #[test]
        fn anything_is_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..2100), ours: bool) {
            if ours && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            if parse(&bytes).is_some() {
                prop_assert!((16..=2048).contains(&bytes.len()));
            }
        }
    }
}
