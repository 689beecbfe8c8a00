//! `bench-dataplane`: runs scenarios and prints what they found.
//!
//! Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrongly typed; 130 and 143
//! asked to end, by SIGINT and SIGTERM.

use anyhow::Context;
use bench_dataplane::scenario::{self, Options, Scenario};
use bench_dataplane::{Report, plot, table};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures the data plane on this machine, beside a peer, in namespaces of its own. Needs root.
#[derive(Parser)]
#[command(name = "bench-dataplane", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the scenarios.
    List,
    /// Gets the WireGuard programs that ours is compared with into the cache: wireguard-go from the
    /// distribution, boringtun and gotatun by cargo.
    Peers,
    /// Prints the page about performance that a file with reports makes: JSON, one or a list.
    Page {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        reports: Vec<PathBuf>,
        /// Markdown to put after the goals: why one falls short, with the profile that shows it.
        #[arg(long, value_name = "FILE", conflicts_with = "join")]
        notes: Option<PathBuf>,
        /// Print the reports as one list of JSON instead, for the next page.
        #[arg(long)]
        join: bool,
    },
    /// Runs the scenario `soak`; exit code 1 when it finds a fault.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
        #[command(flatten)]
        print: Print,
    },
    /// Runs scenarios, one after the other.
    Run {
        /// Names of scenarios, see `list`; with --quick those of a tunnel when none is named.
        #[arg(value_parser = scenario_of, required_unless_present = "quick", value_name = "SCENARIO")]
        scenarios: Vec<&'static Scenario>,
        /// Rounds, 1 and more; each scenario has a default of its own.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// Few and short turns, beside wireguard-go only: less than two minutes for all of a
        /// tunnel on a quiet machine.
        #[arg(long, conflicts_with = "all_peers")]
        quick: bool,
        /// Beside all peers that are here, also where wireguard-go alone is the default.
        #[arg(long)]
        all_peers: bool,
        #[command(flatten)]
        print: Print,
    },
}

/// What becomes of the results.
#[derive(clap::Args)]
struct Print {
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Directory for SVG plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn scenario_of(name: &str) -> Result<&'static Scenario, String> {
    let known: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    scenario::find(name).ok_or_else(|| format!("there are {}", known.join(", ")))
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = bench_dataplane::clean_up_on_signals().and_then(|()| run(command));
    bench_dataplane::wait_for_clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List => {
            let lines = scenario::ALL.iter();
            say(&lines.map(|one| format!("{:16} {}\n", one.name, one.about)).collect::<String>())
        }
        Command::Peers => bench_dataplane::install_peers(|line| eprintln!("{line}")),
        Command::Page { reports, notes, join } => page(&reports, notes.as_deref(), join),
        Command::Soak { minutes, print } => {
            let soak: Vec<&Scenario> = scenario::find("soak").into_iter().collect();
            let minutes = Some(minutes);
            let options =
                Options { rounds: None, quick: false, all_peers: false, minutes, progress };
            measure(&soak, &options, &print)
        }
        Command::Run { scenarios, rounds, quick, all_peers, print } => {
            let all = if scenarios.is_empty() { scenario::of_a_tunnel() } else { scenarios };
            let options = Options { rounds, quick, all_peers, minutes: None, progress };
            measure(&all, &options, &print)
        }
    }
}

fn progress(line: &str) {
    eprintln!("{line}");
}

/// Runs scenarios and prints what they found, also what was found before one of them failed.
fn measure(scenarios: &[&Scenario], options: &Options, print: &Print) -> anyhow::Result<()> {
    if let Some(dir) = &print.plots {
        // Not after all has been measured.
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut reports = Vec::new();
    let mut outcome = Ok(());
    for scenario in scenarios {
        progress(&format!("== {}", scenario.name));
        let report = match (scenario.run)(options).context(scenario.name) {
            Ok(report) => report,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        };
        if matches!(print.output, Output::Table) {
            say(&format!("{}\n", table::render(&report)))?;
        }
        if let Some(dir) = &print.plots {
            let plots = plot::write(&report, dir)?;
            plots.iter().for_each(|path| progress(&path.display().to_string()));
            if plots.is_empty() {
                progress("nothing to plot: each series has one sample");
            }
        }
        reports.push(report);
    }
    if let Output::Json = print.output {
        match reports.as_slice() {
            [] => {}
            [one] if scenarios.len() == 1 => say(&(serde_json::to_string_pretty(one)? + "\n"))?,
            many => say(&(serde_json::to_string_pretty(many)? + "\n"))?,
        }
    }
    outcome?;
    let faults: Vec<&str> =
        reports.iter().flat_map(|report| &report.faults).map(String::as_str).collect();
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn page(paths: &[PathBuf], notes: Option<&Path>, join: bool) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for path in paths {
        let text = read(path)?;
        let file =
            Report::parse(&text).with_context(|| format!("{} holds no reports", path.display()))?;
        reports.extend(file);
    }
    match join {
        true => say(&(serde_json::to_string_pretty(&reports)? + "\n")),
        false => {
            let notes = notes.map(read).transpose()?.unwrap_or_default();
            say(&bench_dataplane::page::render(&reports, &notes))
        }
    }
}

/// Prints; whoever stops to read has read enough.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn refused(line: &str) -> (ErrorKind, String) {
        let Err(error) = Arguments::try_parse_from(line.split(' ')) else {
            panic!("{line} is taken")
        };
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_is_made() {
        Arguments::command().debug_assert();
        let (kind, text) = refused("bench-dataplane run nonsense");
        assert_eq!(kind, ErrorKind::ValueValidation);
        assert!(scenario::ALL.iter().all(|known| text.contains(known.name)), "{text}");
        let (kind, text) = refused("bench-dataplane run failover --rounds 0");
        assert_eq!(kind, ErrorKind::ValueValidation);
        assert!(text.contains("--rounds"), "{text}");
        assert_eq!(refused("bench-dataplane run").0, ErrorKind::MissingRequiredArgument);
        let (kind, _) = refused("bench-dataplane run tcp --quick --all-peers");
        assert_eq!(kind, ErrorKind::ArgumentConflict);
    }

    #[test]
    fn several_can_be_run_and_quickly_all_of_a_tunnel() {
        let named = |line: &str| match Arguments::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run { scenarios, quick, .. } => (scenarios.len(), quick),
            _ => panic!("{line} runs nothing"),
        };
        assert_eq!(named("bench-dataplane run tcp udp"), (2, false));
        assert_eq!(named("bench-dataplane run --quick"), (0, true));
        assert_eq!(named("bench-dataplane run tcp --quick"), (1, true));
    }
}
