//! Bytes with keys in them.

use std::ops::Deref;
use zeroize::Zeroizing;

/// Bytes that grow without leaving copies behind, and are wiped in the end.
#[derive(Default)]
pub(super) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Adds `more` at the end.
    pub(super) fn push(&mut self, more: &[u8]) {
        let bytes = self.0.len() + more.len();
        if bytes > self.0.capacity() {
            // By hand: a vector that is moved to grow leaves what was in it where it was.
            let mut larger = Zeroizing::new(Vec::with_capacity(bytes.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(more);
    }

    /// Takes the first `bytes` away, which are at most as many as there are.
    pub(super) fn take(&mut self, bytes: usize) -> Secret {
        let mut rest = Secret::default();
        rest.push(self.0.get(bytes..).unwrap_or_default());
        let mut taken = std::mem::replace(self, rest);
        taken.0.truncate(bytes);
        taken
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // Or what is in it would be wiped twice, as text and as room for text.
        self.0.clear();
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
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
            let mut secret = Secret::default();
            for piece in &pieces {
                secret.push(piece);
            }
            prop_assert_eq!(&*secret, &all[..]);
            let at = at.min(all.len());
            prop_assert_eq!(&*secret.take(at), &all[..at]);
            prop_assert_eq!(&*secret, &all[at..]);
        }
    }
}
