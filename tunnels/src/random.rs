//! A small generator for jitter: reproducible from a seed, not for secrets.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and two multiplications a number.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `whole` times something between `from` and `to` thousandths, both included.
    pub(crate) fn part_of(&mut self, whole: Duration, from: u32, to: u32) -> Duration {
        let span = u64::from(to.saturating_sub(from)) + 1;
        let thousandths = u64::from(from) + self.next() % span;
        let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos((nanos / 1000).saturating_mul(thousandths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_between_their_bounds_and_reach_both_halves() {
        let mut random = Random::new(7);
        let parts: Vec<_> =
            (0..1000).map(|_| random.part_of(Duration::from_millis(100), 750, 1000)).collect();
        assert!(parts.iter().all(|p| (75..=100).contains(&p.as_millis())));
        assert!(
            parts.iter().any(|p| p.as_millis() < 80) && parts.iter().any(|p| p.as_millis() > 95)
        );
    }
}
