//! What can be typed. What it means is in the file of each command.

use crate::commands;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Look after this Holdfast node.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Directory below which all paths of the node are found.
    #[arg(long, global = true, value_name = "DIR", default_value = "/", value_hint = clap::ValueHint::DirPath)]
    pub(crate) root: PathBuf,
    /// For people or for programs.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// What to log to standard error, such as `debug`.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_LOG",
        value_name = "FILTER",
        default_value = "warn"
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// The manager's answer as JSON.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how the node is.
    Status(commands::status::Args),
    /// Show what would be changed, and change nothing.
    Plan(commands::plan::Args),
    /// Check whether all is well; the exit code says why not.
    Health,
    /// Show the tunnels, the edges to choose from and the last failover.
    Tunnels,
    /// Look after the site's Kubernetes: state, releases, snapshots.
    #[command(subcommand)]
    Kube(commands::kube::Command),
    /// Give the node a registration token, or check one.
    #[command(subcommand)]
    Token(commands::token::Command),
    /// Explain a reason code, or list all of them.
    Reason(commands::reason::Args),
    /// Open the screen for a terminal or a serial line.
    Console,
    /// Print the completion script of a shell.
    Completion(commands::completion::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_page_names_every_command_and_option() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
        let page = std::fs::read_to_string(path).unwrap();
        let named = |text: &str| assert!(page.contains(text), "{text} is missing in {path}");
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            let name = command.get_name();
            let inner: Vec<_> = command.get_subcommands().collect();
            match inner.as_slice() {
                [] => named(&format!("## `holdfast {name}")),
                some => some
                    .iter()
                    .for_each(|inner| named(&format!("## `holdfast {name} {}", inner.get_name()))),
            }
            for command in std::iter::once(&cli).chain([command]).chain(inner) {
                command.get_arguments().filter_map(|a| a.get_long()).for_each(|long| {
                    named(&format!("--{long}"));
                });
            }
        }
    }
}
