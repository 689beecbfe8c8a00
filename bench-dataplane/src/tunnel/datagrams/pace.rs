//! When how many datagrams are due.

use std::time::Duration;

/// Datagrams leave in steps of this time, as far as the rate gives whole ones.
const STEP: Duration = Duration::from_micros(500);
/// The most in one system call.
pub(crate) const BATCH: usize = 64;
/// A sender that was held up makes up for no more than this, or it would itself be the burst that
/// is lost: it is half of what a TUN device queues (`TUN_READQ_SIZE`, drivers/net/tun.c).
const MOST_OWED: u64 = 256;

/// The plan of one trial.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    per_second: f64,
    sent: u64,
    forgiven: u64,
}

impl Pace {
    pub(crate) fn new(per_second: u64) -> Self {
        Pace { per_second: per_second as f64, sent: 0, forgiven: 0 }
    }

    /// How many are to leave now, in one call.
    pub(crate) fn due(&mut self, at: Duration) -> usize {
        // A trial's numbers are small and positive.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let planned = (self.per_second * at.as_secs_f64()) as u64;
        let owed = planned.saturating_sub(self.sent + self.forgiven);
        self.forgiven += owed.saturating_sub(MOST_OWED);
        usize::try_from(owed.min(MOST_OWED)).unwrap_or(BATCH).min(BATCH)
    }

    /// So many left.
    pub(crate) fn on_sent(&mut self, datagrams: usize) {
        self.sent += datagrams as u64;
    }

    /// Datagrams that left.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// When the next step is due.
    pub(crate) fn next(&self) -> Duration {
        let step = (self.per_second * STEP.as_secs_f64()).floor().clamp(1.0, BATCH as f64);
        let planned = (self.sent + self.forgiven) as f64 + step;
        // Rounded up: at that moment they are due.
        Duration::from_secs_f64(planned / self.per_second) + Duration::from_nanos(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sender_that_is_on_time_sends_what_was_asked(rate in 100u64..2_000_000) {
            let mut pace = Pace::new(rate);
            let mut now = Duration::ZERO;
            while now < Duration::from_millis(200) {
                let due = pace.due(now);
                pace.on_sent(due);
                prop_assert!(due > 0 || pace.next() > now, "it would not end");
                now = if due == 0 { pace.next() } else { now + Duration::from_nanos(100) };
            }
            let wanted = rate as f64 * 0.2;
            prop_assert!((pace.sent() as f64 - wanted).abs() <= BATCH as f64 + wanted * 0.01,
                "{} of {wanted}", pace.sent());
        }

        #[test]
        fn one_that_was_held_up_makes_up_for_little(
            rate in 1000u64..2_000_000, held_up_ms in 1u64..500,
        ) {
            let mut pace = Pace::new(rate);
            let now = Duration::from_millis(held_up_ms);
            loop {
                let due = pace.due(now);
                prop_assert!(due <= BATCH);
                if due == 0 { break }
                pace.on_sent(due);
            }
            prop_assert!(pace.sent() <= MOST_OWED);
            prop_assert!(pace.next() > now.saturating_sub(Duration::from_micros(1)));
        }
    }
}
