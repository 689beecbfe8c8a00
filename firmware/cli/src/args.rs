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
