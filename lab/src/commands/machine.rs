//! `lab machine`: tests on a kernel of their own.

use super::{Global, Output, print_json};
use clap::{Args, Subcommand};
use lab::machine::{self, Options, Report};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Machine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot Debian's kernel in an emulated machine and run the tests there that need more of a
    /// kernel than this machine may have. Slow, and needs no root.
    Test {
        /// Only tests with this in their name, such as `netd::kernel` or `wireguard`.
        filter: Option<String>,
        /// Give up after this time.
        #[arg(long, default_value_t = machine::LIMIT.as_secs(), value_name = "SECONDS")]
        limit: u64,
    },
}

impl Machine {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let Command::Test { filter, limit } = self.command;
        let options = Options { filter, limit: Duration::from_secs(limit) };
        let report = match machine::run_tests(&options, &mut |line| eprintln!("machine: {line}")) {
            Ok(report) => report,
            Err(error) if error.skips() => {
                let reason = anyhow::Error::from(error);
                eprintln!("skipped: {reason:#}");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        };
        match global.output {
            Output::Json => print_json(&report)?,
            Output::Text => print(&report),
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

pub(super) fn print(report: &Report) {
    for failed in report.failed() {
        println!("\n---- {} ----\n{}", failed.test, failed.output.trim_end());
    }
    println!("\n{report}");
}
