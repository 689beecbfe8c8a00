//! Bytes with keys in them.

use super::limits::{Budget, NoneLeft, PIECE_BYTES, Share};
use crate::wireguard::memory::{self, Chunk, Pages};
use std::ops::Deref;
use zeroize::Zeroize;

/// Bytes that grow without leaving copies behind, and are wiped in the end. They are not the
/// allocator's, which would keep what was freed of a large request.
pub(super) struct Secret {
    memory: Chunk,
    used: usize,
    share: Share,
}

impl Secret {
    /// Of nothing yet, that grows by what `budget` has.
    pub(super) fn new(budget: &Budget) -> Self {
        Secret { memory: Chunk::default(), used: 0, share: budget.share() }
    }

    /// Adds `more` at the end.
    ///
    /// # Errors
    /// The budget or the machine has not so much left; then nothing is added.
    pub(super) fn push(&mut self, more: &[u8]) -> Result<(), NoneLeft> {
        let used = self.used + more.len();
        if used > self.memory.len() {
            let room = used.next_power_of_two().max(PIECE_BYTES);
            self.share.grow(room)?;
            let (chunks, _) = memory::take(&[room], Pages::Usual).map_err(|_| NoneLeft)?;
            let mut larger = chunks.into_iter().next().ok_or(NoneLeft)?;
            larger.get_mut(..self.used).ok_or(NoneLeft)?.copy_from_slice(self);
            self.wipe();
            self.memory = larger;
        }
        self.memory.get_mut(self.used..used).ok_or(NoneLeft)?.copy_from_slice(more);
        self.used = used;
        Ok(())
    }

    /// Takes the first `bytes` away, which are at most as many as there are.
    ///
    /// # Errors
    /// The budget has nothing left for those behind them; then nothing is taken.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Secret, NoneLeft> {
        let mut rest = self.another();
        rest.push(self.get(bytes..).unwrap_or_default())?;
        let mut taken = std::mem::replace(self, rest);
        taken.memory.get_mut(bytes..taken.used).unwrap_or_default().zeroize();
        taken.used = bytes.min(taken.used);
        Ok(taken)
    }

    /// Lets go of all.
    pub(super) fn clear(&mut self) {
        *self = self.another();
    }

    fn another(&self) -> Secret {
        Secret { memory: Chunk::default(), used: 0, share: self.share.another() }
    }

    fn wipe(&mut self) {
        self.memory.get_mut(..self.used).unwrap_or_default().zeroize();
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(..self.used).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_pushed_is_taken(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20), at in 0usize..100) {
            let all = pieces.concat();
            let mut secret = Secret::new(&Budget::new(0));
            for piece in &pieces {
                secret.push(piece).unwrap();
            }
            prop_assert_eq!(&*secret, &all[..]);
            let at = at.min(all.len());
            prop_assert_eq!(&*secret.take(at).unwrap(), &all[..at]);
            prop_assert_eq!(&*secret, &all[at..]);
        }
    }

    #[test]
    fn what_the_budget_has_not_is_not_added_and_what_is_dropped_is_given_back() {
        const ROOM: usize = 4 * PIECE_BYTES;
        let budget = Budget::new(ROOM);
        let piece = [7; PIECE_BYTES];
        let mut secret = Secret::new(&budget);
        for n in 0..4 {
            assert_eq!(secret.len(), n * PIECE_BYTES);
            secret.push(&piece).unwrap();
        }
        assert_eq!(secret.push(&piece), Err(NoneLeft));
        assert_eq!(*secret, [7; ROOM]);
        let taken = secret.take(ROOM - 10).unwrap();
        assert_eq!((taken.len(), secret.len()), (ROOM - 10, 10));
        assert_eq!(secret.push(&piece), Err(NoneLeft), "what was taken is there still");
        drop(taken);
        for _ in 0..3 {
            secret.push(&piece).unwrap();
        }
        secret.clear();
        assert!(secret.is_empty());
        let mut other = Secret::new(&budget);
        other.push(&[8; ROOM]).unwrap();
    }
}
