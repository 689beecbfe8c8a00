//! `holdfast`: the node's command line.
//!
//! Asks the manager over its Unix socket and shows the answers, people first; `-o json` gives them
//! to programs as the manager sent them. Holds no state and decides nothing: what a command shows
//! is a pure function of the manager's answer. One file per subcommand in `commands`; the screen is
//! in `console`.
//!
//! Exit codes: 0 when the command did what was asked, 1 for a command line that cannot be
//! understood, 2 for `plan --exit-code` with changes pending, 124 for a wait that ran out without a
//! known reason, else the code of the reason (docs/reference/cli.md).

mod args;
mod commands;
mod console;
mod failure;
mod manager;
mod output;
mod token_entry;
mod units;

use args::Cli;
use clap::Parser;
use failure::Failure;
use output::Context;
use std::process::ExitCode;

/// A command line that cannot be understood.
const EXIT_USAGE: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nothing is left to be said when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    start_log(&cli.log);
    let context = Context::new(&cli);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Start { source })
        .and_then(|runtime| runtime.block_on(commands::run(&context, cli.command)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            context.complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
