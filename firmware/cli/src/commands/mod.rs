//! The subcommands, one file each: `run` asks and decides the exit code, `render` is pure.

pub(crate) mod completion;
pub(crate) mod health;
pub(crate) mod kube;
pub(crate) mod plan;
pub(crate) mod reason;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod tunnels;
mod wait;

#[cfg(test)]
mod tests;

use crate::args::Command;
use crate::console;
use crate::failure::Failure;
use crate::output::Context;

/// Carries out a command and returns the exit code.
pub(crate) async fn run(context: &Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Status(args) => status::run(context, &args).await,
        Command::Plan(args) => plan::run(context, &args).await,
        Command::Health => health::run(context).await,
        Command::Tunnels => tunnels::run(context).await,
        Command::Kube(command) => kube::run(context, command).await,
        Command::Token(command) => token::run(context, command).await,
        Command::Reason(args) => reason::run(context, &args),
        Command::Console => console::run(context).await,
        Command::Completion(args) => completion::run(&args),
    }
}
