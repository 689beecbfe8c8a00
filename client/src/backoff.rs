//! When to try again: exponential, with full jitter, forever.
//!
//! Pure: the clock and the randomness are arguments. After *n* failures the wait is drawn evenly
//! from `floor ..= min(ceiling, floor · 2^n)`, so that a fleet that lost its controller at one
//! moment does not come back at one moment.

use std::time::{Duration, Instant};

/// How often something failed in a row, and the bounds of the wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    floor: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// 1 s to 60 s: soon enough for a person who waits, rare enough for a controller that starts
    /// with its whole fleet waiting.
    fn default() -> Self {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
    }
}

impl Backoff {
    /// Waits between `floor` (at least 1 ms) and `ceiling` (at least `floor`).
    pub fn new(floor: Duration, ceiling: Duration) -> Self {
        let floor = floor.max(Duration::from_millis(1));
        Backoff { floor, ceiling: ceiling.max(floor), failures: 0 }
    }

    /// Counts a failure; how long to wait before the next try. `seed` is any random number.
    pub fn failed(&mut self, seed: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let factor = 1u32.checked_shl(self.failures).filter(|f| *f > 1).unwrap_or(u32::MAX);
        let top = self.floor.saturating_mul(factor).min(self.ceiling);
        let span = u64::try_from((top - self.floor).as_millis()).unwrap_or(u64::MAX);
        self.floor + Duration::from_millis(mix(seed) % span.saturating_add(1))
    }

    /// As [`Backoff::failed`], as a moment.
    pub fn failed_at(&mut self, now: Instant, seed: u64) -> Instant {
        now + self.failed(seed)
    }

    /// It worked: the next failure waits as the first did.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random number for [`Backoff::failed`].
pub fn seed() -> u64 {
    // A kernel that gives no randomness gives little else; the spread is then lost, nothing more.
    getrandom::u64().unwrap_or_default()
}

/// Spreads seeds that differ little (splitmix64's finaliser).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The laws: never below the floor, never above the ceiling, never above the doubled bound.
        #[test]
        fn waits_stay_in_bounds(
            floor in 1u64..5_000, more in 0u64..600_000, seeds in proptest::collection::vec(any::<u64>(), 1..80)
        ) {
            let (floor, ceiling) = (Duration::from_millis(floor), Duration::from_millis(floor + more));
            let mut backoff = Backoff::new(floor, ceiling);
            for (n, seed) in seeds.into_iter().enumerate() {
                let wait = backoff.failed(seed);
                prop_assert!(wait >= floor && wait <= ceiling);
                if n < 16 {
                    prop_assert!(wait <= floor * 2u32.pow(u32::try_from(n).unwrap() + 1));
                }
            }
        }
    }

    #[test]
    fn success_begins_anew_and_seeds_spread() {
        let mut backoff = Backoff::default();
        for seed in 0..40 {
            backoff.failed(seed);
        }
        let waits: Vec<_> = (0..200).map(|seed| backoff.clone().failed(seed).as_secs()).collect();
        assert!(waits.iter().any(|w| *w < 10) && waits.iter().any(|w| *w > 50), "{waits:?}");
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.failed(7) <= Duration::from_secs(2));
    }
}
