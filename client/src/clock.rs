//! The time by which certificates are checked.
//!
//! A box whose clock battery is empty wakes up in 1970. Certificates are therefore checked by the
//! later of the clock and a time that is known to have passed (the build, the last time the
//! controller was reached), so that a dead battery does not lock a site out.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The machine's clock, but never before a time that is known to have passed.
#[derive(Debug)]
pub struct KnownGoodClock {
    clock: Arc<dyn TimeSource>,
    floor_secs: AtomicU64,
}

impl KnownGoodClock {
    /// The machine's clock, never before `floor`.
    pub fn new(floor: SystemTime) -> Self {
        KnownGoodClock::over(Arc::new(SystemClock), floor)
    }

    /// `clock`, never before `floor`.
    pub fn over(clock: Arc<dyn TimeSource>, floor: SystemTime) -> Self {
        KnownGoodClock { clock, floor_secs: AtomicU64::new(secs(floor)) }
    }

    /// `time` is known to have passed (an authenticated peer said so). Never goes back.
    pub fn learn(&self, time: SystemTime) {
        self.floor_secs.fetch_max(secs(time), Ordering::Relaxed);
    }

    /// The latest time that is known to have passed: what to keep on disk.
    pub fn floor(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.floor_secs.load(Ordering::Relaxed))
    }

    /// Whether the clock is behind what is known, that is: wrong.
    pub fn is_behind(&self) -> bool {
        self.clock.now() < self.floor()
    }
}

impl TimeSource for KnownGoodClock {
    fn now(&self) -> SystemTime {
        self.clock.now().max(self.floor())
    }
}

fn secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(u64);
    impl TimeSource for Fixed {
        fn now(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(self.0)
        }
    }

    #[test]
    fn time_is_the_later_of_clock_and_floor_and_the_floor_only_rises() {
        let clock = KnownGoodClock::over(Arc::new(Fixed(100)), Fixed(50).now());
        assert_eq!(clock.now(), Fixed(100).now());
        assert!(!clock.is_behind());
        clock.learn(Fixed(200).now());
        clock.learn(Fixed(150).now());
        assert_eq!(clock.now(), Fixed(200).now());
        assert!(clock.is_behind());
        assert_eq!(clock.floor(), Fixed(200).now());
    }
}
