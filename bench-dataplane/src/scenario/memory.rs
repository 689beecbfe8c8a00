//! `memory`: what one end of a tunnel takes, and how often it wakes up when nothing passes, both
//! ends the same program, beside the others.
//!
//! A turn: a tunnel is made, and comes to rest; its memory, and how often it wakes up; a stream of
//! TCP, and the most of memory that was seen while it runs; its memory some seconds after. Memory
//! is PSS, of the end that has more.

use super::{Options, Scenario, mib};
use crate::Report;
use crate::tunnel::iperf;
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Kind, Program};
use crate::tunnel::rig::Rig;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "memory",
    about: "memory of an end of a tunnel at rest, under load and after it, and its wake-ups at rest; beside the others",
    run,
};

const PAIRS: u32 = 10;
const POLL: Duration = Duration::from_millis(200);

/// How long the parts of a turn are.
#[derive(Clone, Copy)]
struct Times {
    /// Until a tunnel that was just made rests: its last timer is the keepalive of ten seconds
    /// (whitepaper, 6.5).
    settle: Duration,
    watch: Duration,
    load_seconds: u32,
    after: Duration,
}

const WHOLE: Times = Times {
    settle: Duration::from_secs(12),
    watch: Duration::from_secs(10),
    load_seconds: 5,
    after: Duration::from_secs(5),
};
const QUICK: Times = Times {
    settle: Duration::from_secs(1),
    watch: Duration::from_secs(3),
    load_seconds: 2,
    after: Duration::from_secs(1),
};

/// What a turn found; memory in MiB.
struct Turn {
    rest: f64,
    load: f64,
    after: f64,
    wakeups_per_second: f64,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let times = if options.quick { QUICK } else { WHOLE };
    let (mut report, ours, peers) = program::side_by_side("memory", options, Beside::WireguardGo)?;
    report.set("pairs", pairs);
    report
        .set("watched at rest", format!("{:?}, {:?} after it was made", times.watch, times.settle));
    report.set("seconds of load", times.load_seconds);
    report.set("memory after", format!("{:?} after the load", times.after));
    for peer in peers {
        if peer.kind == Kind::Kernel {
            report.set("program kernel", "skipped: it has no process");
            continue;
        }
        let turns =
            pairs::turns(options, pairs, [&ours, &peer], |_, program| turn(program, times))?;
        let whats: [What<Turn>; 4] = [
            ("memory.rest", "MiB", |turn| turn.rest),
            ("memory.load", "MiB", |turn| turn.load),
            ("memory.after", "MiB", |turn| turn.after),
            ("memory.wakeups", "1/s", |turn| turn.wakeups_per_second),
        ];
        pairs::add(&mut report, peer.name(), &turns, &whats);
    }
    Ok(report)
}

fn turn(program: &Program, times: Times) -> anyhow::Result<Turn> {
    let rig = Rig::up(program)?;
    std::thread::sleep(times.settle);
    let before = rig.wakeups()?;
    let begin = Instant::now();
    std::thread::sleep(times.watch);
    let (after, passed) = (rig.wakeups()?, begin.elapsed().as_secs_f64());
    let woken = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    let wakeups_per_second = woken.max().unwrap_or_default() as f64 / passed;
    let rest = largest(&rig)?;
    let load = std::thread::scope(|scope| {
        let load = scope.spawn(|| iperf::tcp(&rig, times.load_seconds));
        let mut most = rest;
        while !load.is_finished() {
            most = most.max(largest(&rig)?);
            std::thread::sleep(POLL);
        }
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        Ok::<f64, anyhow::Error>(most.max(largest(&rig)?))
    })?;
    std::thread::sleep(times.after);
    Ok(Turn { rest, load, after: largest(&rig)?, wakeups_per_second })
}

/// PSS of the larger end, in MiB.
fn largest(rig: &Rig) -> anyhow::Result<f64> {
    Ok(rig.usage()?.iter().map(|usage| mib(usage.pss_bytes)).fold(0.0, f64::max))
}
