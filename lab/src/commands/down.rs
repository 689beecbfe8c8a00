//! `lab down`.

use super::{Global, Output, need_root, print_json};
use clap::Args;
use lab::world::topology::netns_prefix;
use lab::world::{self, Home};
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Down {
    /// All worlds of this machine.
    #[arg(long)]
    all: bool,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
}

impl Down {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<()> {
        let own = global.home();
        let homes: Vec<Home> = match self.all {
            true => own.siblings().into_iter().map(|name| Home::new(&global.dir, name)).collect(),
            false => vec![own],
        };
        if self.dry_run {
            homes.iter().for_each(tell);
            return Ok(());
        }
        need_root()?;
        let mut left = 0;
        let mut reports = Vec::new();
        for home in &homes {
            let report = world::down(home)?;
            let problems: Vec<String> = report
                .problems
                .into_iter()
                .map(|problem| format!("{:#}", anyhow::Error::from(problem)))
                .collect();
            left += problems.len();
            if global.output == Output::Text {
                let name = home.world();
                match report.state || report.namespaces > 0 {
                    false => say!("there is no world {name}"),
                    true => say!(
                        "world {name} is down: {} processes ended, {} hosts removed",
                        report.processes,
                        report.namespaces
                    ),
                }
                problems.iter().for_each(|problem| eprintln!("left behind: {problem}"));
            }
            reports.push(json!({
                "world": home.world(), "processes": report.processes, "hosts": report.namespaces,
                "mounts": report.mounts, "leftBehind": problems,
            }));
        }
        if global.output == Output::Json {
            print_json(&reports)?;
        }
        anyhow::ensure!(
            left == 0,
            "{left} things could not be removed; run the command again when their reason is gone"
        );
        Ok(())
    }
}

fn tell(home: &Home) {
    let services = home.services().unwrap_or_default();
    for (name, (_, process)) in services {
        if let Some(process) = process.filter(|process| process.alive()) {
            say!("end process {} ({name})", process.pid);
        }
    }
    for host in lab::netns::with_prefix(&netns_prefix(home.world())) {
        say!("remove host {host}");
    }
    if home.exists() {
        say!("remove {}", home.dir().display());
    }
}
