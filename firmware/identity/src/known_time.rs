//! A time to judge certificates by when the clock cannot be trusted.
//!
//! Boxes have clocks whose battery died: after power-on they stand in 1970, or in the year of the
//! firmware, until NTP is reached. The last time that somebody trustworthy confirmed (the
//! controller, over TLS that was checked) is kept on disk, and used whenever the clock is obviously
//! wrong. [`effective_now`] decides and is pure; [`KnownTime`] keeps the file.
//!
//! Only confirmed times may be recorded. A node that recorded its own clock would, after one jump
//! to 2099, believe every certificate expired for good.

use crate::IdentityError;
use holdfast_api::Reason;
use holdfast_durable::{Loaded, Slots};
use jiff::{SignedDuration, Timestamp};
use std::path::Path;

const FILE: &str = "known-time.json";
/// No firmware of this kind ran before: 2025-01-01T00:00:00Z.
const EARLIEST: i64 = 1_735_689_600;
/// A clock may be behind the confirmed time by this much before it counts as wrong: NTP steps and
/// the controller's own drift are smaller.
const BEHIND: SignedDuration = SignedDuration::from_mins(10);
/// A clock further ahead of the confirmed time than a box can lie in a store room is wrong.
const AHEAD: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// A confirmed time is written again only when it moved by this much, to spare the flash.
const WRITE_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// The time to judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveTime {
    /// The time.
    pub now: Timestamp,
    /// The clock was not believed.
    pub clock_implausible: bool,
}

impl EffectiveTime {
    /// The reason to report, if there is one.
    pub fn reason(&self) -> Option<Reason> {
        self.clock_implausible.then_some(Reason::ClockImplausible)
    }
}

/// The time to judge certificates by, from the clock and the last confirmed time.
///
/// A plausible clock is used as it is. Else the last confirmed time is; without one, 2025-01-01.
pub fn effective_now(clock: Timestamp, last_good: Option<Timestamp>) -> EffectiveTime {
    let earliest = Timestamp::constant(EARLIEST, 0);
    let floor = last_good.unwrap_or(earliest).max(earliest);
    let too_early = clock < earliest || clock.duration_until(floor) > BEHIND;
    let too_late = floor.duration_until(clock) > AHEAD;
    match too_early || too_late {
        true => EffectiveTime { now: floor, clock_implausible: true },
        false => EffectiveTime { now: clock, clock_implausible: false },
    }
}

/// The last confirmed time, on disk.
#[derive(Debug, Clone)]
pub struct KnownTime {
    slots: Slots,
}

impl KnownTime {
    /// The store in the identity directory `dir`.
    pub fn new(dir: &Path) -> Self {
        KnownTime { slots: Slots::new(dir.join(FILE), 0o600) }
    }

    /// The last confirmed time; none when there is none or its file is damaged, which costs no
    /// more than it does on the first day.
    pub fn load(&self) -> Option<Timestamp> {
        match self.slots.load() {
            Ok(Loaded::Newest(time) | Loaded::LastGood(time, _)) => Some(time),
            Ok(Loaded::Empty) => None,
            Err(error) => {
                tracing::warn!(%error, "the last known time is lost");
                None
            }
        }
    }

    /// Keeps a time that a checked peer confirmed, also an earlier one than before. Returns whether
    /// anything was written; small steps are not.
    ///
    /// # Errors
    /// [`IdentityError::Kept`] when the disk refuses; the time kept before stands.
    pub fn record(&self, confirmed: Timestamp) -> Result<bool, IdentityError> {
        let moved = self.load().map(|have| have.duration_until(confirmed).abs());
        if moved.is_some_and(|moved| moved < WRITE_EVERY) {
            return Ok(false);
        }
        self.slots
            .store(&confirmed)
            .map_err(|source| IdentityError::Kept { what: "the last known time", source })?;
        Ok(true)
    }
}
