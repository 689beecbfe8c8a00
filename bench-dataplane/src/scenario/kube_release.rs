//! `kube-release`: what the manager adds to a release of ten workloads.
//!
//! A world's node with Kubernetes, whose image is there. In turns: a release of ten Deployments
//! through the controller and the manager, until it is in force; and the same manifests sent to the
//! API server by plain requests, until all are ready. The latter is the pods' own time. The phases
//! are the manager's own (`releaseMs`); the same watcher looks at the workloads both times.

use super::{Options, Scenario};
use crate::kubernetes::Cluster;
use crate::kubernetes::workloads::{COUNT, manifests};
use crate::{Report, Series};
use anyhow::Context;
use std::collections::BTreeMap;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kube-release",
    about: "a release of ten workloads, images present, through the manager; beside the same manifests by plain requests",
    run,
};

const ROUNDS: u32 = 7;
/// Phases of a release, in their order.
const PHASES: [&str; 5] = ["Preflight", "PrePull", "Applying", "Verifying", "Pruning"];

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("kube-release");
    report.set("rounds", rounds);
    report.set("workloads", format!("{COUNT} Deployments of one pod, waited for"));
    report.set("peer", "the same manifests, applied one after the other without a manager");
    let cluster = Cluster::up()?;
    report.set_programs(cluster.bench.programs.dir());
    let mut phases: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut plain, mut whole, mut pods) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        let label = format!("p{round}");
        let by_hand = || -> anyhow::Result<f64> {
            let took = cluster.apply_plainly(&label)?;
            cluster.remove_plainly(&label)?;
            cluster.wait_gone(&label)?;
            Ok(took.as_secs_f64() * 1e3)
        };
        let (first, managed) = match round % 2 {
            0 => (Some(by_hand()?), released(&cluster, round)?),
            _ => (None, released(&cluster, round)?),
        };
        plain.push(match first {
            Some(took) => took,
            None => by_hand()?,
        });
        for phase in PHASES {
            phases.entry(phase).or_default().push(managed.phase(phase));
        }
        whole.push(PHASES.iter().map(|phase| managed.phase(phase)).sum());
        pods.push(managed.pods);
    }
    let series = |name: &str, samples: &[f64]| Series::new(name, "ms", samples.to_vec());
    let plain = series("by plain requests: apply → all ready (the pods' own time)", &plain);
    let pods = series("in the release: first workload there → all ready", &pods);
    let beyond = |samples: &[f64], own: &Series| -> Vec<f64> {
        samples.iter().zip(&own.samples).map(|(took, own)| took - own).collect()
    };
    let applying = &phases["Applying"];
    let after: Vec<f64> =
        ["Applying", "Verifying", "Pruning"].iter().fold(vec![0.0; whole.len()], |sum, phase| {
            sum.iter().zip(&phases[phase]).map(|(sum, took)| sum + took).collect()
        });
    let results = [
        series("release: begun → in force", &whole),
        series("release: apply → in force", &after),
        series("release: apply → all conditions met", applying),
        Series::new(
            "apply → all conditions met, beyond the pods' own time",
            "ms",
            beyond(applying, &plain),
        ),
        Series::new("apply → in force, beyond the pods' own time", "ms", beyond(&after, &plain)),
        Series::new("begun → in force, beyond the pods' own time", "ms", beyond(&whole, &plain)),
        Series::new("begun → in force, beyond the same pods", "ms", beyond(&whole, &pods)),
    ];
    report.results.push(plain);
    report.results.push(pods);
    report.results.extend(results);
    let phases = PHASES.map(|phase| series(&format!("phase {phase}"), &phases[phase]));
    report.results.extend(phases);
    Ok(report)
}

/// One release through the manager.
struct Released {
    phases: BTreeMap<String, u64>,
    /// From the first workload that was seen to the last that was ready.
    pods: f64,
}

impl Released {
    fn phase(&self, name: &str) -> f64 {
        let took = self.phases.get(name).copied().unwrap_or_default();
        f64::from(u32::try_from(took).unwrap_or(u32::MAX))
    }
}

fn released(cluster: &Cluster, round: u32) -> anyhow::Result<Released> {
    let label = format!("m{round}");
    cluster.offer(&label, manifests(&label))?;
    let (phases, seen) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| cluster.watch_ready(&label));
        let phases = cluster.want(&label).and_then(|()| cluster.committed(&label));
        let seen = watching.join().ok().context("the watch on the workloads broke off")?;
        anyhow::Ok((phases?, seen?))
    })?;
    cluster.back()?;
    cluster.wait_gone(&label)?;
    Ok(Released { phases, pods: (seen.ready - seen.first).as_secs_f64() * 1e3 })
}
