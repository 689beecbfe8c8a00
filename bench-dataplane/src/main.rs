//! `bench-dataplane`: runs one scenario and prints what it found.
//!
//! Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrongly typed.

use bench_dataplane::scenario::{self, Options, Scenario};
use bench_dataplane::{plot, table};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
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
    /// Runs a scenario.
    Run {
        /// Name of the scenario, see `list`.
        #[arg(value_parser = scenario_of)]
        scenario: &'static Scenario,
        /// Rounds, 1 and more; each scenario has a default of its own.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
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

fn scenario_of(name: &str) -> Result<&'static Scenario, String> {
    let known: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    scenario::find(name).ok_or_else(|| format!("there are {}", known.join(", ")))
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
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
            for scenario in scenario::ALL {
                println!("{:12} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        Command::Run { scenario, rounds, output, plots } => {
            let report = (scenario.run)(&Options { rounds, progress: |line| eprintln!("{line}") })?;
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
    }
}
