//! `latency`: the way there and back through a tunnel, at rest and under load, beside the others.
//!
//! One datagram of 64 bytes at a time, answered by a thread at the other end, with a pause between
//! them in which both programs come to rest. One that is lost, or answered too late, counts as the
//! patience. At rest a tunnel adds the difference to the wire without one, measured in the same
//! round. Under load a stream of TCP runs beside it, and times are told as they are: each program
//! has another load, and so has the wire. Only what was asked while the stream flowed counts.

use super::{Options, Scenario};
use crate::report::{median, quantile};
use crate::tunnel::echo::{Answer, Asker, answer};
use crate::tunnel::flowing::Flowing;
use crate::tunnel::flows::Flows;
use crate::tunnel::pairs::{self, add_ratio};
use crate::tunnel::program::{self, Beside, Kind, Program};
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

const PAIRS: u32 = 10;
/// Datagrams of a turn at rest, and the pause between them.
const AT_REST: usize = 1000;
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
    rest: Times,
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
        if options.quick { (AT_REST / 2, QUICK_LOADED) } else { (AT_REST, LOADED) };
    let (mut report, ours, peers) = program::side_by_side("latency", options, Beside::WireguardGo)?;
    report.set("pairs", pairs);
    report.set("datagrams per turn at rest", at_rest);
    report.set("time per turn under load", format!("{loaded:?}, {LOAD_WARM_UP:?} after it began"));
    report.set("patience", format!("{PATIENCE:?}, which is what a lost datagram counts"));
    let bare = Kind::Bare.find()?;
    for peer in peers {
        let programs = [&ours, &peer, &bare];
        let turns =
            pairs::turns(options, pairs, programs, |_, program| turn(program, at_rest, loaded))?;
        add(&mut report, peer.name(), &turns);
    }
    Ok(report)
}

fn add(report: &mut Report, name: &str, turns: &[Vec<Turn>; 3]) {
    let who = [format!("holdfast beside {name}"), name.into(), format!("the wire beside {name}")];
    type Of = fn(&Turn) -> f64;
    let of = |of: Of| turns.each_ref().map(|turns| turns.iter().map(of).collect::<Vec<f64>>());
    let whats: [(&str, Of); 2] = [
        ("latency.rest.p50", |turn| median(&turn.rest.micros)),
        ("latency.rest.p99", |turn| quantile(&turn.rest.micros, 99)),
    ];
    for (what, value) in whats {
        let [mine, theirs, wire] = of(value);
        let [mine, theirs] = [mine, theirs].map(|all| added(&all, &wire));
        add_ratio(report, &format!("{what}.ratio.{name}"), &mine, &theirs);
        for (who, samples) in [
            (format!("added by {}", who[0]), mine),
            (format!("added by {}", who[1]), theirs),
            (who[2].clone(), wire),
        ] {
            report.results.push(Series::new(format!("{what}, {who}"), "us", samples));
        }
    }
    let whats: [(&str, &str, bool, Of); 5] = [
        ("latency.load.p50", "us", true, |turn| median(&turn.loaded.micros)),
        ("latency.load.p99", "us", true, |turn| quantile(&turn.loaded.micros, 99)),
        ("latency.load.rate", "Gbit/s", false, |turn| turn.gigabits),
        ("latency.rest.late", "datagrams", false, |turn| turn.rest.late),
        ("latency.load.late", "datagrams", false, |turn| turn.loaded.late),
    ];
    for (what, unit, has_ratio, value) in whats {
        let all = of(value);
        if has_ratio {
            add_ratio(report, &format!("{what}.ratio.{name}"), &all[0], &all[1]);
        }
        for (who, samples) in who.iter().zip(all) {
            report.results.push(Series::new(format!("{what}, {who}"), unit, samples));
        }
    }
}

/// What a tunnel adds to the wire in each round, in microseconds; a tenth at least.
fn added(all: &[f64], wire: &[f64]) -> Vec<f64> {
    all.iter().zip(wire).map(|(all, wire)| (all - wire).max(0.1)).collect()
}

fn turn(program: &Program, at_rest: usize, loaded: Duration) -> anyhow::Result<Turn> {
    let rig = Rig::up(program)?;
    let (mut asker, echo) = Asker::new(&rig, PATIENCE)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| answer(&echo, PATIENCE, &stop));
        let result = ask(&rig, &mut asker, at_rest, loaded);
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
        result
    })
}

fn ask(rig: &Rig, asker: &mut Asker, at_rest: usize, time: Duration) -> anyhow::Result<Turn> {
    for _ in 0..WARM_UP {
        asker.ask()?;
    }
    let mut rest = Vec::with_capacity(at_rest);
    for _ in 0..at_rest {
        rest.push(asker.ask()?);
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
        let answer = asker.ask()?;
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
    Ok(Turn { rest: Times::new(&rest), loaded: Times::new(&loaded), gigabits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(millis: &[u64]) -> Times {
        let answers: Vec<Answer> = millis
            .iter()
            .map(|millis| Duration::from_millis(*millis))
            .map(|time| Answer { time, is_late: time >= PATIENCE })
            .collect();
        Times::new(&answers)
    }

    fn turns(rest: &[u64], loaded: &[u64]) -> Vec<Turn> {
        vec![Turn { rest: times(rest), loaded: times(loaded), gigabits: 1.0 }]
    }

    fn sample(report: &Report, name: &str) -> f64 {
        let series = report.results.iter().find(|series| series.name == name);
        series.unwrap_or_else(|| panic!("no {name}")).samples[0]
    }

    #[test]
    fn what_was_lost_is_the_longest_of_all_and_is_told() {
        let [one, lost] = [&[1, 1, 1][..], &[1, 1, 600][..]];
        let mut report = Report::new("latency");
        add(&mut report, "x", &[turns(lost, one), turns(one, lost), turns(&[0], one)]);
        let of = |name: &str| sample(&report, name);
        assert_eq!(of("latency.rest.p99, added by holdfast beside x"), 600_000.0);
        assert_eq!(of("latency.rest.p50, added by holdfast beside x"), 1000.0);
        assert_eq!(of("latency.rest.late, holdfast beside x"), 1.0);
        assert_eq!(of("latency.load.late, x"), 1.0);
        assert_eq!(of("latency.load.p99, x"), 600_000.0);
    }

    #[test]
    fn under_load_nothing_is_taken_off_and_at_rest_the_wire_is() {
        let mut report = Report::new("latency");
        let wire = turns(&[1], &[50]);
        add(&mut report, "x", &[turns(&[3], &[10]), turns(&[5], &[20]), wire]);
        let of = |name: &str| sample(&report, name);
        assert_eq!(of("latency.rest.p99.ratio.x"), 0.5);
        assert_eq!(of("latency.load.p99.ratio.x"), 0.5);
        assert_eq!(of("latency.load.p99, holdfast beside x"), 10_000.0);
        assert_eq!(of("latency.load.p99, the wire beside x"), 50_000.0);
    }
}
