//! Which of a session's packets were seen already (RFC 6479: a bitmap that never shifts).
//!
//! A packet is taken once, and only while it is not older than the window. The window is as
//! wide as the kernel's (`COUNTER_WINDOW_SIZE` in drivers/net/wireguard/messages.h), since paths
//! and receive queues may reorder as much here as there.

const WORD_BITS: u64 = 64;
const WORDS: usize = 128;
/// How many numbers behind the greatest one are still taken. One word of the bitmap is always
/// being emptied.
pub(crate) const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// The memory of one session.
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    /// One more than the greatest number taken; 0 at first.
    next: u64,
    bitmap: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: 0, bitmap: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Takes `counter`, once. The packet must be authentic: a forged number would shut the
    /// window for honest ones. [`u64::MAX`] is never taken; no session counts so far.
    pub(crate) fn take(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || counter.saturating_add(WINDOW) < self.next {
            return false;
        }
        let word = counter / WORD_BITS;
        if counter >= self.next {
            let last = self.next.checked_sub(1).map_or(0, |greatest| greatest / WORD_BITS);
            for index in (last + 1..=word).rev().take(WORDS) {
                self.bitmap[slot(index)] = 0;
            }
            self.next = counter + 1;
        }
        let bit = 1 << (counter % WORD_BITS);
        let fresh = self.bitmap[slot(word)] & bit == 0;
        self.bitmap[slot(word)] |= bit;
        fresh
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is less than WORDS")]
fn slot(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Steps forward and back, near and far, so that words are reused.
    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            8 => -70i64..70,
            2 => -10_000i64..10_000,
            1 => Just(0),
            1 => 0i64..1 << 40,
        ];
        (0u64..10_000, proptest::collection::vec(step, 0..400)).prop_map(|(start, steps)| {
            let mut at = start;
            steps
                .into_iter()
                .map(|step| {
                    at = at.saturating_add_signed(step);
                    at
                })
                .collect()
        })
    }

    proptest! {
        /// The model remembers every number.
        #[test]
        fn each_number_is_taken_once_and_none_that_is_too_old(counters in counters()) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            for counter in counters {
                let oldest = seen.last().map_or(0, |greatest: &u64| (greatest + 1).saturating_sub(WINDOW));
                let want = counter >= oldest && !seen.contains(&counter);
                prop_assert_eq!(window.take(counter), want, "{}", counter);
                if want {
                    seen.insert(counter);
                }
            }
        }
    }

    #[test]
    fn the_window_ends_where_it_says() {
        let mut window = ReplayWindow::default();
        assert!(window.take(WINDOW));
        assert!(window.take(1) && !window.take(1), "as old as can be");
        assert!(!window.take(0), "one too old");
        assert!(window.take(u64::MAX - 1) && !window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX), "no session counts so far");
        assert!(window.take(u64::MAX - 1 - 100), "still in the window");
    }
}
