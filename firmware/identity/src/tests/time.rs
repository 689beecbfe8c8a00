use super::write;
use crate::{KnownTime, effective_now};
use holdfast_api::Reason;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

proptest! {
    /// The laws: time never falls behind the confirmed one by more than the tolerance, a believed
    /// clock is not altered, and a clock that was not believed is said to be wrong.
    #[test]
    fn effective_time_is_never_far_behind_the_confirmed_one(
        clock in 0i64..10_000_000_000,
        confirmed in prop::option::of(0i64..4_000_000_000),
    ) {
        let clock = Timestamp::from_second(clock).unwrap();
        let confirmed = confirmed.map(|at| Timestamp::from_second(at).unwrap());
        let time = effective_now(clock, confirmed);
        prop_assert!(time.clock_implausible || time.now == clock);
        prop_assert_eq!(time.clock_implausible, time.reason() == Some(Reason::ClockImplausible));
        if let Some(confirmed) = confirmed {
            prop_assert!(time.now.duration_until(confirmed) <= SignedDuration::from_mins(10));
        }
        prop_assert!(time.now >= at("2025-01-01T00:00:00Z"));
    }
}

#[test]
fn clocks_that_lie_are_not_believed() {
    let confirmed = at("2026-06-01T12:00:00Z");
    for (clock, believed) in [
        ("1970-01-01T00:00:07Z", false),
        ("2026-06-01T11:55:00Z", true),
        ("2026-06-01T11:45:00Z", false),
        ("2029-01-01T00:00:00Z", true),
        ("2099-01-01T00:00:00Z", false),
    ] {
        let time = effective_now(at(clock), Some(confirmed));
        assert_eq!(time.clock_implausible, !believed, "{clock}");
        assert_eq!(time.now, if believed { at(clock) } else { confirmed }, "{clock}");
    }
    let first_day = effective_now(at("1970-01-01T00:00:07Z"), None);
    assert_eq!(first_day.now, at("2025-01-01T00:00:00Z"));
    assert_eq!(first_day.reason(), Some(Reason::ClockImplausible));
}

#[test]
fn confirmed_times_are_kept_and_small_steps_spare_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let known = KnownTime::new(dir.path());
    assert_eq!(known.load(), None);
    let noon = at("2026-06-01T12:00:00Z");
    assert!(known.record(noon).unwrap());
    assert!(!known.record(at("2026-06-01T12:30:00Z")).unwrap());
    assert_eq!(known.load(), Some(noon));
    assert!(known.record(at("2026-06-01T13:30:00Z")).unwrap());
    // The controller's word counts also when it is earlier.
    assert!(known.record(at("2026-05-01T00:00:00Z")).unwrap());
    assert_eq!(known.load(), Some(at("2026-05-01T00:00:00Z")));
    for file in ["known-time.json", "known-time.json.last"] {
        write(&dir.path().join(file), "junk");
    }
    assert_eq!(known.load(), None);
    assert!(known.record(noon).unwrap());
    assert_eq!(known.load(), Some(noon));
}
