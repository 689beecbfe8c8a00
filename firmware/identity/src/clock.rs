//! The time by which certificates are checked: the machine's clock, or the last confirmed time when
//! the clock is obviously wrong ([`effective_now`]).

use crate::{KnownTime, effective_now};
use holdfast_api::paths::Root;
use holdfast_client::TimeSource;
use jiff::Timestamp;
use std::time::SystemTime;

/// The clock, checked against what is known.
#[derive(Debug)]
pub struct CheckedClock(KnownTime);

impl CheckedClock {
    /// With what is kept below `root`.
    pub fn new(root: &Root) -> Self {
        CheckedClock(KnownTime::new(&root.identity_dir()))
    }

    /// A peer whose certificate was checked confirms that the clock is right. A confirmation that
    /// cannot be kept is logged: the next one is as good.
    pub fn confirmed(&self) {
        if self.is_believed()
            && let Err(error) = self.0.record(Timestamp::now())
        {
            tracing::warn!(error = holdfast_api::chain(&error), "the known time is not kept");
        }
    }
}

impl TimeSource for CheckedClock {
    fn now(&self) -> SystemTime {
        effective_now(Timestamp::now(), self.0.load()).now.into()
    }

    fn is_believed(&self) -> bool {
        !effective_now(Timestamp::now(), self.0.load()).clock_implausible
    }
}
