//! To where datagrams go one by one because the kernel took no run of them, and when a run is tried
//! again: a second later, as when a link's MTU was small for a moment, and after ever longer times where
//! it goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// From the first refusal to the next try.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two tries at most.
const LONGEST: Duration = Duration::from_secs(600);
/// More places than that are not remembered.
const MOST: usize = 4096;

/// Places that were refused a run.
#[derive(Debug, Default)]
pub(super) struct Unsplit(BTreeMap<SocketAddr, Refused>);

#[derive(Debug)]
struct Refused {
    /// The bytes of each datagram of the run: shorter ones say nothing of it.
    segment: usize,
    wait: Duration,
    again_at: Instant,
}

impl Unsplit {
    /// Whether runs need not be tried there now.
    pub(super) fn has(&self, to: &SocketAddr, now: Instant) -> bool {
        self.0.get(to).is_some_and(|refused| now < refused.again_at)
    }

    /// A run of datagrams of `segment` bytes was not taken. What was on its way with it counts once.
    pub(super) fn refused(&mut self, to: SocketAddr, segment: usize, now: Instant) {
        let wait = match self.0.get(&to) {
            Some(before) if now < before.again_at => return,
            Some(before) => (before.wait * 2).min(LONGEST),
            None => SHORTEST,
        };
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(to, Refused { segment, wait, again_at: now + wait });
    }

    /// A run of datagrams of `segment` bytes was taken.
    pub(super) fn passed(&mut self, to: &SocketAddr, segment: usize) {
        if self.0.get(to).is_some_and(|refused| segment >= refused.segment) {
            self.0.remove(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn place(n: u16) -> SocketAddr {
        ([192, 0, 2, 1], n).into()
    }

    #[test]
    fn tries_are_ever_further_apart_until_one_passes() {
        let mut unsplit = Unsplit::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
                assert!(!unsplit.has(&place(1), now));
                unsplit.refused(place(1), 1452, now);
                let almost = now + SECOND * wait - Duration::from_millis(1);
                // The others of the same turn.
                unsplit.refused(place(1), 1452, almost);
                assert!(unsplit.has(&place(1), almost), "{wait}");
                assert!(!unsplit.has(&place(2), almost), "another place");
                now += SECOND * wait;
            }
            // Shorter ones would have passed all the time.
            unsplit.passed(&place(1), 100);
            unsplit.refused(place(1), 1452, now);
            assert!(unsplit.has(&place(1), now + SECOND * 599));
            unsplit.passed(&place(1), 1452);
            assert!(!unsplit.has(&place(1), now));
        }
    }

    #[test]
    fn not_more_places_are_remembered_than_there_is_room_for() {
        let mut unsplit = Unsplit::default();
        let now = Instant::now();
        for n in 0..2 * u16::try_from(MOST).unwrap() + 1 {
            unsplit.refused(place(n), 1452, now);
            assert!(unsplit.has(&place(n), now));
            assert!(unsplit.0.len() <= MOST);
        }
    }
}
