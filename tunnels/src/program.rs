//! What the programs of this crate begin with.

use anyhow::Context;
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Logs to standard error what `filter` says, in colours only to a terminal that may have them
/// (no-color.org).
///
/// # Errors
/// The filter makes no sense.
pub fn log(filter: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter).context("--log")?)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// Takes `text` when [`log`] does: for an option of clap, which says otherwise what is wrong with it.
///
/// # Errors
/// The filter makes no sense.
pub fn filter(text: &str) -> Result<String, ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}

/// How a program ends: an error is one line on standard error, with all its causes.
pub fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", holdfast_api::chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// A runtime of one thread, for everything beside packets.
///
/// # Errors
/// The kernel does not give what it needs.
pub fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}
