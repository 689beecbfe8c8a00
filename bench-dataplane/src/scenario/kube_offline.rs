//! `kube-offline`: a site that is away when a release is made.
//!
//! The link of a node is cut both ways; meanwhile a release is made on the controller and the site is
//! asked to run it. The cut lasts long enough for every connection to have failed and for pauses
//! between attempts to have grown. Then the link is whole again: the time until the manager names
//! the release, has begun it, and has it in force, in seconds and in polls.

use super::{Options, Scenario};
use crate::kubernetes::Cluster;
use crate::kubernetes::workloads::manifests;
use crate::{Report, Series};
use anyhow::Context;
use holdfast_api::kubernetes::ReleasePhase;
use lab::emulator::Cut;
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kube-offline",
    about: "a release made while the site is cut off: the link's return until it is fetched, and in force, in seconds and polls",
    run,
};

const ROUNDS: u32 = 5;
/// The client's pauses have grown to their longest by then.
const AWAY: Duration = Duration::from_secs(120);
/// A manager's poll when its settings do not say (`poll_secs`).
const POLL: Duration = Duration::from_secs(300);
const LINK: &str = "node-1";

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("kube-offline");
    report.set("rounds", rounds);
    report.set("seconds cut off", AWAY.as_secs());
    report.set("seconds between polls", POLL.as_secs());
    let cluster = Cluster::up()?;
    report.set_programs(cluster.bench.programs.dir());
    let mut links = cluster.bench.world.links().context("links")?;
    let (mut fetched, mut applied) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        (options.progress)(&format!("round {round} of {rounds}"));
        let label = format!("m{round}");
        links.cut(LINK, Cut::Both).context("cut")?;
        let away = Instant::now();
        cluster.offer(&label, manifests(&label))?;
        cluster.want(&label)?;
        std::thread::sleep(AWAY.saturating_sub(away.elapsed()));
        let known = cluster.state()?.release.wanted.name;
        anyhow::ensure!(known != label, "the release came through a link that was cut");
        links.heal(Some(LINK)).context("heal")?;
        let back = Instant::now();
        cluster.wait("the release fetched", |state| {
            let begun = state.release.phase > ReleasePhase::Waiting;
            Ok((begun && state.release.wanted.name == label).then_some(()))
        })?;
        fetched.push(back.elapsed());
        cluster.committed(&label)?;
        applied.push(back.elapsed());
        cluster.back()?;
        cluster.wait_gone(&label)?;
    }
    for (name, times) in [("fetched", &fetched), ("in force", &applied)] {
        let polls = times.iter().map(|time| time.as_secs_f64() / POLL.as_secs_f64()).collect();
        report.results.push(Series::millis(format!("link whole again → release {name}"), times));
        let name = format!("link whole again → release {name}, in polls");
        report.results.push(Series::new(name, "polls", polls));
    }
    Ok(report)
}
