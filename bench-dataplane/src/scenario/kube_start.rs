//! `kube-start`: what the manager adds to the start of Kubernetes.
//!
//! One node with its datastore, started again and again: by its manager, which itself is started for
//! it, and by hand, the very same program, arguments, environment, host and files, without a manager.
//! In turns, and each round the other one first. Ready is what the API server and the node's own
//! condition say, asked the same way both times.

use super::{Options, Scenario};
use crate::kubernetes::ready::{CommandLine, end};
use crate::kubernetes::{Cluster, NODE};
use crate::{Report, Series};
use anyhow::Context;
use holdfast_api::kubernetes::KubernetesPhase;
use lab::fleet;
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kube-start",
    about: "Kubernetes started by the manager until it is ready; beside the same program started by hand",
    run,
};

const ROUNDS: u32 = 7;

#[derive(Default)]
struct Samples {
    told: Vec<Duration>,
    managed: Vec<Duration>,
    by_hand: Vec<Duration>,
}

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("kube-start");
    report.set("rounds", rounds);
    report.set("peer", "the same command line on the same files, without a manager");
    let mut cluster = Cluster::up()?;
    report.set_programs(cluster.bench.programs.dir());
    let line = CommandLine::of(cluster.wait_started()?)?;
    let name = cluster.node_name()?;
    stop(&cluster)?;
    let mut samples = Samples::default();
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        if round % 2 == 0 {
            by_hand(&mut cluster, &name, &line, &mut samples)?;
            managed(&mut cluster, &name, &mut samples)?;
        } else {
            managed(&mut cluster, &name, &mut samples)?;
            by_hand(&mut cluster, &name, &line, &mut samples)?;
        }
    }
    let Samples { told, managed, by_hand } = samples;
    let (told, managed) = (
        Series::millis("with the manager: start → Ready, as the manager says", &told),
        Series::millis("with the manager: start → Ready, as the API says", &managed),
    );
    let by_hand = Series::millis("by hand: start → Ready, as the API says", &by_hand);
    let medians = [
        ("ratio of medians, as the API says", managed.median / by_hand.median),
        (
            "ratio of medians, as the manager says / as the API says by hand",
            told.median / by_hand.median,
        ),
    ];
    report.results.extend([told, managed, by_hand]);
    let ratios = medians.map(|(name, ratio)| Series::new(name, "ratio", vec![ratio]));
    report.results.extend(ratios);
    Ok(report)
}

/// The manager goes first: it would start Kubernetes again.
fn stop(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.end_manager()?;
    end(cluster.distribution().context("Kubernetes does not run")?)
}

fn managed(cluster: &mut Cluster, name: &str, samples: &mut Samples) -> anyhow::Result<()> {
    let [_, manager] = fleet::node_services(NODE);
    cluster.bench.world.restart(&manager).context("start holdfastd again")?;
    let process = cluster.wait_started()?;
    samples.managed.push(cluster.until_ready(name, process)?);
    let told = cluster.wait("the manager calls Kubernetes ready", |state| {
        let ready = state.phase == KubernetesPhase::Ready;
        Ok(state.ready_after_ms.filter(|_| ready))
    })?;
    samples.told.push(Duration::from_millis(told));
    stop(cluster)
}

fn by_hand(
    cluster: &mut Cluster,
    name: &str,
    line: &CommandLine,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let process = cluster.start_by_hand(line)?;
    samples.by_hand.push(cluster.until_ready(name, process)?);
    end(process)
}
