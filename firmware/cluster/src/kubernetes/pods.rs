//! Pods: evicted one by one, and asked why an object does not become ready.

use super::connect::Api;
use super::error::ApiError;
use super::explain::{Explanation, PodsOf, explain, newest_pods, pods_of};
use super::readiness::{Readiness, claim_readiness, readiness};
use super::request::Question;
use crate::object::ObjectId;
use http::Method;
use serde_json::{Value, json};

/// Pods of one object whose events are looked at. Those of one revision fail alike.
const PODS_ASKED: usize = 5;

impl Api {
    /// Whether an object is as it should be; none when it is not there. Of a claim for a volume
    /// the storage class is looked at as well.
    ///
    /// # Errors
    /// The kind is not known, or the server does not answer.
    pub async fn readiness(&self, id: &ObjectId) -> Result<Option<Readiness>, ApiError> {
        let Some(object) = self.get(id).await? else { return Ok(None) };
        let is = readiness(&object);
        match (&is, object["spec"]["storageClassName"].as_str()) {
            (Readiness::Waiting(_), Some(class)) if id.kind == "PersistentVolumeClaim" => {
                let class = ObjectId {
                    api_version: "storage.k8s.io/v1".into(),
                    kind: "StorageClass".into(),
                    namespace: None,
                    name: class.into(),
                };
                let class = self.get(&class).await?;
                Ok(Some(claim_readiness(&object, class.as_ref())))
            }
            _ => Ok(Some(is)),
        }
    }

    /// Why an object does not become ready: from its status, the pods of its newest revision, and
    /// the events about them. None when nothing is known, or it is not there.
    ///
    /// # Errors
    /// The kind is not known, or the server does not answer.
    pub async fn explain(&self, id: &ObjectId) -> Result<Option<Explanation>, ApiError> {
        let Some(object) = self.get(id).await? else { return Ok(None) };
        let pods = match pods_of(id, &object) {
            None => Vec::new(),
            Some(PodsOf::Itself(_)) => vec![object.clone()],
            Some(PodsOf::Labels { namespace, labels }) => {
                let in_it = Some(namespace.as_str());
                let revisions = match id.kind.as_str() {
                    "Deployment" => self.list("apps/v1", "ReplicaSet", in_it, &labels, "").await?,
                    "DaemonSet" | "StatefulSet" => {
                        self.list("apps/v1", "ControllerRevision", in_it, "", "").await?
                    }
                    _ => Vec::new(),
                };
                let pods = self.list("v1", "Pod", in_it, &labels, "").await?;
                newest_pods(&object, &revisions, pods)
            }
        };
        let mut events = self.events_of(&object).await?;
        let is_ready = |pod: &Value| readiness(pod) == Readiness::Ready;
        for pod in pods.iter().filter(|pod| !is_ready(pod)).take(PODS_ASKED) {
            events.extend(self.events_of(pod).await?);
        }
        Ok(explain(&object, &pods, &events))
    }

    /// The events about an object, which the server keeps for an hour.
    pub(crate) async fn events_of(&self, object: &Value) -> Result<Vec<Value>, ApiError> {
        let Some(uid) = object["metadata"]["uid"].as_str() else { return Ok(Vec::new()) };
        // What has no namespace has its events in this one.
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        self.list("v1", "Event", Some(namespace), "", &format!("involvedObject.uid={uid}")).await
    }

    /// Asks a pod to leave as disruption budgets allow (Kubernetes docs, "API-initiated
    /// Eviction"). False when it was gone already. It goes after its grace period; whoever must
    /// know asks for it again. With a uid another pod of the same name, as a StatefulSet makes at
    /// once, stays.
    ///
    /// # Errors
    /// [`ApiError::Budget`] when a budget keeps it: try again later.
    pub async fn evict(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<bool, ApiError> {
        let pod = ObjectId {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        };
        // `policy/v1` from 1.22 on, `policy/v1beta1` before.
        let resources = self.version_resources("v1").await?;
        let version = resources
            .iter()
            .find(|one| one.plural == "pods/eviction")
            .map_or("policy/v1", |one| one.api_version.as_str());
        let path = self.object_path(&pod, "evict").await?;
        let question =
            Question::new(Method::POST, &format!("{path}/eviction"), format!("evict {pod}")).body(
                "application/json",
                &json!({
                    "apiVersion": version,
                    "kind": "Eviction",
                    "metadata": { "name": name, "namespace": namespace },
                    "deleteOptions": uid.map(|uid| json!({ "preconditions": { "uid": uid } })),
                }),
            );
        match self.call(&question).await {
            Ok(_) => Ok(true),
            Err(ApiError::NotFound { .. }) => Ok(false),
            // What was true when it was asked is not any more: it is another pod by now.
            Err(ApiError::Stale { .. }) if uid.is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
