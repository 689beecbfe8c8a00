//! `holdfast-controller`: parses the command line, starts logging, runs the command.

use clap::Parser;
use holdfast_controller::command::{self, Arguments, Failure};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holdfast-controller: {}", failure.line());
            eprintln!("  Next: {}", failure.next_step());
            ExitCode::from(failure.reason().exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| Failure::argument("--log", error.to_string()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { attempt: "start threads", source })?
        .block_on(command::run(arguments))
}
