//! Kubernetes seen from outside: parts of the control plane, conditions of the node, pods.
//!
//! | file | what |
//! |---|---|
//! | [`components`] | the API server's own checks and the node's conditions, as states |
//! | [`pods`] | pods counted, and the failed ones told |
//! | [`metrics`] | all of it in the text format of Prometheus |
//! | this one | asks the API server for what the others need |
//!
//! The functions are pure; only [`observe`] asks. What the asker may not see (an agent's
//! kubeconfig sees little) is left out, not told as broken.

pub mod components;
pub mod metrics;
pub mod pods;

use crate::kubernetes::request::Question;
use crate::kubernetes::{Api, ApiError};
use crate::object::ObjectId;
use holdfast_api::kubernetes::{ComponentState, PodCounts};
use serde_json::Value;
use std::time::Duration;

/// Patience for the API server's own checks; it asks etcd for them.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pods whose events are asked for at a time.
const PODS_ASKED: usize = 10;

/// What the API server tells of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Parts of the control plane and of the node.
    pub components: Vec<ComponentState>,
    /// Conditions of the node; `ok` when it is as it should be.
    pub conditions: Vec<ComponentState>,
    /// Pods of the node, and those that no node has.
    pub pods: PodCounts,
}

impl Seen {
    /// API server and node are ready.
    pub fn is_ready(&self) -> bool {
        let ok = |all: &[ComponentState], name: &str| {
            all.iter().any(|state| state.name == name && state.ok)
        };
        ok(&self.components, "apiserver") && ok(&self.conditions, "Ready")
    }

    /// The same once the API server does not answer: of itself that is known, of the other parts
    /// nothing, and of node and pods what was seen last.
    #[must_use]
    pub fn unanswered(self, why: &str) -> Seen {
        let apiserver =
            ComponentState { name: "apiserver".into(), ok: false, message: why.to_owned() };
        Seen { components: vec![apiserver], ..self }
    }
}

/// Asks the API server about itself and the node of this name.
///
/// # Errors
/// It does not answer. One that answers that it is not ready is told in [`Seen::components`].
pub async fn observe(api: &Api, node_name: &str) -> Result<Seen, ApiError> {
    let mut components = components::of_checks(&checks(api).await?);
    let listed = api.list("v1", "ComponentStatus", None, "", "").await;
    components.extend(components::of_statuses(&visible(listed)?.unwrap_or_default()));
    let id = ObjectId {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: None,
        name: node_name.into(),
    };
    let node = visible(api.get(&id).await)?.flatten();
    components.extend(components::of_node(node.as_ref()));
    let conditions = components::conditions(node.as_ref());

    let mut pods = Vec::new();
    for of_node in [node_name, ""] {
        let listed = api.list("v1", "Pod", None, "", &format!("spec.nodeName={of_node}")).await;
        pods.extend(visible(listed)?.unwrap_or_default());
    }
    let mut events = Vec::new();
    for pod in pods.iter().filter(|pod| pods::needs_events(pod)).take(PODS_ASKED) {
        events.extend(visible(api.events_of(pod).await)?.unwrap_or_default());
    }
    Ok(Seen { components, conditions, pods: pods::count(&pods, &events) })
}

/// The API server's checks; it tells them with code 500 when one fails.
async fn checks(api: &Api) -> Result<Vec<components::Check>, ApiError> {
    let question = Question::get("/readyz", "tell its checks").query("verbose", "true");
    let told = api.ask(&question.patience(PATIENCE)).await?;
    let checks = components::parse_checks(&String::from_utf8_lossy(&told.body));
    if checks.is_empty() && !told.code.is_success() {
        let message = told.code.to_string();
        return Ok(vec![components::Check { name: "readyz".into(), ok: false, message }]);
    }
    Ok(checks)
}

/// None for what the asker may not see, what the cluster does not have, or what a server that is
/// only half there cannot tell.
fn visible<T>(asked: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match asked {
        Ok(told) => Ok(Some(told)),
        Err(
            ApiError::Forbidden { .. }
            | ApiError::Refused { .. }
            | ApiError::UnknownKind { .. }
            | ApiError::NotFound { .. }
            | ApiError::Busy { .. },
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a condition of an object is `True`, and its words.
fn condition(object: &Value, name: &str) -> Option<(bool, String)> {
    crate::kubernetes::readiness::condition(object, name)
        .map(|is| (is.status == "True", is.words()))
}
