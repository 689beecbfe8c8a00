//! What the samples of a soak say.

use std::time::Duration;

/// A session may not be used for longer (whitepaper, 6.1: Reject-After-Time).
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The share of samples at the beginning in which memory may grow: pools and tables fill.
const WARM_UP: f64 = 0.1;
/// Memory has grown when its last quarter has more than its first by this much in MiB, and by this
/// share.
const GROWN_MIB: f64 = 1.0;
const GROWN_SHARE: f64 = 0.05;
/// It grows also when it surely rises by more than this much in an hour.
const RISING_MIB_PER_HOUR: f64 = 1.0;
/// Of so many pieces of the time, one after the other, the slopes between any two are looked at.
const PIECES: usize = 12;
/// In standard deviations of how often one piece exceeds another by chance.
const SURE: f64 = 3.0;
/// What is watched for a shorter time says nothing about an hour: pools still fill.
const LINE_FROM: Duration = Duration::from_secs(600);

/// What was seen at a moment; counts are of the time since the sample before.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Since the beginning.
    pub(super) at: Duration,
    /// PSS of each end, in MiB.
    pub(super) memory: [f64; 2],
    /// Bytes of each flow that arrived.
    pub(super) flows: Vec<u64>,
    /// Datagrams that arrived.
    pub(super) datagrams: u64,
    /// How old the session is.
    pub(super) session: Duration,
}

/// What must not be, and was.
pub(super) fn faults(samples: &[Sample], lost: &[Option<String>]) -> Vec<String> {
    let mut faults = Vec::new();
    if samples.len() < 4 {
        faults.push(format!("{} samples are too few to say anything", samples.len()));
    }
    for (number, why) in lost.iter().enumerate() {
        if let Some(why) = why {
            faults.push(format!("flow {number} was lost: {why}"));
        }
        let still = |sample: &&Sample| sample.flows.get(number).is_none_or(|bytes| *bytes == 0);
        if let Some(sample) = samples.iter().find(still) {
            faults.push(format!("flow {number} stood still before {:?}", rounded(sample.at)));
        }
    }
    if let Some(sample) = samples.iter().find(|sample| sample.datagrams == 0) {
        faults.push(format!("no datagram arrived before {:?}", rounded(sample.at)));
    }
    if let Some(sample) = samples.iter().find(|sample| sample.session > REJECT_AFTER) {
        faults.push(format!("the session was not renewed before {:?}", rounded(sample.at)));
    }
    for end in [0, 1] {
        let memory: Vec<f64> = warm(samples).iter().map(|sample| sample.memory[end]).collect();
        let (first, last) = quarters(&memory);
        if last - first > GROWN_MIB.max(first * GROWN_SHARE) {
            let end = end + 1;
            faults.push(format!("memory of end {end} grew from {first:.1} to {last:.1} MiB"));
            continue;
        }
        let is_long = samples.last().is_some_and(|sample| sample.at >= LINE_FROM);
        let rise = rise(&memory_by_hours(samples, end));
        if is_long && rise.least.is_some_and(|least| least > RISING_MIB_PER_HOUR) {
            let (end, slope) = (end + 1, rise.slope);
            faults.push(format!("memory of end {end} grows by {slope:.1} MiB in an hour"));
        }
    }
    faults
}

/// Of an end, without the beginning: hours and MiB.
pub(super) fn memory_by_hours(samples: &[Sample], end: usize) -> Vec<(f64, f64)> {
    let samples = warm(samples).iter();
    samples.map(|sample| (sample.at.as_secs_f64() / 3600.0, sample.memory[end])).collect()
}

/// Without the beginning.
fn warm(samples: &[Sample]) -> &[Sample] {
    // A share of a count is one.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let skip = (samples.len() as f64 * WARM_UP).ceil() as usize;
    &samples[skip.min(samples.len())..]
}

/// Medians of the first and of the last quarter.
pub(super) fn quarters(values: &[f64]) -> (f64, f64) {
    let quarter = values.len().div_ceil(4);
    let median = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        crate::report::median(&sorted)
    };
    (median(&values[..quarter]), median(&values[values.len() - quarter..]))
}

/// How something rises in a unit of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rise {
    /// The median of the slopes between pieces of the time (Theil, Sen), so that one that is unlike
    /// the others does not count; flat of fewer than two.
    pub(super) slope: f64,
    /// What it surely rises at least (Sen 1968, 6.2); none of too few pieces.
    pub(super) least: Option<f64>,
}

