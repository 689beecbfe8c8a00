//! `latency`: the way there and back through a tunnel, at rest and under load, beside the others.
//!
//! One datagram of 64 bytes at a time, answered by a thread at the other end, with a pause between
//! them in which both programs come to rest. One that is lost, or answered too late, counts as the
//! patience. At rest each one through the tunnel has a neighbour that goes past it over the same
//! wire: what the tunnel adds is their difference, so that a machine that stands still for a moment
//! is taken for the tunnel's doing as often as for the wire's. Under load a stream of TCP runs beside
//! it, and times are told as they are: each program has another load. Only what was asked while the
//! stream flowed counts.

use super::{Options, Scenario};
use crate::report::{median, quantile};
use crate::tunnel::echo::{Answer, Asker, answer};
use crate::tunnel::flowing::Flowing;
use crate::tunnel::flows::Flows;
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Program};
use crate::tunnel::rig::Rig;
use crate::{Report, Series};
use anyhow::ensure;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "latency",
    about: "the way there and back through a tunnel, at rest and under load; beside the others",
    run,
};

const PAIRS: u32 = 20;
/// Datagrams of a turn at rest each way, and the pause between them.
const AT_REST: usize = 1500;
const QUICK_AT_REST: usize = 500;
const PAUSE: Duration = Duration::from_millis(1);
/// Asked before those that count: what is slow once is not the tunnel.
const WARM_UP: u32 = 50;
/// How long a turn under load is, after the stream has found its rate.
const LOADED: Duration = Duration::from_secs(3);
const QUICK_LOADED: Duration = Duration::from_secs(1);
const LOAD_WARM_UP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(500);

/// What a turn found.
struct Turn {
    /// Through the tunnel at rest.
    rest: Times,
    /// Past it, in turns with those.
    wire: Times,
    /// What each one took longer than its neighbour, in microseconds, sorted; less than nothing where
    /// the neighbour was held up.
    added: Vec<f64>,
    loaded: Times,
    /// What the stream brought under load.
    gigabits: f64,
}

/// Of datagrams, there and back.
struct Times {
    /// In microseconds, sorted; what was lost counts as the patience.
    micros: Vec<f64>,
    late: f64,
}

impl Times {
    fn new(answers: &[Answer]) -> Self {
        let mut micros: Vec<f64> =
            answers.iter().map(|answer| answer.time.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        let late = answers.iter().filter(|answer| answer.is_late).count() as f64;
        Times { micros, late }
    }
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let (at_rest, loaded) =
        if options.quick { (QUICK_AT_REST, QUICK_LOADED) } else { (AT_REST, LOADED) };
    let (mut report, ours, peers) = program::side_by_side("latency", options, Beside::WireguardGo)?;
    report.set("pairs", pairs);
    report.set("datagrams per turn at rest", format!("{at_rest}, and as many past the tunnel"));
    report.set("time per turn under load", format!("{loaded:?}, {LOAD_WARM_UP:?} after it began"));
    report.set("patience", format!("{PATIENCE:?}, which is what a lost datagram counts"));
    for peer in peers {
        let turns = pairs::turns(options, pairs, [&ours, &peer], |_, program| {
            turn(program, at_rest, loaded)
        })?;
        pairs::add(&mut report, peer.name(), &turns, &RATIOS);
        add_without_ratios(&mut report, peer.name(), &turns);
    }
    Ok(report)
}

const RATIOS: [What<Turn>; 4] = [
    ("latency.rest.p50", "us", |turn| median(&turn.added)),
    ("latency.rest.p99", "us", |turn| quantile(&turn.added, 99)),
    ("latency.load.p50", "us", |turn| median(&turn.loaded.micros)),
    ("latency.load.p99", "us", |turn| quantile(&turn.loaded.micros, 99)),
];

/// What is told of each side alone.
const ALONE: [What<Turn>; 7] = [
    ("latency.rest.whole.p50", "us", |turn| median(&turn.rest.micros)),
    ("latency.rest.whole.p99", "us", |turn| quantile(&turn.rest.micros, 99)),
    ("latency.rest.wire.p50", "us", |turn| median(&turn.wire.micros)),
    ("latency.rest.wire.p99", "us", |turn| quantile(&turn.wire.micros, 99)),
    ("latency.load.rate", "Gbit/s", |turn| turn.gigabits),
    ("latency.rest.late", "datagrams", |turn| turn.rest.late),
    ("latency.load.late", "datagrams", |turn| turn.loaded.late),
];

fn add_without_ratios(report: &mut Report, name: &str, turns: &[Vec<Turn>; 2]) {
    for (what, unit, value) in ALONE {
        let beside = format!("holdfast beside {name}");
        for (who, turns) in [beside.as_str(), name].iter().zip(turns) {
            let samples = turns.iter().map(value).collect();
            report.results.push(Series::new(format!("{what}, {who}"), unit, samples));
        }
    }
}

fn turn(program: &Program, at_rest: usize, loaded: Duration) -> anyhow::Result<Turn> {
    let rig = Rig::up(program)?;
    let (mut through, echo) = Asker::new(&rig, PATIENCE)?;
    let (mut past, echo_past) = Asker::past(&rig, PATIENCE)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echoes = [&echo, &echo_past].map(|echo| scope.spawn(|| answer(echo, PATIENCE, &stop)));
        let result = ask(&rig, [&mut through, &mut past], at_rest, loaded);
        stop.store(true, Ordering::Relaxed);
        for echo in echoes {
            echo.join().map_err(|_| anyhow::anyhow!("an echo panicked"))??;
        }
        result
    })
}

