//! What the connections of a device may take together: wg(8) makes one for each command, and nobody shall
//! take all of the machine's memory or descriptors by making more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// What is read at a time.
pub(super) const PIECE_BYTES: usize = 16 * 1024;
/// What may be kept of requests that are not answered yet.
pub(super) const ALL_BYTES: usize = 32 << 20;

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A request longer than this is not from wg(8): 10,000 peers with a preshared key, an endpoint and
    /// thirty prefixes of IPv6 each fit. With the piece that is too much it is [`ALL_BYTES`].
    pub(super) longest: usize,
    /// Connections at a time.
    pub(super) connections: usize,
    /// From the first byte of a request to its end, and for whoever is not listened to any more.
    pub(super) request: Duration,
    /// Between two requests, and until somebody takes what he has asked for.
    pub(super) silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            longest: ALL_BYTES - PIECE_BYTES,
            connections: 64,
            request: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// Bytes that all connections share.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Budget(Arc::new(AtomicUsize::new(bytes)))
    }

    /// A share of nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// What one connection has of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    bytes: usize,
}

/// Others have what is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoneLeft;

impl Share {
    /// Has `bytes` from now on, where that is more than it had. What fits into a piece is not counted:
    /// `wg show` is answered whatever others have sent.
    ///
    /// # Errors
    /// So much is not left; then it has what it had.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), NoneLeft> {
        if bytes <= PIECE_BYTES.max(self.bytes) {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let take = |left: usize| left.checked_sub(more);
        self.budget.0.fetch_update(Relaxed, Relaxed, take).map_err(|_| NoneLeft)?;
        self.bytes = bytes;
        Ok(())
    }

    /// One of the same budget, of nothing yet.
    pub(super) fn another(&self) -> Share {
        self.budget.share()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_left_is_had_once_and_comes_back() {
        let budget = Budget::new(10 * PIECE_BYTES);
        let (mut one, mut two) = (budget.share(), budget.share());
        one.grow(6 * PIECE_BYTES).unwrap();
        assert_eq!(two.grow(6 * PIECE_BYTES), Err(NoneLeft));
        two.grow(4 * PIECE_BYTES).unwrap();
        two.grow(3 * PIECE_BYTES).unwrap();
        assert_eq!(one.grow(6 * PIECE_BYTES + 1), Err(NoneLeft));
        one.another().grow(PIECE_BYTES).unwrap();
        assert_eq!(one.another().grow(PIECE_BYTES + 1), Err(NoneLeft));
        drop(one);
        two.grow(10 * PIECE_BYTES).unwrap();
    }

    proptest! {
        /// Never more than there is, and in the end all of it.
        #[test]
        fn nobody_has_more_than_there_is(steps in proptest::collection::vec((0usize..4, 0usize..12), 0..40)) {
            let budget = Budget::new(10 * PIECE_BYTES);
            let mut shares = [0; 4].map(|_| budget.share());
            for (who, pieces) in steps {
                if pieces == 0 {
                    shares[who] = budget.share();
                } else {
                    let had = shares[who].bytes;
                    let others: usize = shares.iter().map(|share| share.bytes).sum::<usize>() - had;
                    let fits = pieces == 1 || pieces * PIECE_BYTES <= had
                        || others + pieces * PIECE_BYTES <= 10 * PIECE_BYTES;
                    prop_assert_eq!(shares[who].grow(pieces * PIECE_BYTES).is_ok(), fits);
                }
            }
            drop(shares);
            prop_assert_eq!(budget.0.load(Relaxed), 10 * PIECE_BYTES);
        }
    }
}
