//! `tcp`: one stream of TCP through a tunnel, both ends the same program, beside the others.
//!
//! For each peer ours and it take turns; a rig is made anew for every turn. Beside the rate:
//! the processor time of both programs for a byte, also as a multiple of what sealing and opening
//! it alone takes in this process (the tax: median of passes just before and just after the turn,
//! on the same clock), and what the larger of both has of memory at the end of a turn.

use super::{Options, Scenario, mib};
use crate::Report;
use crate::tunnel::bare::Bare;
use crate::tunnel::iperf;
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Program};
use crate::tunnel::rig::Rig;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "tcp",
    about: "one stream of TCP through a tunnel of ours; beside wireguard-go, boringtun, gotatun, the kernel",
    run,
};

const PAIRS: u32 = 10;
const SECONDS: u32 = 5;

pub(super) const WHATS: [What<'_, Turn>; 4] = [
    ("tcp", "Gbit/s", |turn| turn.gigabits),
    ("tcp.cpu", "s/GB", |turn| turn.seconds_per_gigabyte),
    ("tcp.tax", "times", |turn| turn.tax),
    ("tcp.memory", "MiB", |turn| turn.memory),
];

/// What a turn found.
pub(super) struct Turn {
    gigabits: f64,
    /// Processor time of both programs for a gigabyte, in seconds.
    seconds_per_gigabyte: f64,
    /// The same over sealing and opening alone, measured before and after it.
    tax: f64,
    /// PSS of the larger of both, in MiB.
    memory: f64,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let seconds = if options.quick { 2 } else { SECONDS };
    let (mut report, ours, peers) = program::side_by_side("tcp", options, Beside::All)?;
    report.set("pairs", pairs);
    report.set("seconds per turn", seconds);
    for peer in peers {
        let turns =
            pairs::turns(options, pairs, [&ours, &peer], |_, program| turn(program, seconds))?;
        pairs::add(&mut report, peer.name(), &turns, &WHATS);
    }
    Ok(report)
}

pub(super) fn turn(program: &Program, seconds: u32) -> anyhow::Result<Turn> {
    let mut bare = Bare::default();
    bare.measure()?;
    let rig = Rig::up(program)?;
    let cpu = |rig: &Rig| -> anyhow::Result<f64> {
        Ok(rig.usage()?.iter().map(|usage| usage.cpu_ms as f64 / 1e3).sum())
    };
    let before = cpu(&rig)?;
    let stream = iperf::tcp(&rig, seconds)?;
    let taken = cpu(&rig)? - before;
    let memory = rig.usage()?.iter().map(|usage| mib(usage.pss_bytes)).fold(0.0, f64::max);
    let seconds_per_gigabyte = taken / (stream.bytes / 1e9);
    drop(rig);
    bare.measure()?;
    let tax = seconds_per_gigabyte / bare.seconds_per_gigabyte();
    Ok(Turn { gigabits: stream.bits_per_second / 1e9, seconds_per_gigabyte, tax, memory })
}
