//! What these modules need of Kubernetes, as a trait: so that the ways in which they can be
//! interrupted are tested on a cluster that remembers.

use super::drain::Evicted;
use super::lease::Record;
use super::model::{BudgetView, NodeView, PodRef, PodView};
use holdfast_api::Reason;
use std::error::Error;
use std::future::Future;

/// Why something could not be done in the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Somebody changed the object since it was read.
    #[error("{object} was changed by somebody else")]
    Conflict {
        /// The object.
        object: String,
    },
    /// The API server does not answer, or refuses.
    #[error("cannot {attempt} {object}")]
    Failed {
        /// What was tried.
        attempt: &'static str,
        /// The object.
        object: String,
        /// The reason code.
        reason: Reason,
        /// Trying again can help.
        retryable: bool,
        /// The API server's answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ClusterError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            ClusterError::Conflict { .. } => Reason::KubernetesApiUnavailable,
            ClusterError::Failed { reason, .. } => *reason,
        }
    }

    /// The cluster answered that nobody may write this, as opposed to not answering.
    pub fn is_refused(&self) -> bool {
        self.reason() == Reason::KubernetesAdmissionRefused
    }

    /// Trying again can help.
    pub fn retryable(&self) -> bool {
        match self {
            ClusterError::Conflict { .. } => true,
            ClusterError::Failed { retryable, .. } => *retryable,
        }
    }
}

/// A Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name in `holdfast-system`.
    pub name: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// What it says.
    pub record: Record,
}

/// Result of a request to the cluster.
pub type Answer<T> = Result<T, ClusterError>;

/// A cluster. Leases are those of the namespace `holdfast-system`.
pub trait Cluster: Send + Sync + 'static {
    /// A Lease.
    fn lease(&self, name: &str) -> impl Future<Output = Answer<Option<Lease>>> + Send;

    /// All Leases.
    fn leases(&self) -> impl Future<Output = Answer<Vec<Lease>>> + Send;

    /// Writes a Lease over `read`, or makes it when there was none, and the namespace with it.
    /// [`ClusterError::Conflict`] when it is not as it was read.
    fn write_lease(
        &self,
        name: &str,
        record: &Record,
        read: Option<&Lease>,
    ) -> impl Future<Output = Answer<()>> + Send;

    /// All Nodes.
    fn nodes(&self) -> impl Future<Output = Answer<Vec<NodeView>>> + Send;

    /// The pods on a node.
    fn pods_on(&self, node: &str) -> impl Future<Output = Answer<Vec<PodView>>> + Send;

    /// All disruption budgets.
    fn budgets(&self) -> impl Future<Output = Answer<Vec<BudgetView>>> + Send;

    /// Cordons a node and marks that as ours, or takes both away. A node that is gone is fine.
    fn cordon(&self, node: &str, on: bool) -> impl Future<Output = Answer<()>> + Send;

    /// Evicts a pod.
    fn evict(&self, pod: &PodRef) -> impl Future<Output = Answer<Evicted>> + Send;

    /// Deletes a pod at once, without waiting for its kubelet. One that is gone is fine.
    fn delete_pod(&self, pod: &PodRef) -> impl Future<Output = Answer<()>> + Send;

    /// Deletes a Node that still has this uid. One that is gone, or another one, is fine.
    fn delete_node(&self, name: &str, uid: &str) -> impl Future<Output = Answer<()>> + Send;
}

#[cfg(test)]
pub(crate) mod fake;
