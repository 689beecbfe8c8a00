//! Which of a trial's datagrams arrived.

/// Bits of the number that count datagrams; those above tell the trial.
const COUNT_BITS: u32 = 32;
/// No trial is so long; a number beyond it is not ours.
const MOST: u64 = 1 << 28;

/// Counts what arrives of one trial by its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    trial: u32,
    seen: Vec<u64>,
    next: u64,
    whole: u64,
    /// Different ones that arrived.
    pub(crate) arrived: u64,
    /// Arrived again.
    pub(crate) doubled: u64,
    /// Arrived after one that was sent later (RFC 4737's type P-reordered).
    pub(crate) reordered: u64,
}

/// What is written into the datagram `count` of a trial.
pub(crate) fn number(trial: u32, count: u64) -> [u8; 8] {
    (u64::from(trial) << COUNT_BITS | count).to_be_bytes()
}

impl Tally {
    pub(crate) fn new(trial: u32) -> Self {
        Tally { trial, seen: Vec::new(), next: 0, whole: 0, arrived: 0, doubled: 0, reordered: 0 }
    }

    /// One arrived; those of an earlier trial, and what is no datagram of a trial, do not count.
    pub(crate) fn on(&mut self, datagram: &[u8]) {
        let Some(number) = datagram.first_chunk() else { return };
        let number = u64::from_be_bytes(*number);
        let count = number & ((1 << COUNT_BITS) - 1);
        let Ok(word) = usize::try_from(count / 64) else { return };
        if number >> COUNT_BITS != u64::from(self.trial) || count >= MOST {
            return;
        }
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let (seen, bit) = (&mut self.seen[word], 1 << (count % 64));
        if *seen & bit != 0 {
            self.doubled += 1;
            return;
        }
        *seen |= bit;
        self.arrived += 1;
        if count < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(count + 1);
        while self.has(self.whole) {
            self.whole += 1;
        }
    }

    /// The first that did not arrive, when one that was sent later did.
    pub(crate) fn missing(&self) -> Option<u64> {
        (self.whole < self.next).then_some(self.whole)
    }

    fn has(&self, count: u64) -> bool {
        let word = usize::try_from(count / 64).ok().and_then(|word| self.seen.get(word));
        word.is_some_and(|word| word & 1 << (count % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(numbers: &[u64]) -> Tally {
        let mut tally = Tally::new(7);
        for count in numbers {
            tally.on(&number(7, *count));
        }
        tally
    }

    proptest! {
        #[test]
        fn every_arrival_counts_once(numbers in proptest::collection::vec(0u64..300, 0..400)) {
            let tally = tally(&numbers);
            let different: std::collections::BTreeSet<_> = numbers.iter().collect();
            prop_assert_eq!(tally.arrived, different.len() as u64);
            prop_assert_eq!(tally.arrived + tally.doubled, numbers.len() as u64);
        }

        #[test]
        fn in_order_nothing_is_reordered(numbers in proptest::collection::btree_set(0u64..5000, 0..400)) {
            let tally = tally(&numbers.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!((tally.reordered, tally.doubled), (0, 0));
        }
    }

    #[test]
    fn what_is_missing_is_the_first_that_later_ones_overtook() {
        assert_eq!(tally(&[]).missing(), None);
        assert_eq!(tally(&[0, 1, 2]).missing(), None, "what comes last is not overtaken");
        assert_eq!(tally(&[0, 2, 5]).missing(), Some(1));
        assert_eq!(tally(&[0, 2, 5, 1]).missing(), Some(3));
        let late: Vec<u64> = (0..200).filter(|count| *count != 70).chain([70]).collect();
        assert_eq!(tally(&late[..199]).missing(), Some(70));
        assert_eq!(tally(&late).missing(), None);
    }

    #[test]
    fn one_that_was_overtaken_is_reordered() {
        assert_eq!(tally(&[0, 2, 1, 3]).reordered, 1);
        assert_eq!(tally(&[3, 2, 1]).reordered, 2);
    }

    #[test]
    fn what_is_not_of_this_trial_does_not_count() {
        let mut tally = Tally::new(2);
        tally.on(&number(1, 0));
        tally.on(&number(2, MOST));
        tally.on(&[0; 4]);
        assert_eq!(tally.arrived, 0);
        tally.on(&number(2, 0));
        assert_eq!(tally.arrived, 1);
    }
}
