//! The task that keeps the distribution as it is wanted, and the handle to it.

use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesRole};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;

/// What the distribution does, for `KubernetesState`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DistributionState {
    /// Where it is in its life.
    pub phase: KubernetesPhase,
    /// How the node takes part.
    pub role: KubernetesRole,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// In detail, for people.
    pub message: String,
    /// Version of the program that runs; empty while none is known.
    pub version: String,
    /// From start to ready, last time; none while it was never ready.
    pub ready_after: Option<Duration>,
    /// Times that it was started since this task was.
    pub starts: u32,
    /// Its process.
    pub pid: Option<u32>,
}

/// Says whether the node is ready. The manager implements it over the API server.
pub trait Probe: Send + Sync + 'static {
    /// Ready, or why not. It is asked about every second and may take up to five.
    fn ready(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// The handle. Dropping it ends the task and leaves the distribution running, as the death of
/// the manager does.
#[derive(Debug)]
pub struct Handle {
    state: watch::Receiver<DistributionState>,
}

impl Handle {
    /// What it does, and each change of that.
    pub fn state(&self) -> watch::Receiver<DistributionState> {
        self.state.clone()
    }
}
