//! `NodeStatus`: what a node reports of itself. Kept apart from configuration; can be lost.

use crate::Reason;
use crate::kubernetes::KubernetesState;
use crate::local::{ItemReport, Stage};
use crate::tunnel::TunnelsState;
use serde::{Deserialize, Serialize};

/// Nothing is asked here; the node writes the status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatusSpec {}

/// What a node reports.
///
/// What is not there is written as `null`: a status goes to the controller as a merge patch
/// (RFC 7396), which leaves alone what is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatusStatus {
    /// Its site.
    pub site: String,
    /// Lifecycle stage.
    pub stage: Stage,
    /// Generation of the configuration in force.
    pub generation: u64,
    /// Hardware profile.
    pub profile: String,
    /// Firmware version.
    pub version: String,
    /// The worst thing to say, if there is one.
    pub reason: Option<Reason>,
    /// For people.
    pub message: String,
    /// Per domain.
    pub items: Vec<ItemReport>,
    /// Tunnels.
    pub tunnels: Option<TunnelsState>,
    /// Kubernetes.
    pub kubernetes: Option<KubernetesState>,
    /// The node's clock when it wrote this.
    pub reported_at: Option<jiff::Timestamp>,
}
