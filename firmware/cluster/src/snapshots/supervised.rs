//! The manager's distribution, as snapshots need it: [`Distribution`] over [`Handle`].

use super::distribution::{Distribution, Paused, Refusal};
use crate::distribution::service::{DistributionState, Gone, Handle, Settings};
use crate::kubernetes::Api;
use crate::nodes::kube::KubeCluster;
use crate::nodes::restored::{Reboots, forget_reboots, reboots};
use crate::paths::ClusterPaths;
use futures_util::future::BoxFuture;
use holdfast_api::Reason;
use holdfast_api::kubernetes::KubernetesPhase;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// A distribution that was started so often and ended each time does not become ready.
const STARTS: u32 = 3;

/// The distribution that the manager supervises.
#[derive(Debug, Clone)]
pub struct Supervised {
    handle: Arc<Handle>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    paths: ClusterPaths,
}

impl Supervised {
    /// The one behind this handle, which was started with these settings.
    pub fn new(handle: Arc<Handle>, settings: &Settings) -> Self {
        Supervised {
            handle,
            arguments: settings.arguments.clone(),
            environment: settings.environment.clone(),
            paths: settings.paths.clone(),
        }
    }
}

impl Distribution for Supervised {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.handle.state().borrow().program);
        let own_config = words.iter().any(|word| word.starts_with("--config="));
        for (at, word) in words.iter().enumerate() {
            command.arg(word);
            // A server of another configuration, as in a drill, is not this node's.
            if at == 0 && *word == "server" && !own_config {
                command.args(&self.arguments);
            }
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    fn version(&self) -> String {
        self.handle.state().borrow().version.clone()
    }

    fn pause(&self) -> BoxFuture<'_, Result<Paused, Refusal>> {
        Box::pin(async { Ok(Box::new(self.handle.pause().await?) as Paused) })
    }

    fn wait_ready(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let mut state = self.handle.state();
            let before = state.borrow().starts;
            let seen = state.wait_for(|state| judge(state, before).is_some());
            let verdict = match tokio::time::timeout(patience, seen).await {
                Err(_) => None,
                Ok(Err(_)) => return Err(Gone.into()),
                Ok(Ok(state)) => judge(&state, before),
            };
            verdict.unwrap_or_else(|| Err(told(&state.borrow())))
        })
    }

    fn reboots(&self) -> BoxFuture<'_, Result<Reboots, Refusal>> {
        Box::pin(async move {
            let api = Api::connect(&self.paths.admin_kubeconfig())?;
            Ok(reboots(&KubeCluster::new(api)).await?)
        })
    }

    fn forget_reboots<'a>(&'a self, of_before: &'a Reboots) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let api = Api::connect(&self.paths.admin_kubeconfig())?;
            Ok(forget_reboots(&KubeCluster::new(api), of_before).await?)
        })
    }
}

/// Ready, or not to become so; none while that is open.
fn judge(state: &DistributionState, starts_before: u32) -> Option<Result<(), Refusal>> {
    match state.phase {
        KubernetesPhase::Ready => Some(Ok(())),
        KubernetesPhase::Backoff
            if state.reason == Some(Reason::KubernetesDatastoreDamaged)
                || state.starts.saturating_sub(starts_before) >= STARTS =>
        {
            Some(Err(told(state)))
        }
        KubernetesPhase::Backoff
        | KubernetesPhase::Off
        | KubernetesPhase::Preparing
        | KubernetesPhase::Starting
        | KubernetesPhase::NotReady
        | KubernetesPhase::Restoring => None,
    }
}

fn told(state: &DistributionState) -> Refusal {
    let reason = state.reason.unwrap_or(Reason::KubernetesNotReady);
    match state.message.as_str() {
        "" => reason.sentence().into(),
        message => format!("{} {message}", reason.sentence()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: KubernetesPhase, reason: Option<Reason>, starts: u32) -> DistributionState {
        DistributionState { phase, reason, starts, ..DistributionState::default() }
    }

    #[test]
    fn a_damaged_datastore_is_not_waited_for_and_a_slow_start_is() {
        use KubernetesPhase::{Backoff, Ready, Restoring, Starting};
        let damaged = Some(Reason::KubernetesDatastoreDamaged);
        assert!(matches!(judge(&state(Ready, None, 1), 0), Some(Ok(()))));
        // What was wrong before the restore is still told while the new one starts.
        assert!(judge(&state(Restoring, damaged, 1), 1).is_none());
        assert!(judge(&state(Starting, damaged, 2), 1).is_none());
        let verdict = judge(&state(Backoff, damaged, 2), 1);
        assert!(matches!(verdict, Some(Err(why)) if why.to_string().contains("damaged")));
        let exited = Some(Reason::KubernetesExited);
        assert!(judge(&state(Backoff, exited, 3), 1).is_none());
        assert!(matches!(judge(&state(Backoff, exited, 4), 1), Some(Err(_))));
    }
}
