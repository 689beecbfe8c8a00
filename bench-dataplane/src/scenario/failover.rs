//! `failover`: how long traffic stands still when the active edge turns into a black hole.
//!
//! A world of the laboratory (three edges, emulated delays), a stream of one datagram per
//! millisecond from the node to a service behind every edge. The link of the edge that carries the
//! traffic is cut both ways; the gap in the stream is the result. Then the link is healed, and when
//! both tunnels are up again the edge that is active *now* is cut. Measured with BFD at 3 × 100 ms and at
//! 3 × 20 ms, beside the detection time itself, which is the least that this can cost.

use super::{Options, Scenario};
use crate::traffic::{Echoes, Stream};
use crate::world::{Bench, active, both_up};
use crate::{Report, Series};
use anyhow::Context;
use lab::emulator::Cut;
use lab::world::WorldSpec;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "failover",
    about: "black hole of the active edge under traffic: time without traffic, BFD 3 × 100 ms and 3 × 20 ms",
    run,
};

const CUTS: u32 = 30;
const INTERVALS_MS: [u32; 2] = [100, 20];
const MULTIPLIER: u32 = 3;
const PACE: Duration = Duration::from_millis(1);
/// Datagrams that must have flowed before a cut, and after it.
const AROUND: u64 = 300;

fn run(options: &Options) -> anyhow::Result<Report> {
    let cuts = options.rounds.unwrap_or(CUTS);
    let mut report = Report::new("failover");
    report.set("cuts per setting", cuts);
    report.set("traffic", "one datagram per ms");
    for interval_ms in INTERVALS_MS {
        let spec = WorldSpec { bfd_interval_ms: Some(interval_ms), ..WorldSpec::default() };
        let bench = Bench::up(&spec)?;
        report.set_programs(bench.programs.dir());
        let gaps = measure(&bench, cuts, interval_ms, options.progress)?;
        let detection = f64::from(interval_ms * MULTIPLIER);
        let name = format!("time without traffic, BFD {MULTIPLIER} × {interval_ms} ms");
        let series = Series::millis(name, &gaps);
        let ratio = series.samples.iter().map(|gap| gap / detection).collect();
        report.results.push(series);
        report.results.push(Series::new(
            format!("the same / detection time of {detection} ms"),
            "ratio",
            ratio,
        ));
    }
    Ok(report)
}

fn measure(
    bench: &Bench,
    cuts: u32,
    interval_ms: u32,
    progress: fn(&str),
) -> anyhow::Result<Vec<Duration>> {
    let echoes = Echoes::start(&bench.world)?;
    let stream = Stream::start(&bench.world, 1, &echoes, PACE)?;
    let mut links = bench.world.links().context("links")?;
    let mut gaps = Vec::new();
    for cut in 1..=cuts {
        progress(&format!("BFD {MULTIPLIER} × {interval_ms} ms: cut {cut} of {cuts}"));
        let state = bench.wait_tunnels(1, "both tunnels up", both_up)?;
        let edge = active(&state).context("no tunnel is active")?;
        stream.wait(AROUND);
        // A cut at a random point between two BFD packets is what the world does.
        std::thread::sleep(Duration::from_micros(
            u64::from(any_number()) % (u64::from(interval_ms) * 1000),
        ));
        let at = stream.now();
        links.cut(&edge, Cut::Both).context("cut")?;
        bench.wait_tunnels(1, "another tunnel active", |state| {
            active(state).is_some_and(|now| now != edge)
        })?;
        stream.wait(AROUND);
        gaps.push(stream.gap_around(at).context("no traffic before the cut")?);
        links.heal(Some(&edge)).context("heal")?;
    }
    Ok(gaps)
}

/// Some number; its quality does not matter.
fn any_number() -> u32 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos())
}
