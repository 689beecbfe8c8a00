//! `bring-up`: from the first look at the token to two tunnels that pass data.
//!
//! One world; node after node is plugged in, with a token by cloud-init and automatic approval, and
//! taken out again. The times are the manager's own: stage `Registering` to stage `Online`. Beside them
//! the least that the emulated delays alone would cost, counted in round trips.

use super::{Options, Scenario};
use crate::world::Bench;
use crate::{Report, Series};
use anyhow::Context;
use holdfast_api::local::{NodeReport, Stage};
use lab::fleet;
use lab::world::spec::NODES_MAX;
use lab::world::{EmulatorMode, Host, WorldSpec};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bring-up",
    about: "token presented until both tunnels pass data, automatic approval; and the whole world's start",
    run,
};

const NODES: u32 = 20;

fn run(options: &Options) -> anyhow::Result<Report> {
    // The world has one node before the first round.
    let most = NODES_MAX - 1;
    let nodes = u8::try_from(options.rounds.unwrap_or(NODES)).ok().filter(|nodes| *nodes <= most);
    let nodes =
        nodes.with_context(|| format!("at most {most} rounds: each is a node of its own"))?;
    let mut report = Report::new("bring-up");
    report.set("nodes", nodes);
    let begin = Instant::now();
    let mut bench = Bench::up(&WorldSpec::default())?;
    report.set_programs(bench.programs.dir());
    let whole = begin.elapsed();
    let (mut online, mut admitted) = (Vec::new(), Vec::new());
    for number in 2..=nodes + 1 {
        (options.progress)(&format!("node {} of {nodes}", number - 1));
        let spec = WorldSpec { nodes: number, ..bench.world.spec().clone() };
        bench.world.grow(&spec, &EmulatorMode::Thread, &mut |_| {})?;
        fleet::start_nodes(&mut bench.world, &bench.programs, &bench.operator, &[number])?;
        fleet::wait_online(&mut bench.world, &[number])?;
        let host = Host::Node(number);
        let node: NodeReport =
            fleet::ask(&fleet::manager_socket(&bench.world, host), "/v1/status")?;
        let registering = reached(&node, Stage::Registering)?;
        admitted.push(reached(&node, Stage::Bootstrapping)?.saturating_sub(registering));
        online.push(reached(&node, Stage::Online)?.saturating_sub(registering));
        for service in fleet::node_services(host) {
            if let Some(process) = bench.world.process(&service)? {
                process.signal(Signal::SIGTERM).context("stop the node")?;
            }
        }
    }
    report.results.push(Series::millis("token presented → both tunnels pass data", &online));
    report.results.push(Series::millis("token presented → certificate", &admitted));
    report.results.push(Series::millis("a whole world (controller, 3 edges, 1 node)", &[whole]));
    Ok(report)
}

fn reached(node: &NodeReport, stage: Stage) -> anyhow::Result<Duration> {
    let at = node.stages.iter().find(|time| time.stage == stage);
    at.map(|time| Duration::from_millis(time.at_ms))
        .with_context(|| format!("stage {stage:?} was not reached"))
}
