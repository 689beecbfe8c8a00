//! `kube-memory`: what `holdfastd` takes while it brings a release onto its Kubernetes.
//!
//! The proportional set size of the process (`/proc/PID/smaps_rollup`), looked at every 50 ms. Its
//! own program's pages are part of it, so the profile matters: to measure what a box runs, put
//! `holdfastd` of the profile `release` (or a link to it) beside the other programs.

use super::{Options, Scenario, mib};
use crate::kubernetes::workloads::{COUNT, manifests};
use crate::kubernetes::{Cluster, profile_of};
use crate::{Report, Series};
use anyhow::Context;
use lab::measure::usage;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kube-memory",
    about: "memory (PSS) of holdfastd with Kubernetes: at rest, and the most while a release of ten workloads is applied",
    run,
};

const ROUNDS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the manager does after a release has ended by then.
const SETTLE: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(5);

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("kube-memory");
    report.set("rounds", rounds);
    report.set("workloads", COUNT);
    let cluster = Cluster::up()?;
    report.set_programs(cluster.bench.programs.dir());
    report.set("holdfastd built", profile_of(&cluster.bench.programs.path("holdfastd")));
    let pid = cluster.manager()?.pid;
    let (mut rest, mut most, mut threads) = (Vec::new(), Vec::new(), 0);
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        std::thread::sleep(SETTLE);
        rest.push(most_during(pid, || {
            std::thread::sleep(REST);
            Ok(())
        })?);
        let label = format!("m{round}");
        cluster.offer(&label, manifests(&label))?;
        most.push(most_during(pid, || {
            cluster.want(&label)?;
            cluster.committed(&label).map(|_| ())
        })?);
        threads = threads.max(usage(pid)?.threads);
        cluster.back()?;
        cluster.wait_gone(&label)?;
    }
    report.set("threads of holdfastd", threads);
    report.results.push(Series::new("PSS of holdfastd at rest, the most of 5 s", "MiB", rest));
    report.results.push(Series::new(
        "PSS of holdfastd, the most while a release is applied",
        "MiB",
        most,
    ));
    Ok(report)
}

/// The most that was seen while `work` was done, in MiB.
fn most_during(pid: i32, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| -> anyhow::Result<u64> {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(usage(pid)?.pss_bytes);
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(most)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let most = looking.join().ok().context("the look at the memory broke off")??;
        worked?;
        Ok(mib(most))
    })
}
