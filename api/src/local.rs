//! The manager's local API: HTTP/1.1 with JSON on the Unix socket `/run/holdfast/holdfastd.sock`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`NodeReport`] |
//! | `GET /v1/plan` | [`PlanReport`]: a dry run of everything |
//! | `GET /v1/health` | [`HealthReport`] |
//! | `GET /v1/tunnels` | [`crate::tunnel::TunnelsState`] |
//! | `PUT /v1/token` with [`TokenInput`] | 204 |
//! | `POST /v1/reconcile` | 202: a pass begins at once |
//! | `GET /v1/kubernetes` | [`KubernetesState`] |
//! | `POST /v1/kubernetes/plan` with [`ReleaseInput`] | [`PlanReport`]: what bringing this release onto the site would do |
//! | `POST /v1/kubernetes/snapshot` | 202: a snapshot is taken |
//! | `POST /v1/kubernetes/drill` | 202: the newest snapshot is restored into a datastore that is thrown away |
//! | `POST /v1/kubernetes/restore` with [`RestoreInput`] | 202: a snapshot is put back |
//! | `GET /v1/kubernetes/stored` | list of [`crate::kubernetes::SnapshotInfo`]: what the site's storage has of all its nodes |
//! | `POST /v1/kubernetes/stop` | 202: Kubernetes on this node is stopped, and stays so |
//! | `POST /v1/kubernetes/start` with [`StartInput`] | 202: it runs again |
//! | `GET /metrics` | metrics in the Prometheus text format |
//!
//! What is answered with 202 is followed in `GET /v1/kubernetes`. The reboot lock (FleetLock) has a
//! socket of its own, `/run/holdfast/fleetlock.sock`.
//!
//!
//! Failures are answered with a [`Problem`].

use crate::kubernetes::{KubernetesState, Secret};
use crate::tunnel::TunnelsState;
use crate::{Reason, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Stage of the node's life.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Stage {
    /// Waits for a token.
    #[default]
    NoToken,
    /// Presents its token, again and again.
    Registering,
    /// Waits for an operator.
    AwaitingApproval,
    /// Configures itself for the first time.
    Bootstrapping,
    /// All is well.
    Online,
    /// Works with something missing.
    Degraded,
    /// Was refused; only a new token helps.
    Refused,
}

/// Result of one item of the reconcile pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemState {
    /// Was as it should be.
    Ok,
    /// Was changed and is as it should be.
    Changed,
    /// Waits for something.
    Waiting,
    /// Is not as it should be.
    Failed,
}

/// One item of the reconcile pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemReport {
    /// Domain, such as `hugepages`.
    pub domain: String,
    /// How it went.
    pub state: ItemState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// When the node reached a stage, in milliseconds since the manager started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// Milliseconds since the manager started.
    pub at_ms: u64,
}

/// The node as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Firmware version.
    pub version: String,
    /// Name of the node; empty before it is admitted.
    pub node: String,
    /// Name of the site; empty before it is admitted.
    pub site: String,
    /// Tenant, once a token is known.
    pub tenant: String,
    /// Hardware profile in force.
    pub profile: String,
    /// Why this profile.
    pub profile_explanation: Vec<String>,
    /// Vendor and product.
    pub hardware: String,
    /// Stage of life.
    pub stage: Stage,
    /// Stages so far, with times.
    pub stages: Vec<StageTime>,
    /// How long the manager has been running when it was asked, in milliseconds, so that the times
    /// of stages can be told as "for how long".
    #[serde(default)]
    pub uptime_ms: u64,
    /// Generation of the configuration in force; 0 when there is none.
    pub generation: u64,
    /// Address of the controller.
    pub controller: String,
    /// Whether the controller answered last time.
    pub controller_reachable: bool,
    /// The worst thing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    pub message: String,
    /// What a person can do.
    pub next_step: String,
    /// Per domain.
    pub items: Vec<ItemReport>,
    /// Kubernetes, when it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesState>,
    /// Tunnels, when `tunneld` answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<TunnelsState>,
}

/// What it takes to carry out a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Takes effect at once.
    Live,
    /// A service restarts.
    Restart,
    /// The machine must reboot.
    Reboot,
}

/// What a step does to traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficImpact {
    /// None.
    None,
    /// A failover's worth.
    Brief,
    /// Until the step is done.
    Interrupted,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStep {
    /// Domain, such as `netd`.
    pub domain: String,
    /// The step, as the log will print it.
    pub text: String,
    /// What it takes.
    pub effect: Effect,
    /// What it does to traffic.
    pub traffic: TrafficImpact,
}

/// A dry run of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// In the order of execution; empty when nothing is to be done.
    pub steps: Vec<PlannedStep>,
    /// What cannot be planned, and why.
    pub problems: Vec<Problem>,
}

/// One check of health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is checked.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// All checks hold.
    pub healthy: bool,
    /// The checks.
    pub checks: Vec<HealthCheck>,
}

/// A failure with its reason code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The code.
    pub reason: Reason,
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in detail.
    pub message: String,
    /// What a person can do.
    pub next_step: String,
}

impl Problem {
    /// A problem with this reason and these details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Problem {
            reason,
            severity: reason.severity(),
            message: message.into(),
            next_step: reason.next_step().into(),
        }
    }
}

/// A release to be planned and not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseInput {
    /// Manifests by file name; the release that the controller wants when empty.
    pub manifests: BTreeMap<String, String>,
    /// What to call it.
    pub name: String,
}

/// A snapshot to be put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreInput {
    /// Name of one of the node's snapshots, `NODE/NAME` of one in the site's storage, or absolute
    /// path of a file.
    pub snapshot: String,
    /// The age identity that opens a portable one (`AGE-SECRET-KEY-1…`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Secret>,
    /// Also when another server of the site answers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// How a Kubernetes that was stopped starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartInput {
    /// The node's datastore is put aside; it joins that of the other servers.
    pub rejoin: bool,
}

/// A token to register with.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenInput {
    /// The token as typed.
    pub token: String,
    /// The controller's address, when it is not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
}

impl std::fmt::Debug for TokenInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenInput").field("controller", &self.controller).finish_non_exhaustive()
    }
}
