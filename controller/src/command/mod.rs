//! The program's commands. `main` parses the line and calls one of these.

mod client;
mod kubeconfig;
mod serve;
mod token;

use clap::{Parser, Subcommand};
use holdfast_api::paths::Root;
use std::path::{Path, PathBuf};

/// The global controller of a Holdfast fleet.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// Directory below which all paths lie.
    #[arg(long, global = true, default_value = "/")]
    pub root: PathBuf,
    /// What to log, such as `info` or `holdfast_controller=debug`.
    #[arg(long, global = true, env = "HOLDFAST_LOG", default_value = "info")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API.
    Serve(serve::Arguments),
    /// Print a kubeconfig with a new operator's credential.
    Kubeconfig(kubeconfig::Arguments),
    /// Registration tokens.
    #[command(subcommand)]
    Token(token::Command),
}

/// Runs a command to its end.
///
/// # Errors
/// Whatever is in its way, as a person should read it.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let root = Root::new(arguments.root);
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments, &root).await,
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments, &root),
        Command::Token(token::Command::Create(arguments)) => token::create(arguments, &root).await,
    }
}

/// An absolute path lies below the root, a relative one where the command was called.
fn place(root: &Root, path: &Path) -> PathBuf {
    if path.is_absolute() { root.join(path) } else { path.into() }
}

/// A duration as people write it: `90s`, `1h30m`, `7d`.
fn duration(text: &str) -> Result<jiff::SignedDuration, String> {
    let span: jiff::Span = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|error| error.to_string())?;
    if duration.is_positive() { Ok(duration) } else { Err("must be longer than nothing".into()) }
}
