//! What our static key gives with those of the peers: every handshake needs it, and it is always the
//! same (`precomputed_static_static` in drivers/net/wireguard/noise.h).
//!
//! It is made at the first handshake with a peer, and kept until the peer goes. What strangers'
//! keys give is not kept: they have as many as they like.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// A result. It stays where it is, so that it can be wiped there.
type Secret = Box<Zeroizing<[u8; 32]>>;

/// The results by the peers' keys, none before the first handshake. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<BTreeMap<[u8; 32], Option<Secret>>>>);

impl Kept {
    /// From now on the result with this key is kept.
    pub(super) fn know(&self, public: [u8; 32]) {
        self.lock().entry(public).or_default();
    }

    /// It is wiped.
    pub(super) fn forget(&self, public: &[u8; 32]) {
        self.lock().remove(public);
    }

    /// The result with this key, made by `make` where it is not kept.
    pub(super) fn get(
        &self,
        public: &[u8; 32],
        make: impl FnOnce() -> Option<Zeroizing<[u8; 32]>>,
    ) -> Option<Zeroizing<[u8; 32]>> {
        let mut kept = self.lock();
        match kept.get_mut(public) {
            Some(Some(result)) => Some((**result).clone()),
            Some(place) => {
                let result = make()?;
                *place = Some(Box::new(result.clone()));
                Some(result)
            }
            None => {
                drop(kept);
                make()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Option<Secret>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_peers_keys_give_is_kept_and_only_until_they_go() {
        let kept = Kept::default();
        let mut made = 0;
        let mut get = |public: u8| {
            let make = || {
                made += 1;
                (public != 9).then(|| Zeroizing::new([public; 32]))
            };
            (kept.get(&[public; 32], make).map(|result| *result), made)
        };
        kept.know([1; 32]);
        kept.know([9; 32]);
        assert_eq!([get(1), get(1)], [(Some([1; 32]), 1); 2]);
        assert_eq!([get(2), get(2)], [(Some([2; 32]), 2), (Some([2; 32]), 3)], "a stranger");
        assert_eq!([get(9), get(9)], [(None, 4), (None, 5)], "there is no result");
        kept.know([1; 32]);
        assert_eq!(get(1).1, 5, "who is known twice is known");
        kept.forget(&[1; 32]);
        assert_eq!(get(1).1, 6);
        assert_eq!(kept.lock().len(), 1);
    }
}
