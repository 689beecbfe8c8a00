//! What snapshots need of the distribution. The manager has it; tests have their own.

use crate::nodes::restored::Reboots;
use futures_util::future::BoxFuture;
use std::any::Any;
use std::error::Error;
use std::time::Duration;
use tokio::process::Command;

/// As long as it lives the distribution stays stopped; when it is dropped it may start again.
pub type Paused = Box<dyn Any + Send>;

/// Why the distribution does not do as it was asked, in its own words.
pub type Refusal = Box<dyn Error + Send + Sync>;

/// The distribution on this node, a server.
pub trait Distribution: Send + Sync + 'static {
    /// Its program with these words, in the environment in which it runs here. The caller sets
    /// input and output.
    fn command(&self, words: &[&str]) -> Command;

    /// Its version, such as `v1.33.1+k3s1`.
    fn version(&self) -> String;

    /// Stops it and keeps it stopped. Done when no process of it holds the datastore any more.
    fn pause(&self) -> BoxFuture<'_, Result<Paused, Refusal>>;

    /// Waits until the API server is ready, at most `patience`. Fails sooner when it cannot
    /// become ready.
    fn wait_ready(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Reboots that the datastore tells of, by locks and by Nodes that we cordoned. The API server
    /// is ready.
    fn reboots(&self) -> BoxFuture<'_, Result<Reboots, Refusal>>;

    /// After a restore: a snapshot that was taken while a node was down says so still. Nobody
    /// holds these reboot locks any more, and these Nodes take pods, unless somebody wrote a lock
    /// since. The API server is ready.
    fn forget_reboots<'a>(&'a self, of_before: &'a Reboots) -> BoxFuture<'a, Result<(), Refusal>>;
}
