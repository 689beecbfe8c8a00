//! The manager's program: arguments, logging, wiring, waiting.

use anyhow::Context;
use clap::Parser;
use holdfast_api::paths::Root;
use std::io::IsTerminal;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// The manager of a Holdfast node: brings the machine to what its profile and the controller ask
/// for, and keeps it there.
#[derive(Parser)]
#[command(name = "holdfastd", version)]
struct Arguments {
    /// Directory below which all files are found.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// What to log, such as `info` or `holdfastd=debug`.
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info")]
    log: String,
}

// One thread: the manager waits nearly always, and threads cost memory on small boxes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    holdfastd::run(Root::new(arguments.root)).await
}
