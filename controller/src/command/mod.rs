//! The program's commands. `main` parses the line and calls one of these.

mod client;
mod failure;
mod kubeconfig;
mod serve;
mod token;

pub use failure::Failure;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use holdfast_api::paths::Root;
use jiff::{SignedDuration, Timestamp};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The global controller of a Holdfast fleet
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "TIME is written as 90s, 1h30m or 7d. A command that fails names \
its reason in brackets; its exit code is the reason's, or 2 when the line cannot be parsed."
)]
pub struct Arguments {
    /// Directory below which all absolute paths lie
    #[arg(long, global = true, value_name = "DIR", default_value = "/", value_hint = clap::ValueHint::DirPath)]
    pub root: PathBuf,
    /// What to log, such as `info` or `holdfast_controller=debug`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "HOLDFAST_LOG",
        default_value = "info"
    )]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API until SIGTERM or SIGINT
    Serve(serve::Arguments),
    /// Print a kubeconfig with a new operator's credential
    Kubeconfig(kubeconfig::Arguments),
    /// Registration tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Runs a command to its end.
///
/// # Errors
/// Whatever is in its way.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let root = Root::new(arguments.root);
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments, &root).await,
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments, &root),
        Command::Token(token::Command::Create(arguments)) => token::create(arguments, &root).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let name = env!("CARGO_PKG_NAME");
            clap_complete::generate(shell, &mut Arguments::command(), name, &mut script);
            say(&String::from_utf8_lossy(&script))
        }
    }
}

/// An absolute path lies below the root, a relative one where the command was called.
fn place(root: &Root, path: &Path) -> PathBuf {
    if path.is_absolute() { root.join(path) } else { path.into() }
}

/// Writes to standard output; a reader that went away (`| head`) is not a failure.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => {
            result.map_err(|source| Failure::System { attempt: "write to standard output", source })
        }
    }
}

/// A duration as people write it: `90s`, `1h30m`, `7d`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = text
        .parse::<jiff::Span>()
        .and_then(|span| span.to_duration(days))
        .map_err(|_| "must be written like 90s, 1h30m or 7d")?;
    if duration.is_positive() { Ok(duration) } else { Err("must be longer than nothing".into()) }
}

/// When something ends that is made now, to the second.
fn end(expires_in: Option<SignedDuration>) -> Result<Option<Timestamp>, Failure> {
    let Some(life) = expires_in else { return Ok(None) };
    let end = Timestamp::now().checked_add(life).and_then(|end| end.round(jiff::Unit::Second));
    end.map(Some)
        .map_err(|_| Failure::argument("--expires-in", "there is no calendar so far ahead"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--help` must leave no question open.
    #[test]
    fn every_command_and_argument_is_explained() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path}");
            for argument in command.get_arguments() {
                let named = format!("{path} {}", argument.get_id());
                assert!(
                    argument.get_help().is_some_and(|help| !help.to_string().is_empty()),
                    "{named}"
                );
                let value = argument.get_action().takes_values();
                assert!(!value || argument.get_value_names().is_some(), "{named}");
            }
            command.get_subcommands().for_each(|command| look(command, &path));
        }
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        look(&command, "");
    }

    #[test]
    fn durations_are_written_as_people_do() {
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5_400);
        assert_eq!(duration("7d").unwrap().as_hours(), 168);
        for bad in ["", "5", "-1h", "0s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