/// Of points in the order of time. Neighbours are alike, pieces are hardly: each counts by its
/// medians.
pub(super) fn rise(points: &[(f64, f64)]) -> Rise {
    let median = |of: &mut dyn Iterator<Item = f64>| {
        let mut sorted: Vec<f64> = of.collect();
        sorted.sort_by(f64::total_cmp);
        crate::report::median(&sorted)
    };
    let pieces: Vec<(f64, f64)> = points
        .chunks(points.len().div_ceil(PIECES).max(1))
        .map(|piece| {
            let at = median(&mut piece.iter().map(|point| point.0));
            (at, median(&mut piece.iter().map(|point| point.1)))
        })
        .collect();
    let mut slopes: Vec<f64> = pieces
        .iter()
        .enumerate()
        .flat_map(|(n, early)| pieces[n + 1..].iter().map(move |late| (early, late)))
        .filter(|(early, late)| late.0 > early.0)
        .map(|(early, late)| (late.1 - early.1) / (late.0 - early.0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    let n = pieces.len() as f64;
    let by_chance = SURE * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    // Far below what a float can count, and a negative one is none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = ((slopes.len() as f64 - by_chance) / 2.0) as usize;
    let least = rank.checked_sub(1).and_then(|rank| slopes.get(rank)).copied();
    Rise { slope: crate::report::median(&slopes), least }
}

fn rounded(at: Duration) -> Duration {
    Duration::from_secs(at.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: Duration = Duration::from_secs(10);

    /// An hour in which all went well, with memory as given in its hundredths.
    fn hour(memory: impl Fn(u32) -> f64) -> Vec<Sample> {
        (1..=360)
            .map(|number| Sample {
                at: EVERY * number,
                memory: [memory(number * 100 / 360), 10.0],
                flows: vec![1_000_000; 2],
                datagrams: 100_000,
                session: Duration::from_secs(u64::from(number * 10 % 120)),
            })
            .collect()
    }

    const NONE_LOST: [Option<String>; 2] = [None, None];

    proptest! {
        #[test]
        fn memory_that_only_swings_has_not_grown(
            middle in 2.0f64..100.0,
            swings in proptest::collection::vec(-0.02f64..0.02, 101),
        ) {
            let samples = hour(|at| middle * (1.0 + swings[at as usize]));
            prop_assert_eq!(faults(&samples, &NONE_LOST), Vec::<String>::new());
        }

        #[test]
        fn memory_that_grows_all_the_time_is_found(begin in 2.0f64..40.0, by in 2.0f64..50.0) {
            let samples = hour(|at| begin + by * 2.0 * f64::from(at) / 100.0);
            let faults = faults(&samples, &NONE_LOST);
            prop_assert!(faults.len() == 1 && faults[0].contains("end 1 grew"), "{faults:?}");
        }

        #[test]
        fn a_line_has_its_slope(slope_of in -9.0f64..9.0, offset in -9.0f64..9.0, n in 2u32..50) {
            let points: Vec<_> = (0..n)
                .map(|x| (f64::from(x), offset + slope_of * f64::from(x)))
                .collect();
            let Rise { slope, least } = rise(&points);
            prop_assert!((slope - slope_of).abs() < 1e-6, "{slope}");
            prop_assert!(least.is_none_or(|least| (least - slope_of).abs() < 1e-6), "{least:?}");
            prop_assert!(least.is_some() || n < 30, "{n} points are enough");
        }

        #[test]
        fn memory_that_leaks_slowly_is_found(leak in 1.3f64..1.45, swing in 0.0f64..0.01) {
            let samples = hour(|at| 10.0 + leak * f64::from(at) / 100.0 + swing * f64::from(at % 3));
            let faults = faults(&samples, &NONE_LOST);
            prop_assert!(faults.len() == 1 && faults[0].contains("end 1 grows by"), "{faults:?}");
        }
    }

    #[test]
    fn what_is_sure_is_less_than_what_is_likely() {
        let zigzag: Vec<_> =
            (0..12u32).map(|x| (f64::from(x), f64::from(x) + 3.0 * f64::from(x % 2))).collect();
        let Rise { slope, least } = rise(&zigzag);
        assert!(
            (slope - 1.0).abs() < 0.1 && least.is_some_and(|least| least < 0.5),
            "{slope} {least:?}"
        );
    }

    #[test]
    fn a_short_watch_says_nothing_about_an_hour() {
        let mut samples = hour(|at| 10.0 + 1.3 * f64::from(at) / 100.0);
        assert!(faults(&samples, &NONE_LOST)[0].contains("grows by 1.3 MiB in an hour"));
        samples.truncate(59);
        assert_eq!(faults(&samples, &NONE_LOST), [""; 0]);
    }

    #[test]
    fn memory_that_fills_in_the_beginning_has_not_grown() {
        let samples = hour(|at| if at < 15 { 4.0 } else { 12.0 });
        assert_eq!(faults(&samples, &NONE_LOST), [""; 0]);
    }

    #[test]
    fn each_fault_is_named() {
        let told = |change: fn(&mut Sample), lost: &[Option<String>]| {
            let mut samples = hour(|_| 10.0);
            change(&mut samples[99]);
            faults(&samples, lost).join("; ")
        };
        assert_eq!(told(|_| {}, &NONE_LOST), "");
        let lost = [None, Some("reset".to_owned())];
        assert_eq!(told(|_| {}, &lost), "flow 1 was lost: reset");
        assert_eq!(told(|at| at.flows[0] = 0, &NONE_LOST), "flow 0 stood still before 1000s");
        assert_eq!(told(|at| at.datagrams = 0, &NONE_LOST), "no datagram arrived before 1000s");
        let old = |at: &mut Sample| at.session = Duration::from_secs(181);
        assert_eq!(told(old, &NONE_LOST), "the session was not renewed before 1000s");
        assert!(faults(&[], &NONE_LOST)[0].contains("too few"));
    }

    #[test]
    fn no_points_have_no_slope() {
        let flat = Rise { slope: 0.0, least: None };
        assert_eq!(rise(&[]), flat);
        assert_eq!(rise(&[(1.0, 2.0)]), flat);
    }
}
