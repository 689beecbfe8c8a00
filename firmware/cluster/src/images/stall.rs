//! How long a pull may stand still. Pure but for what it remembers.
//!
//! Nothing tells a layer that is being unpacked from a registry that was cut off, and a pull that is
//! ended unpacks from the beginning. So there is much more time once every byte is here, and after each
//! stall in which nothing came twice the time, until it is enough for the slowest disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much longer a pull may stand still that has all its bytes.
const UNPACKS: u32 = 6;
/// How often the time is doubled: up to forty minutes, and four hours with all bytes here.
const DOUBLINGS: u32 = 3;

/// Stalls of images by their names; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Stalls {
    first: Duration,
    of: Arc<Mutex<BTreeMap<String, Stall>>>,
}

#[derive(Debug, Default)]
struct Stall {
    /// In a row, without anything new between them.
    times: u32,
    done_bytes: u64,
}

impl Stalls {
    /// None so far; the first patience is this.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, of: Arc::default() }
    }

    /// How long this image may stand still with so many bytes here and so many in all.
    pub(super) fn patience(&self, image: &str, (done, total): (u64, u64)) -> Duration {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let times = of.get(image).map_or(0, |stall| stall.times).min(DOUBLINGS);
        let unpacks = if total > 0 && done >= total { UNPACKS } else { 1 };
        self.first.saturating_mul(unpacks << times)
    }

    /// It stood still for too long.
    pub(super) fn note(&self, image: &str, (done_bytes, _): (u64, u64)) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let stall = of.entry(image.to_owned()).or_default();
        let is_further = done_bytes > stall.done_bytes;
        let times = if is_further { 1 } else { stall.times.saturating_add(1) };
        *stall = Stall { times, done_bytes };
    }

    /// It is over with this image.
    pub(super) fn forget(&self, image: &str) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(300);

    /// Whatever an unpacking takes up to four hours, some attempt has the time for it.
    #[test]
    fn what_is_unpacked_gets_its_time() {
        for takes in [1, 10, 40, 100, 240].map(|minutes| Duration::from_secs(60 * minutes)) {
            let stalls = Stalls::new(FIRST);
            let is_enough = (0..4).any(|_| {
                let is_enough = stalls.patience("a", (9, 9)) >= takes;
                stalls.note("a", (9, 9));
                is_enough
            });
            assert!(is_enough, "{takes:?}");
        }
    }

    #[test]
    fn a_registry_that_is_cut_off_now_and_then_is_not_waited_for_any_longer() {
        let stalls = Stalls::new(FIRST);
        for done in 1..9 {
            stalls.note("a", (done, 9));
            assert_eq!(stalls.patience("a", (done, 9)), 2 * FIRST);
        }
        stalls.note("a", (8, 9));
        assert_eq!(stalls.patience("a", (8, 9)), 4 * FIRST);
        assert_eq!(stalls.patience("b", (0, 0)), FIRST, "nothing is known of it yet");
        stalls.forget("a");
        assert_eq!(stalls.patience("a", (8, 9)), FIRST);
    }
}
