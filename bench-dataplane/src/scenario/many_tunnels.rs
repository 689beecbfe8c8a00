//! `many-tunnels`: one program that ends 16, 1,000 and 6,000 tunnels, with data through all of them,
//! and one that is given 10,000 peers which stay silent; beside the others.
//!
//! Datagrams of 1,200 bytes, four to a tunnel and then to the next one, first from all devices to the
//! edge and then from the edge to all; as fast as the side that sends can, so what is counted is
//! what arrives. The devices are one thread on the same machine. Beside the rate: what the program
//! takes of the processor for a byte, and of memory at the end of a turn. Of the silent ones: how long
//! `wg setconf` takes with all of them, and what memory each costs.

use super::{Options, Scenario, mib};
use crate::Report;
use crate::tunnel::edge::{Edge, Passed};
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Kind, Program};
use crate::tunnel::silent::{Configured, Peers};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "many-tunnels",
    about: "data through 16, 1,000, 6,000 tunnels of one program, and 10,000 peers that are silent; beside wireguard-go",
    run,
};

const PAIRS: u32 = 10;
const TUNNELS: [u32; 3] = [16, 1000, 6000];
const TIME: Duration = Duration::from_secs(2);
const SILENT: u32 = 10_000;
const QUICK_TUNNELS: [u32; 1] = [1000];
const QUICK_TIME: Duration = Duration::from_secs(1);

/// What a turn found.
struct Turn {
    up_gigabits: f64,
    down_gigabits: f64,
    /// Processor time of the program for a gigabyte, in seconds.
    up_seconds: f64,
    down_seconds: f64,
    /// PSS in MiB.
    memory: f64,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let (time, counts) = match options.quick {
        true => (QUICK_TIME, &QUICK_TUNNELS[..]),
        false => (TIME, &TUNNELS[..]),
    };
    let (mut report, ours, peers) =
        program::side_by_side("many-tunnels", options, Beside::WireguardGo)?;
    report.set("pairs", pairs);
    report.set("seconds per direction and turn", time.as_secs());
    report.set("silent peers", format!("{SILENT}, each with a preshared key and three prefixes"));
    let silent = Peers::new(SILENT)?;
    // The others do not take so many handshakes.
    let scales = |peer: &&Program| matches!(peer.kind, Kind::WireguardGo | Kind::Kernel);
    for peer in peers.iter().filter(scales) {
        for tunnels in counts {
            (options.progress)(&format!("{tunnels} tunnels"));
            let turns = pairs::turns(options, pairs, [&ours, peer], |_, program| {
                turn(program, *tunnels, time)
            })?;
            let name = |what: &str| format!("many-tunnels.{tunnels}.{what}");
            let names = ["up", "down", "up.cpu", "down.cpu", "memory"].map(name);
            let whats: [What<Turn>; 5] = [
                (&names[0], "Gbit/s", |turn| turn.up_gigabits),
                (&names[1], "Gbit/s", |turn| turn.down_gigabits),
                (&names[2], "s/GB", |turn| turn.up_seconds),
                (&names[3], "s/GB", |turn| turn.down_seconds),
                (&names[4], "MiB", |turn| turn.memory),
            ];
            pairs::add(&mut report, peer.name(), &turns, &whats);
        }
        (options.progress)(&format!("{SILENT} silent peers"));
        let turns =
            pairs::turns(options, pairs, [&ours, peer], |_, program| silent.configure(program))?;
        let whats: [What<Configured>; 2] = [
            ("many-tunnels.configure", "s", |turn| turn.time.as_secs_f64()),
            ("many-tunnels.idle", "bytes", |turn| turn.bytes_each.unwrap_or_default()),
        ];
        pairs::add(&mut report, peer.name(), &turns, &whats);
    }
    Ok(report)
}

fn turn(program: &Program, tunnels: u32, time: Duration) -> anyhow::Result<Turn> {
    let mut edge = Edge::up(program, tunnels)?;
    edge.shake()?;
    let cpu = |edge: &Edge| -> anyhow::Result<f64> { Ok(edge.usage()?.cpu_ms as f64 / 1e3) };
    let gigabits = |passed: Passed| passed.bytes as f64 * 8e-9 / passed.time.as_secs_f64();
    let each = |seconds: f64, passed: Passed| seconds / (passed.bytes as f64 / 1e9).max(1e-3);
    let begin = cpu(&edge)?;
    let up = edge.up_stream(time)?;
    let between = cpu(&edge)?;
    let down = edge.down_stream(time)?;
    let end = cpu(&edge)?;
    Ok(Turn {
        up_gigabits: gigabits(up),
        down_gigabits: gigabits(down),
        up_seconds: each(between - begin, up),
        down_seconds: each(end - between, down),
        memory: mib(edge.usage()?.pss_bytes),
    })
}
