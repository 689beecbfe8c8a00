//! `lab`: worlds of Holdfast on this machine. Run it as `cargo lab`.

mod commands;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    commands::run(arguments)
}
