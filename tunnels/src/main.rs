//! `tunneld`: holds a node's encrypted uplinks; see [`tunnels::daemon`].

use anyhow::Context;
use clap::Parser;
use holdfast_api::paths::Root;
use std::io::IsTerminal;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// Holds the encrypted uplinks of a Holdfast node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Below which all paths are found.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The configuration to follow, instead of run/holdfast/tunnels.json.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log, such as "info" or "tunnels=debug".
    #[arg(long, value_name = "FILTER", env = "HOLDFAST_LOG", default_value = "info")]
    log: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // boringtun reports ordinary events of the protocol as errors; ours say what matters.
    let filter = format!("boringtun=off,{}", arguments.log);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter).context("--log")?)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let options =
        tunnels::daemon::Options { root: Root::new(arguments.root), config: arguments.config };
    runtime.block_on(tunnels::daemon::run(options))
}
