//! Two programs in turns, A B A B, and what their ratio is: the machine's moods meet both.

use super::program::Program;
use crate::report::median;
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
    let name = programs.get(1).map_or("alone", |peer| peer.name());
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

/// What ours and a peer's turns found, and their ratios. The first of `whats` is what a turn is
/// about: where one side did not do it at all, the rest of that pair has no ratio either.
pub(crate) fn add<T>(report: &mut Report, peer: &str, turns: &[Vec<T>; 2], whats: &[What<T>]) {
    let all = |side: usize, of: &fn(&T) -> f64| turns[side].iter().map(of).collect::<Vec<f64>>();
    let mut did = [Vec::new(), Vec::new()];
    for (number, (what, unit, of)) in whats.iter().enumerate() {
        let [mine, theirs] = [all(0, of), all(1, of)];
        if number == 0 {
            did = [mine.clone(), theirs.clone()];
        }
        let is_one = |pair: usize| number == 0 || did.iter().all(|did| did[pair] > 0.0);
        ratio(report, &format!("{what}.ratio.{peer}"), [&mine, &theirs], is_one);
        report.results.push(Series::new(format!("{what}, holdfast beside {peer}"), unit, mine));
        report.results.push(Series::new(format!("{what}, {peer}"), unit, theirs));
    }
}

/// The ratios of neighbours, with the interval in which their median lies in 95 of 100 draws
/// (bootstrap, Efron 1979). A pair whose other side is zero has none; the setup says so.
pub(crate) fn add_ratio(report: &mut Report, name: &str, ours: &[f64], peer: &[f64]) {
    ratio(report, name, [ours, peer], |_| true);
}

/// The same of those pairs that are one.
fn ratio(report: &mut Report, name: &str, sides: [&[f64]; 2], is_one: impl Fn(usize) -> bool) {
    let (mut ratios, mut left_out) = (Vec::new(), Vec::new());
    for (pair, (ours, peer)) in sides[0].iter().zip(sides[1]).enumerate() {
        match *peer > 0.0 && is_one(pair) {
            true => ratios.push(ours / peer),
            false => left_out.push(pair + 1),
        }
    }
    if !left_out.is_empty() {
        let of = sides[0].len();
        let which = match ratios.is_empty() {
            true => "all of them".into(),
            false => format!("{left_out:?}"),
        };
        let why = "a side without a value, or zero on the other side";
        report.set(&format!("left out of {name}"), format!("of {of} pairs {which}: {why}"));
    }
    if !ratios.is_empty() {
        let interval = interval(&ratios);
        report.results.push(Series { interval, ..Series::new(name, "ratio", ratios) });
    }
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
            median(&drawn)
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
            let mut report = Report::new("x");
            add_ratio(&mut report, "x", &samples, &vec![1.0; samples.len()]);
            let series = &report.results[0];
            let [low, high] = series.interval.unwrap();
            prop_assert!(low <= series.median && series.median <= high, "{series:?}");
            let least = samples.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(low >= least && high <= samples.iter().copied().fold(0.0, f64::max));
        }
    }

    /// A rate and what it cost, of both sides' turns.
    fn report(turns: [&[(f64, f64)]; 2]) -> Report {
        let mut report = Report::new("x");
        let whats: [What<(f64, f64)>; 2] = [("x", "1/s", |turn| turn.0), ("x.cpu", "s", |t| t.1)];
        add(&mut report, "y", &turns.map(<[_]>::to_vec), &whats);
        report
    }

    fn samples(report: &Report, name: &str) -> Vec<f64> {
        let found = report.results.iter().find(|series| series.name == name);
        found.map(|series| series.samples.clone()).unwrap_or_default()
    }

    #[test]
    fn a_pair_without_a_value_is_left_out_and_told() {
        let whole = [(2.0, 4.0), (2.0, 4.0), (2.0, 4.0)];
        let all = report([&whole, &[(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]]);
        assert_eq!(samples(&all, "x.ratio.y"), [2.0, 1.0, 0.5]);
        assert_eq!(samples(&all, "x.cpu.ratio.y"), [4.0, 2.0, 1.0]);
        assert!(!all.setup.keys().any(|key| key.starts_with("left out")), "{all:?}");

        let theirs = report([&whole, &[(1.0, 1.0), (0.0, 2.0), (4.0, 4.0)]]);
        assert_eq!(samples(&theirs, "x.ratio.y"), [2.0, 0.5]);
        assert_eq!(samples(&theirs, "x.cpu.ratio.y"), [4.0, 1.0]);
        assert_eq!(samples(&theirs, "x, y"), [1.0, 0.0, 4.0]);
        assert!(theirs.setup["left out of x.ratio.y"].contains("of 3 pairs [2]"), "{theirs:?}");

        let none = report([&whole, &[(0.0, 1.0); 3]]);
        assert_eq!(samples(&none, "x.ratio.y"), [0.0; 0]);
        assert!(none.setup["left out of x.ratio.y"].contains("all of them"), "{none:?}");
    }

    #[test]
    fn where_ours_did_nothing_its_rate_counts_and_that_it_cost_nothing_does_not() {
        let report = report([&[(0.0, 0.0), (2.0, 4.0)], &[(1.0, 1.0), (1.0, 1.0)]]);
        assert_eq!(samples(&report, "x.ratio.y"), [0.0, 2.0]);
        assert_eq!(samples(&report, "x.cpu.ratio.y"), [4.0]);
        assert!(report.setup["left out of x.cpu.ratio.y"].contains("[1]"), "{report:?}");
    }

    #[test]
    fn an_interval_leans_to_no_side() {
        let even: Vec<f64> = (1..=10).map(f64::from).collect();
        let [low, high] = interval(&even).unwrap();
        assert_eq!(low + high, 11.0, "{low} to {high}");
    }

    #[test]
    fn equal_samples_leave_no_doubt() {
        assert_eq!(interval(&[2.0; 10]), Some([2.0, 2.0]));
        assert_eq!(interval(&[2.0; 2]), None, "too few to say");
    }
}
