//! `manager-kill`: what traffic notices when `holdfastd` is killed with SIGKILL.

use super::{Options, Scenario};
use crate::traffic::{Echoes, Stream};
use crate::world::{Bench, both_up};
use crate::{Report, Series};
use anyhow::Context;
use lab::fleet;
use lab::world::{Host, WorldSpec};
use nix::sys::signal::Signal;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "manager-kill",
    about: "kill -9 of holdfastd under traffic: datagrams lost in the second after, beside an undisturbed second",
    run,
};

const KILLS: u32 = 10;
const PACE: Duration = Duration::from_millis(1);
const SECOND: u64 = 1000;

fn run(options: &Options) -> anyhow::Result<Report> {
    let kills = options.rounds.unwrap_or(KILLS);
    let mut report = Report::new("manager-kill");
    report.set("kills", kills);
    report.set("traffic", "one datagram per ms");
    let mut bench = Bench::up(&WorldSpec::default())?;
    report.set_programs(bench.programs.dir());
    let echoes = Echoes::start(&bench.world)?;
    let stream = Stream::start(&bench.world, 1, &echoes, PACE)?;
    let [_, manager] = fleet::node_services(Host::Node(1));
    let (mut calm, mut killed) = (Vec::new(), Vec::new());
    for round in 1..=kills {
        (options.progress)(&format!("kill {round} of {kills}"));
        bench.wait_tunnels(1, "both tunnels up", both_up)?;
        calm.push(lost_in_a_second(&stream));
        let process = bench.world.process(&manager)?.context("holdfastd does not run")?;
        process.signal(Signal::SIGKILL).context("kill")?;
        killed.push(lost_in_a_second(&stream));
        bench.world.restart(&manager).context("start holdfastd again")?;
        killed.push(lost_in_a_second(&stream));
    }
    report.results.push(Series::new("datagrams lost in a second, undisturbed", "count", calm));
    report.results.push(Series::new(
        "datagrams lost in a second after kill or start of holdfastd",
        "count",
        killed,
    ));
    Ok(report)
}

fn lost_in_a_second(stream: &Stream) -> f64 {
    let first = stream.sent();
    // The last ones need time to come back.
    stream.wait(SECOND + 200);
    f64::from(u32::try_from(stream.lost(first..first + SECOND)).unwrap_or(u32::MAX))
}
