//! `latency`: the way there and back through a tunnel, at rest and under load, beside the others.
//!
//! One datagram of 64 bytes at a time, answered by a thread at the other end, with a pause between
//! them in which both programs come to rest. Under load a stream of TCP runs beside it. What a
//! tunnel adds is the difference to the wire without one, measured in the same round.

use super::{Options, Scenario};
use crate::report::quantile;
use crate::tunnel::iperf;
use crate::tunnel::pairs::{self, ratio};
use crate::tunnel::program::{self, Kind, Program};
use crate::tunnel::rig::Rig;
use crate::{Report, Series};
use anyhow::Context;
use std::net::{SocketAddr, UdpSocket};
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
/// How long a turn under load is.
const LOADED_SECONDS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(500);

/// Microseconds of a turn, sorted.
struct Turn {
    rest: Vec<f64>,
    loaded: Vec<f64>,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 2);
    let (at_rest, seconds) =
        if options.quick { (AT_REST / 2, 1) } else { (AT_REST, LOADED_SECONDS) };
    let (mut report, ours, peers) = program::side_by_side("latency", options)?;
    report.set("pairs", pairs);
    report.set("datagrams per turn at rest", at_rest);
    report.set("seconds per turn under load", seconds);
    let bare = Kind::Bare.find()?;
    for peer in peers {
        let programs = [&ours, &peer, &bare];
        let turns =
            pairs::turns(options, pairs, programs, |_, program| turn(program, at_rest, seconds))?;
        add(&mut report, peer.kind.name(), &turns);
    }
    Ok(report)
}

fn add(report: &mut Report, name: &str, turns: &[Vec<Turn>; 3]) {
    type Of = fn(&Turn) -> f64;
    let whats: [(&str, Of); 4] = [
        ("latency.rest.p50", |turn| quantile(&turn.rest, 50)),
        ("latency.rest.p99", |turn| quantile(&turn.rest, 99)),
        ("latency.load.p50", |turn| quantile(&turn.loaded, 50)),
        ("latency.load.p99", |turn| quantile(&turn.loaded, 99)),
    ];
    for (what, of) in whats {
        let [mine, theirs, wire] =
            [0, 1, 2].map(|side| turns[side].iter().map(of).collect::<Vec<f64>>());
        let added = |all: &[f64]| -> Vec<f64> {
            all.iter().zip(&wire).map(|(all, wire)| (all - wire).max(0.1)).collect()
        };
        let (mine_added, theirs_added) = (added(&mine), added(&theirs));
        report.results.push(ratio(format!("{what}.ratio.{name}"), &mine_added, &theirs_added));
        for (who, samples) in [
            (format!("added by holdfast beside {name}"), mine_added),
            (format!("added by {name}"), theirs_added),
            (format!("the wire beside {name}"), wire),
        ] {
            report.results.push(Series::new(format!("{what}, {who}"), "us", samples));
        }
    }
}

fn turn(program: &Program, at_rest: usize, seconds: u32) -> anyhow::Result<Turn> {
    let rig = Rig::up(program)?;
    let [from, to] = &rig.ends;
    let bind = |end: &crate::tunnel::rig::End| -> anyhow::Result<UdpSocket> {
        let address = SocketAddr::new(end.address.into(), 0);
        let socket = end.netns.enter(|| UdpSocket::bind(address)).context("namespace")??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let (here, there) = (bind(from)?, bind(to)?);
    here.connect(there.local_addr()?)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((bytes, back)) = there.recv_from(&mut buffer) {
                    let _ = there.send_to(&buffer[..bytes], back);
                }
            }
        });
        let result = (|| {
            // What is slow once is not the tunnel.
            for _ in 0..50 {
                ask(&here)?;
            }
            let mut rest = Vec::with_capacity(at_rest);
            while rest.len() < at_rest {
                rest.extend(ask(&here)?);
                std::thread::sleep(PAUSE);
            }
            let load = scope.spawn(|| iperf::tcp(&rig, seconds));
            let mut loaded = Vec::new();
            while !load.is_finished() {
                loaded.extend(ask(&here)?);
                std::thread::sleep(PAUSE);
            }
            let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
            load?;
            rest.sort_by(f64::total_cmp);
            loaded.sort_by(f64::total_cmp);
            Ok(Turn { rest, loaded })
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Microseconds there and back; none when it was lost.
fn ask(socket: &UdpSocket) -> anyhow::Result<Option<f64>> {
    let begin = Instant::now();
    socket.send(&[1; 64])?;
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Ok(Some(begin.elapsed().as_secs_f64() * 1e6)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}
