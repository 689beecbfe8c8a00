//! `holdfast-controller`: parses the command line, starts logging, runs the command.

use clap::Parser;
use holdfast_api::Reason;
use holdfast_controller::command::{self, Arguments};
use holdfast_controller::http::ServerError;
use holdfast_controller::trust::OperatorError;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("holdfast-controller: --log: {error}");
            return ExitCode::from(Reason::ConfigInvalid.exit_code());
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command::run(arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-controller: {error:#}");
            let reason = error.chain().find_map(|e| {
                let of_server = e.downcast_ref::<ServerError>().map(ServerError::reason);
                of_server.or_else(|| e.downcast_ref::<OperatorError>().map(OperatorError::reason))
            });
            let reason = reason.unwrap_or(Reason::ConfigInvalid);
            ExitCode::from(reason.exit_code())
        }
    }
}