fn ask(
    rig: &Rig,
    [through, past]: [&mut Asker; 2],
    at_rest: usize,
    time: Duration,
) -> anyhow::Result<Turn> {
    for _ in 0..WARM_UP {
        through.ask()?;
        past.ask()?;
    }
    let mut rest = Vec::with_capacity(at_rest);
    let mut wire = Vec::with_capacity(at_rest);
    for _ in 0..at_rest {
        rest.push(through.ask()?);
        std::thread::sleep(PAUSE);
        wire.push(past.ask()?);
        std::thread::sleep(PAUSE);
    }
    let flows = Flows::start(rig, 1)?;
    let bytes = || flows.bytes().iter().sum::<u64>();
    std::thread::sleep(LOAD_WARM_UP);
    let mut loaded = Vec::new();
    let (begin, before) = (Instant::now(), bytes());
    let mut flowing = Flowing::since(before);
    while begin.elapsed() < time {
        let asked_at = Instant::now();
        let answer = through.ask()?;
        std::thread::sleep(PAUSE);
        flowing.on(bytes(), Instant::now());
        if flowing.beside(asked_at) {
            loaded.push(answer);
        }
    }
    let gigabits = (bytes() - before) as f64 * 8e-9 / begin.elapsed().as_secs_f64();
    if let Some(why) = flows.lost().into_iter().flatten().next() {
        anyhow::bail!("the stream of TCP was lost: {why}");
    }
    ensure!(!loaded.is_empty(), "the stream of TCP brought nothing over");
    Ok(Turn {
        added: added(&rest, &wire),
        rest: Times::new(&rest),
        wire: Times::new(&wire),
        loaded: Times::new(&loaded),
        gigabits,
    })
}

/// What each one took longer than its neighbour, in microseconds, sorted.
fn added(rest: &[Answer], wire: &[Answer]) -> Vec<f64> {
    let micros = |answer: &Answer| answer.time.as_secs_f64() * 1e6;
    let mut added: Vec<f64> =
        rest.iter().zip(wire).map(|(rest, wire)| micros(rest) - micros(wire)).collect();
    added.sort_by(f64::total_cmp);
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(millis: &[u64]) -> Vec<Answer> {
        let times = millis.iter().map(|millis| Duration::from_millis(*millis));
        times.map(|time| Answer { time, is_late: time >= PATIENCE }).collect()
    }

    fn turn(rest: &[u64], wire: &[u64], loaded: &[u64]) -> Vec<Turn> {
        let [rest, wire, loaded] = [rest, wire, loaded].map(answers);
        vec![Turn {
            added: added(&rest, &wire),
            rest: Times::new(&rest),
            wire: Times::new(&wire),
            loaded: Times::new(&loaded),
            gigabits: 1.0,
        }]
    }

    fn report(turns: &[Vec<Turn>; 2]) -> Report {
        let mut report = Report::new("latency");
        pairs::add(&mut report, "x", turns, &RATIOS);
        add_without_ratios(&mut report, "x", turns);
        report
    }

    fn sample(report: &Report, name: &str) -> f64 {
        let series = report.results.iter().find(|series| series.name == name);
        series.unwrap_or_else(|| panic!("no {name}")).samples[0]
    }

    #[test]
    fn what_was_lost_is_the_longest_of_all_and_is_told() {
        let lost = turn(&[2, 2, 601], &[1, 1, 1], &[1, 1, 1]);
        let report = report(&[lost, turn(&[2, 2, 2], &[1, 1, 1], &[1, 1, 600])]);
        let of = |name: &str| sample(&report, name);
        assert_eq!(of("latency.rest.p99, holdfast beside x"), 600_000.0);
        assert_eq!(of("latency.rest.p50, holdfast beside x"), 1000.0);
        assert_eq!(of("latency.rest.late, holdfast beside x"), 1.0);
        assert_eq!(of("latency.load.late, x"), 1.0);
        assert_eq!(of("latency.load.p99, x"), 600_000.0);
    }

    #[test]
    fn under_load_nothing_is_taken_off_and_at_rest_the_neighbour_is() {
        let report = report(&[turn(&[3], &[1], &[10]), turn(&[7], &[3], &[20])]);
        let of = |name: &str| sample(&report, name);
        assert_eq!(of("latency.rest.p99.ratio.x"), 0.5);
        assert_eq!(of("latency.load.p99.ratio.x"), 0.5);
        assert_eq!(of("latency.load.p99, holdfast beside x"), 10_000.0);
        assert_eq!(of("latency.rest.whole.p99, x"), 7000.0);
        assert_eq!(of("latency.rest.wire.p50, x"), 3000.0);
    }

    #[test]
    fn a_neighbour_that_was_held_up_takes_off_from_its_own_pair_alone() {
        let [rest, wire] = [&[2, 2, 2, 2][..], &[1, 9, 1, 1][..]].map(answers);
        assert_eq!(added(&rest, &wire), [-7000.0, 1000.0, 1000.0, 1000.0]);
    }
}
