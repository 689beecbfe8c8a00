//! `rest`: what `holdfastd` and `tunneld` take while nothing happens.

use super::{Options, Scenario, mib};
use crate::world::{Bench, both_up};
use crate::{Report, Series};
use anyhow::Context;
use lab::fleet;
use lab::measure::{CpuMeter, usage};
use lab::world::{Host, WorldSpec};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "rest",
    about: "memory (PSS) and processor share of holdfastd and tunneld at rest, with two tunnels up",
    run,
};

const ROUNDS: u32 = 3;
const SETTLE: Duration = Duration::from_secs(10);
/// The kernel counts processor time in ticks of 10 ms.
const ROUND: Duration = Duration::from_secs(60);

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("rest");
    report.set("rounds", rounds);
    report.set("seconds per round", ROUND.as_secs());
    let bench = Bench::up(&WorldSpec::default())?;
    report.set_programs(bench.programs.dir());
    bench.wait_tunnels(1, "both tunnels up", both_up)?;
    std::thread::sleep(SETTLE);
    let pids = fleet::node_services(Host::Node(1))
        .iter()
        .map(|service| Ok(bench.world.process(service)?.context("a daemon ended")?.pid))
        .collect::<anyhow::Result<Vec<i32>>>()?;
    let [tunneld, holdfastd] = pids.as_slice() else { anyhow::bail!("a node has two daemons") };
    let mut samples: [Vec<f64>; 6] = Default::default();
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        let meters = [CpuMeter::start(&[*holdfastd])?, CpuMeter::start(&[*tunneld])?];
        std::thread::sleep(ROUND);
        let mut shares = [0.0; 2];
        for (share, meter) in shares.iter_mut().zip(&meters) {
            *share = meter.read()?.0 * 100.0;
        }
        let pss = [mib(usage(*holdfastd)?.pss_bytes), mib(usage(*tunneld)?.pss_bytes)];
        let all = [pss[0], pss[1], pss[0] + pss[1], shares[0], shares[1], shares[0] + shares[1]];
        for (samples, sample) in samples.iter_mut().zip(all) {
            samples.push(sample);
        }
    }
    let names = [
        ("PSS of holdfastd", "MiB"),
        ("PSS of tunneld", "MiB"),
        ("PSS of both", "MiB"),
        ("holdfastd, share of a core", "%"),
        ("tunneld, share of a core", "%"),
        ("both, share of a core", "%"),
    ];
    for ((name, unit), samples) in names.into_iter().zip(samples) {
        report.results.push(Series::new(name, unit, samples));
    }
    Ok(report)
}
