//! `kube-data-plane`: how long a data plane that is a pod is interrupted by its own update.
//!
//! The pod of a DaemonSet is the way to the registry from which its own next version comes: it
//! listens on loopback, where its images are named, and carries the bytes to the registry behind
//! the edges. In turns: the pod is deleted and made again by its DaemonSet; and a release with its
//! next version is brought by the manager. The registry is asked over the way all the time; the
//! longest time without an answer counts.

use super::{Options, Scenario};
use crate::kubernetes::way::{Probe, WAY, manifests};
use crate::kubernetes::{Cluster, NODE};
use crate::{Report, Series};
use holdfast_lab_kubernetes::node::REGISTRY;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kube-data-plane",
    about: "a pod that is the way to its own images: interruption by its update; beside the pod's plain restart",
    run,
};

const ROUNDS: u32 = 7;
/// Answers before the pod goes and after it is back are part of what is looked at.
const AROUND: Duration = Duration::from_secs(1);

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("kube-data-plane");
    report.set("rounds", rounds);
    report.set("peer", "the pod deleted, and made again by its DaemonSet");
    let cluster = Cluster::up()?;
    report.set_programs(cluster.bench.programs.dir());
    // The first version comes by the site's mirror: there is no way yet.
    update(&cluster, REGISTRY, 0)?;
    let probe = Probe::start(cluster.bench.world.netns(NODE))?;
    let interruption = |work: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<Duration> {
        std::thread::sleep(AROUND);
        let since = Instant::now();
        work()?;
        std::thread::sleep(AROUND);
        probe.longest_gap(since)
    };
    let (mut restarts, mut updates) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        let restart = || interruption(&|| cluster.restart_way());
        let update = || interruption(&|| update(&cluster, WAY, round));
        if round % 2 == 0 {
            updates.push(update()?);
            restarts.push(restart()?);
        } else {
            restarts.push(restart()?);
            updates.push(update()?);
        }
    }
    let warnings = cluster.warnings_of_way()?;
    if !warnings.is_empty() {
        report.set("kubernetes warned", warnings.join("; "));
    }
    let restarts = Series::millis("the pod's plain restart: no way for", &restarts);
    let updates = Series::millis("its update by a release: no way for", &updates);
    let ratio = updates.median / restarts.median;
    report.results.extend([restarts, updates]);
    report.results.push(Series::new("ratio of medians", "ratio", vec![ratio]));
    Ok(report)
}

fn update(cluster: &Cluster, registry: &str, version: u32) -> anyhow::Result<()> {
    let name = format!("way{version}");
    cluster.publish_way(version)?;
    cluster.offer(&name, manifests(registry, version))?;
    cluster.want(&name)?;
    cluster.committed(&name).map(|_| ())
}
