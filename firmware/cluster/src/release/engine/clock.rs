//! The time that the machine is told; tests put it forward.

use crate::release::machine::Moment;
use jiff::Timestamp;
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    #[cfg(test)]
    pub(super) ahead: Duration,
}

impl Clock {
    pub(super) fn now(self) -> Instant {
        #[cfg(test)]
        return Instant::now() + self.ahead;
        #[cfg(not(test))]
        Instant::now()
    }

    /// Now, with jitter for pauses.
    pub(super) fn moment(self) -> Moment {
        let mut random = [0u8; 2];
        // Without a source of randomness there is no jitter, which is no reason to stop.
        let _no_source = getrandom::fill(&mut random);
        let jitter = u16::from_be_bytes(random) % 1001;
        Moment { now: self.now(), wall: Timestamp::now(), jitter }
    }
}
