//! The time by which certificates are checked.
//!
//! A box whose clock battery is empty wakes up in 1970. Programs that keep a time which is known to
//! have passed give their own [`TimeSource`], so that a dead battery does not lock a site out.

use std::fmt::Debug;
use std::time::SystemTime;

/// Says what time it is.
pub trait TimeSource: Debug + Send + Sync {
    /// The time to check certificates by.
    fn now(&self) -> SystemTime;

    /// Whether that time is believed. A box with an empty clock battery that was never admitted
    /// knows no good time at all; towards a pinned CA the beginning of the server certificate's
    /// validity then counts as the present, or such a box could never register.
    fn is_believed(&self) -> bool {
        true
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl TimeSource for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
