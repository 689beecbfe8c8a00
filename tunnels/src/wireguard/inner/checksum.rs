//! The Internet checksum (RFC 1071), and its change when a header changes (RFC 1624).

/// A sum under way: of words of two bytes in the machine's order, with the carries still in it.
/// RFC 1071 §2(B): the order of bytes does not matter before the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes. What is added in pieces must begin at an even place each.
    #[must_use]
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        // Four sums at a time, each of words of four bytes in eight: no carry is lost in less
        // than 2^32 words, and the compiler makes vectors of it.
        let mut lanes = [0u64; 8];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut sum = lanes.into_iter().fold(self.0, carried);
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum = carried(sum, u32::from_ne_bytes(*word).into());
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Sum(carried(sum, u32::from_ne_bytes(last).into()))
    }

    /// Adds one word.
    #[must_use]
    pub(crate) fn add_word(self, word: u16) -> Self {
        Sum(carried(self.0, word.to_be().into()))
    }

    /// The sum of two bytes, not complemented.
    pub(crate) fn value(self) -> u16 {
        u16::from_be(self.folded())
    }

    /// What is written into a header.
    pub(crate) fn checksum(self) -> u16 {
        !self.value()
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while let high @ 1.. = sum >> 16 {
            sum = (sum & 0xffff) + high;
        }
        u16::try_from(sum).unwrap_or_default()
    }
}

/// The sum with the carry out of its highest bit added at its lowest.
fn carried(sum: u64, more: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(more);
    sum + u64::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 §4.1 has it, a word at a time.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_rfc(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().add(&bytes).value(), plain(&bytes));
        }

        #[test]
        fn pieces_may_be_added(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index) {
            let at = at.index(bytes.len() + 1) & !1;
            let (front, back) = bytes.split_at(at);
            let whole = Sum::default().add(front).add(back);
            prop_assert_eq!(whole.value(), plain(&bytes));
        }

        #[test]
        fn all_ones_lose_no_carry(length in 0usize..70_000, word: u16) {
            let sum = Sum::default().add(&vec![0xff; length]).add_word(word);
            let mut bytes = vec![0xff; length & !1];
            bytes.extend(word.to_be_bytes());
            if length % 2 == 1 {
                bytes.extend([0xff, 0]);
            }
            prop_assert_eq!(sum.value(), plain(&bytes));
        }
    }
}
