//! `lab status`.

use super::{Global, Output, print_json, table};
use holdfast_api::tunnel::BfdState;
use lab::emulator::Cut;
use lab::status::{self, WorldStatus};
use lab::world::{Host, World};

pub(super) fn run(global: &Global) -> anyhow::Result<()> {
    let world = global.open()?;
    match global.output {
        Output::Json => print_json(&status::observe(&world)?),
        Output::Text => print(&world),
    }
}

/// Prints tables of who is where and how it goes.
pub(super) fn print(world: &World) -> anyhow::Result<()> {
    let status = status::observe(world)?;
    if !status.complete {
        say!(
            "World {} is not complete: it is being brought up, or that was stopped.\n",
            status.world
        );
    }
    if !status.stages.is_empty() {
        let stages = status
            .stages
            .iter()
            .map(|stage| vec![stage.stage.clone(), format!("{} ms", stage.took_ms)]);
        say!("{}\n", table::render(&["STAGE", "TOOK"], &stages.collect::<Vec<_>>()));
    }
    say!(
        "{}\n",
        table::render(
            &["PROCESS", "HOST", "ADDRESS", "PID", "STATE", "MEMORY", "CPU"],
            &processes(&status)
        )
    );
    say!(
        "{}\n",
        table::render(
            &["NODE", "STAGE", "PROFILE", "TUNNEL", "STATE", "TRAFFIC", "RTT", "RECEIVED", "SENT"],
            &tunnels(&status)
        )
    );
    let clusters = clusters(&status);
    if !clusters.is_empty() {
        say!(
            "{}\n",
            table::render(
                &["NODE", "KUBERNETES", "VERSION", "RELEASE", "STATE", "PODS"],
                &clusters
            )
        );
    }
    match &status.links {
        Some(links) => say!(
            "{}",
            table::render(&["LINK", "DELAY", "STATE", "PASSED", "DROPPED"], &rows(links))
        ),
        None => say!("No link passes anything: the link emulator does not answer."),
    }
    for node in status.nodes.iter().filter(|node| !node.message.is_empty()) {
        let code = node.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        say!("\n{}: {}{code}", node.name, node.message);
    }
    if !status.not_running.is_empty() {
        let option = world.home().world().option();
        say!(
            "\nNot running: {}. `cargo lab{option} heal` lets everything run again.",
            status.not_running.join(", ")
        );
    }
    Ok(())
}

fn processes(status: &WorldStatus) -> Vec<Vec<String>> {
    let row = |process: &status::ProcessState| {
        let host = process.host.clone().unwrap_or_else(|| "(this machine)".into());
        let address = host.parse::<Host>().ok().and_then(Host::address);
        vec![
            process.name.clone(),
            host,
            address.map(|address| address.to_string()).unwrap_or_default(),
            process.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            process.state.into(),
            process.usage.map(|usage| table::bytes(usage.pss_bytes)).unwrap_or_default(),
            process.cpu_share.map(|share| format!("{:.2} %", share * 100.0)).unwrap_or_default(),
        ]
    };
    status.processes.iter().map(row).collect()
}

fn tunnels(status: &WorldStatus) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for node in &status.nodes {
        let stage = node.stage.map_or_else(|| "?".into(), |stage| format!("{stage:?}"));
        let head = vec![node.name.clone(), stage, node.profile.clone()];
        let Some(tunnels) = node.tunnels.as_ref().filter(|tunnels| !tunnels.tunnels.is_empty())
        else {
            rows.push([head, vec!["(none)".into()]].concat());
            continue;
        };
        for tunnel in &tunnels.tunnels {
            let state = match tunnel.state {
                BfdState::Up => "up",
                BfdState::Init => "init",
                BfdState::Down => "down",
                BfdState::AdminDown => "admin down",
            };
            let cells = vec![
                tunnel.edge.clone(),
                state.into(),
                if tunnel.active { "active".into() } else { String::new() },
                tunnel.rtt_us.map(table::millis).unwrap_or_default(),
                table::bytes(tunnel.rx_bytes),
                table::bytes(tunnel.tx_bytes),
            ];
            rows.push([head.clone(), cells].concat());
        }
    }
    rows
}

fn clusters(status: &WorldStatus) -> Vec<Vec<String>> {
    let row = |node: &status::NodeState| {
        let state = node.kubernetes.as_ref()?;
        let (release, pods) = (&state.release, &state.pods);
        Some(vec![
            node.name.clone(),
            format!("{:?}", state.phase),
            state.version.clone(),
            format!("{} {}", release.wanted.name, release.wanted.version).trim().into(),
            format!("{:?}", release.phase),
            format!("{} run, {} to come, {} failed", pods.deployed, pods.in_progress, pods.failed),
        ])
    };
    status.nodes.iter().filter_map(row).collect()
}

fn rows(links: &[status::LinkSummary]) -> Vec<Vec<String>> {
    let row = |link: &status::LinkSummary| {
        let mut state = match link.cut {
            Cut::None => String::from("whole"),
            Cut::Both => "CUT".into(),
            Cut::AToB => "CUT outwards".into(),
            Cut::BToA => "CUT inwards".into(),
        };
        if link.loss > 0.0 {
            state += &format!(", loses {:.1} %", link.loss * 100.0);
        }
        if link.rate_bits > 0 {
            state += &format!(", {:.1} Mbit/s", link.rate_bits as f64 / 1e6);
        }
        vec![
            link.name.clone(),
            table::millis(link.delay_us),
            state,
            table::bytes(link.passed_bytes),
            link.dropped.to_string(),
        ]
    };
    links.iter().map(row).collect()
}
