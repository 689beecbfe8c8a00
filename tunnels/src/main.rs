//! `tunneld`: holds a node's encrypted uplinks; see [`tunnels::daemon`].

use clap::Parser;
use holdfast_api::paths::Root;
use std::path::PathBuf;
use std::process::ExitCode;

/// Holds the encrypted uplinks of a Holdfast node.
#[derive(Debug, Parser)]
#[command(name = "tunneld", version)]
struct Arguments {
    /// Below which all paths are found.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The configuration to follow, instead of run/holdfast/tunnels.json.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log, such as "info" or "tunnels=debug".
    #[arg(long, value_name = "FILTER", env = "HOLDFAST_LOG", default_value = "info", value_parser = tunnels::program::filter)]
    log: String,
}

fn main() -> ExitCode {
    tunnels::program::exit_code(start(Arguments::parse()))
}

fn start(arguments: Arguments) -> anyhow::Result<ExitCode> {
    tunnels::program::log(&arguments.log)?;
    let runtime = tunnels::program::runtime()?;
    let options =
        tunnels::daemon::Options { root: Root::new(arguments.root), config: arguments.config };
    runtime.block_on(tunnels::daemon::run(options))?;
    Ok(ExitCode::SUCCESS)
}
