//! `holdfast kube …`: the site's Kubernetes as this node sees it. One file per subcommand; what
//! several of them say, and what `holdfast status` and the console say, is in `words`.

mod identity;
mod releases;
mod restore;
mod snapshots;
mod status;
mod stop;
pub(crate) mod words;

#[cfg(test)]
mod tests;

pub(crate) use identity::IdentityError;
pub(crate) use status::section;

use super::wait::{Wait, parse_span};
use crate::failure::Failure;
use crate::manager::Manager;
use crate::output::Context;
use std::time::Duration;

/// Where the state is asked for.
const STATE: &str = "/v1/kubernetes";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show how Kubernetes is: parts, conditions, pods, release, snapshots.
    Status(status::Args),
    /// Show the release that is wanted, the one in force, and those that failed.
    Releases,
    /// List the snapshots of the datastore, and what the last drill said.
    Snapshots(snapshots::Args),
    /// Take a snapshot of the datastore now.
    Snapshot(Waiting),
    /// Restore the newest snapshot into a datastore that is thrown away.
    Drill(Waiting),
    /// Put the datastore back to a snapshot.
    Restore(restore::Args),
    /// Stop Kubernetes on this node, until it is started by hand.
    Stop,
    /// Start it again.
    Start(stop::Args),
}

/// Whether to wait for the end of what was begun.
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// Wait until it is done, and fail when it fails.
    #[arg(long)]
    wait: bool,
    /// How long to wait: `90`, `90s`, `5m` or `1h`.
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "10m", requires = "wait")]
    timeout: Duration,
}

impl Waiting {
    fn on<'a>(&self, manager: &'a Manager) -> Wait<'a> {
        Wait { manager, path: STATE, timeout: self.timeout, patient: &[] }
    }
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Status(args) => status::run(context, &args).await,
        Command::Releases => releases::run(context).await,
        Command::Snapshots(args) => snapshots::run(context, &args).await,
        Command::Snapshot(waiting) => snapshots::take(context, &waiting).await,
        Command::Drill(waiting) => snapshots::drill(context, &waiting).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Stop => stop::stop(context).await,
        Command::Start(args) => stop::start(context, &args).await,
    }
}
