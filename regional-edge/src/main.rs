//! `regional-edge`: parses arguments, starts logging, runs the edge, waits for the end.

use anyhow::Context;
use clap::Parser;
use holdfast_api::paths::Root;
use regional_edge::settings::Settings;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// A point of presence: ends the tunnels of sites.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory below which all files are found.
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// What to log, such as `info` or `regional_edge=debug`.
    #[arg(long, default_value = "info", env = "HOLDFAST_LOG", value_name = "FILTER")]
    log: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&arguments.log))
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    let root = Root::new(arguments.root);
    let settings = match Settings::load(&root) {
        Ok(settings) => settings,
        Err(error) => {
            let reason = error.reason();
            tracing::error!(%reason, error = holdfast_api::chain(&error), next = reason.next_step(), "settings");
            return ExitCode::from(reason.exit_code());
        }
    };
    match start(root, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "regional-edge ends");
            ExitCode::FAILURE
        }
    }
}

fn start(root: Root, settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
        tokio::select! {
            result = regional_edge::edge::run(root, settings) => result,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}
