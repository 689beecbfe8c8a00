//! Two programs in turns, A B A B, and what their ratio is: the machine's moods meet both.

use super::program::Program;
use crate::scenario::Options;
use crate::{Report, Series};

/// Of how many drawn samples the interval is made.
const DRAWS: usize = 2000;

/// One thing that each turn found: what it is called, its unit, and where it is.
pub(crate) type What<'a, T> = (&'a str, &'a str, fn(&T) -> f64);

/// Takes `pairs` turns with each program, one after the other; the first is ours and the second a
/// peer, and who of them begins changes. A turn is told the place of its program.
pub(crate) fn turns<T, const N: usize>(
    options: &Options,
    pairs: u32,
    programs: [&Program; N],
    mut turn: impl FnMut(usize, &Program) -> anyhow::Result<T>,
) -> anyhow::Result<[Vec<T>; N]> {
    let mut turns = std::array::from_fn(|_| Vec::new());
    let name = programs.get(1).map_or("alone", |peer| peer.kind.name());
    for pair in 1..=pairs {
        (options.progress)(&format!("{name}: pair {pair} of {pairs}"));
        let mut order: [usize; N] = std::array::from_fn(|side| side);
        if pair % 2 == 1 && N > 1 {
            order.swap(0, 1);
        }
        for side in order {
            turns[side].push(turn(side, programs[side])?);
        }
    }
    Ok(turns)
}

/// What ours and a peer's turns found, and their ratios.
pub(crate) fn add<T>(report: &mut Report, peer: &str, turns: &[Vec<T>; 2], whats: &[What<T>]) {
    for (what, unit, of) in whats {
        let [mine, theirs] = [0, 1].map(|side| turns[side].iter().map(of).collect::<Vec<f64>>());
        // The kernel's has no process, and what found no rate has none.
        if theirs.iter().all(|value| *value > 0.0) {
            report.results.push(ratio(format!("{what}.ratio.{peer}"), &mine, &theirs));
        }
        report.results.push(Series::new(format!("{what}, holdfast beside {peer}"), unit, mine));
        report.results.push(Series::new(format!("{what}, {peer}"), unit, theirs));
    }
}

/// The ratios of neighbours, with the interval in which their median lies in 95 of 100 draws
/// (bootstrap, Efron 1979).
pub(crate) fn ratio(name: String, ours: &[f64], peer: &[f64]) -> Series {
    let pairs: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect();
    let interval = interval(&pairs);
    Series { interval, ..Series::new(name, "ratio", pairs) }
}

/// None of fewer than three samples.
pub(crate) fn interval(samples: &[f64]) -> Option<[f64; 2]> {
    if samples.len() < 3 {
        return None;
    }
    // Reproducible: the same samples give the same interval.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % samples.len() as u64).ok().and_then(|index| samples.get(index))
    };
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut drawn: Vec<f64> = samples.iter().filter_map(|_| draw().copied()).collect();
            drawn.sort_by(f64::total_cmp);
            drawn.get(drawn.len() / 2).copied().unwrap_or_default()
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some([*medians.get(DRAWS / 40)?, *medians.get(DRAWS - DRAWS / 40 - 1)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_interval_holds_the_median(samples in proptest::collection::vec(0.1f64..10.0, 3..40)) {
            let series = ratio("x".into(), &samples, &vec![1.0; samples.len()]);
            let [low, high] = series.interval.unwrap();
            prop_assert!(low <= series.p95 && low <= high);
            let least = samples.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(low >= least && high <= samples.iter().copied().fold(0.0, f64::max));
        }
    }

    #[test]
    fn equal_samples_leave_no_doubt() {
        assert_eq!(interval(&[2.0; 10]), Some([2.0, 2.0]));
        assert_eq!(interval(&[2.0; 2]), None, "too few to say");
    }
}
