//! `bench-dataplane`: runs one scenario and prints what it found.

use anyhow::Context;
use bench_dataplane::scenario::{self, Options};
use bench_dataplane::{plot, table};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// Runs a scenario.
    Run {
        /// Name of the scenario, see `list`.
        scenario: String,
        /// Rounds; each scenario has a default of its own.
        #[arg(long)]
        rounds: Option<u32>,
        /// How to print the result.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Directory for SVG plots.
        #[arg(long)]
        plots: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::List => {
            for scenario in scenario::ALL {
                println!("{:12} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        Command::Run { scenario, rounds, output, plots } => {
            let found = scenario::find(&scenario)
                .with_context(|| format!("no scenario {scenario}; `list` shows them"))?;
            let report = (found.run)(&Options { rounds, progress: |line| eprintln!("{line}") })?;
            match output {
                Output::Table => print!("{}", table::render(&report)),
                Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
            }
            for path in plots.map(|dir| plot::write(&report, &dir)).transpose()?.unwrap_or_default()
            {
                eprintln!("{}", path.display());
            }
            Ok(())
        }
    }
}
