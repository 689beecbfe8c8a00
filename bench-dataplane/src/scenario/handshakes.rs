//! `handshakes`: what a program takes to shake hands with many, beside the others.
//!
//! The rate: 512 devices, of which 64 are shaking hands all the time; how many handshakes a
//! second once each has the cookie that it may be asked for, and what one takes of the program's processor time. The other side is one thread on the
//! same machine and takes about as much for a handshake, so that a program whose rate stops rising
//! has a core of its own to spare. The restart: 6,000 devices had a session, the program is ended
//! and started anew, and all notice it within 300 ms; the time from its start, before it is set up
//! with all of them, until the last is answered, and the program's processor time until then.

use super::{Options, Scenario};
use crate::Report;
use crate::tunnel::edge::Edge;
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Kind, Program};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "handshakes",
    about: "handshakes a second of one program, and of 6,000 tunnels after its restart; beside the others",
    run,
};

const PAIRS: u32 = 10;
const DEVICES: u32 = 512;
const AT_ONCE: usize = 64;
const TIME: Duration = Duration::from_secs(3);
const RESTART_DEVICES: u32 = 6000;
const QUICK_TIME: Duration = Duration::from_secs(1);
const QUICK_RESTART_DEVICES: u32 = 1000;

/// What a turn of the rate found.
struct Rate {
    per_second: f64,
    /// Of the processor for one, in milliseconds.
    cpu_ms: f64,
}

/// What a restart found, in seconds.
struct Restart {
    until_the_last: f64,
    /// Of the processor until then.
    cpu: f64,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let (time, again) = match options.quick {
        true => (QUICK_TIME, QUICK_RESTART_DEVICES),
        false => (TIME, RESTART_DEVICES),
    };
    let (mut report, ours, peers) =
        program::side_by_side("handshakes", options, Beside::WireguardGo)?;
    report.set("pairs", pairs);
    report.set("devices", DEVICES);
    report.set("devices shaking hands at once", AT_ONCE);
    report.set("seconds per turn", time.as_secs());
    report.set("devices at the restart", again);
    for peer in peers {
        let name = peer.name();
        let turns = pairs::turns(options, pairs, [&ours, &peer], |_, program| rate(program, time))?;
        let whats: [What<Rate>; 2] = [
            ("handshakes", "1/s", |turn| turn.per_second),
            ("handshakes.cpu", "ms", |turn| turn.cpu_ms),
        ];
        pairs::add(&mut report, name, &turns, &whats);
        // The others answer a few hundred a second with cookies at best.
        if !matches!(peer.kind, Kind::WireguardGo | Kind::Kernel) {
            continue;
        }
        let turns =
            pairs::turns(options, pairs, [&ours, &peer], |_, program| restart(program, again))?;
        let whats: [What<Restart>; 2] = [
            ("handshakes.restart", "s", |turn| turn.until_the_last),
            ("handshakes.restart.cpu", "s", |turn| turn.cpu),
        ];
        pairs::add(&mut report, name, &turns, &whats);
    }
    Ok(report)
}

fn rate(program: &Program, time: Duration) -> anyhow::Result<Rate> {
    let mut edge = Edge::up(program, DEVICES)?;
    let (completed, cpu_ms) = edge.handshakes(AT_ONCE, time)?;
    Ok(Rate { per_second: completed as f64 / time.as_secs_f64(), cpu_ms })
}

fn restart(program: &Program, devices: u32) -> anyhow::Result<Restart> {
    let mut edge = Edge::up(program, devices)?;
    edge.shake()?;
    let restart = edge.restart(program)?;
    anyhow::ensure!(restart.missing == 0, "{} devices were never answered", restart.missing);
    let cpu = edge.usage()?.cpu_ms as f64 / 1e3;
    Ok(Restart { until_the_last: restart.time.as_secs_f64(), cpu })
}
