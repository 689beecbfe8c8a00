//! [`Cluster`] in a real cluster, through [`crate::kubernetes`].
//!
//! A Lease and a Node are changed by merge patches, so that what others wrote into them stays; a
//! Lease's patch names the version that was read. Everything is level with Kubernetes 1.20: which
//! version of disruption budgets there is, is asked.

use super::cluster::{Answer, Cluster, ClusterError, Lease};
use super::drain::Evicted;
use super::lease::Record;
use super::model::{BudgetView, CORDONED_BY, CORDONED_BY_ANNOTATION, NodeView, PodRef, PodView};
use crate::kubernetes::request::Question;
use crate::kubernetes::{Api, ApiError, Propagation};
use crate::object::{Object, ObjectId, Origin};
use holdfast_api::Reason;
use holdfast_api::marks::SYSTEM_NAMESPACE;
use http::Method;
use serde_json::{Value, json};

const LEASES: &str = "coordination.k8s.io/v1";

/// A site's Kubernetes.
#[derive(Debug, Clone)]
pub struct KubeCluster {
    api: Api,
}

impl KubeCluster {
    /// The cluster that `api` speaks to, with an administrator's rights.
    pub fn new(api: Api) -> Self {
        KubeCluster { api }
    }
}

impl Cluster for KubeCluster {
    async fn lease(&self, name: &str) -> Answer<Option<Lease>> {
        let found = self.api.get(&lease_id(name)).await;
        Ok(found.map_err(failed("read", "Lease", name))?.as_ref().map(lease_of))
    }

    async fn leases(&self) -> Answer<Vec<Lease>> {
        let found = self.api.list(LEASES, "Lease", Some(SYSTEM_NAMESPACE), "", "").await;
        Ok(found
            .map_err(failed("list", "Leases", SYSTEM_NAMESPACE))?
            .iter()
            .map(lease_of)
            .collect())
    }

    async fn write_lease(&self, name: &str, record: &Record, read: Option<&Lease>) -> Answer<()> {
        let id = lease_id(name);
        let wrote = match read {
            Some(read) => {
                let patch = json!({
                    "metadata": {"resourceVersion": read.version},
                    "spec": record.spec(),
                });
                self.api.patch(&id, &patch).await
            }
            None => match self.api.create(&new_lease(&id, record)).await {
                Err(ApiError::NotFound { kind, .. }) if kind == "namespaces" => {
                    self.make_namespace().await?;
                    self.api.create(&new_lease(&id, record)).await
                }
                wrote => wrote,
            },
        };
        match wrote {
            Ok(_) => Ok(()),
            // Not found: it was deleted since it was read.
            Err(ApiError::Stale { .. } | ApiError::Exists { .. } | ApiError::NotFound { .. }) => {
                Err(ClusterError::Conflict { object: id.to_string() })
            }
            Err(error) => Err(failed("write", "Lease", name)(error)),
        }
    }

    async fn nodes(&self) -> Answer<Vec<NodeView>> {
        let found = self.api.list("v1", "Node", None, "", "").await;
        Ok(found.map_err(failed("list", "Nodes", ""))?.iter().map(NodeView::of).collect())
    }

    async fn pods_on(&self, node: &str) -> Answer<Vec<PodView>> {
        let on = format!("spec.nodeName={node}");
        let found = self.api.list("v1", "Pod", None, "", &on).await;
        Ok(found.map_err(failed("list", "pods of", node))?.iter().map(PodView::of).collect())
    }

    async fn budgets(&self) -> Answer<Vec<BudgetView>> {
        let list = |version| self.api.list(version, "PodDisruptionBudget", None, "", "");
        let found = match list("policy/v1").await {
            // Kubernetes before 1.21.
            Err(ApiError::UnknownKind { .. }) => list("policy/v1beta1").await,
            found => found,
        };
        let found = found.map_err(failed("list", "disruption budgets", ""))?;
        Ok(found.iter().map(BudgetView::of).collect())
    }

    async fn cordon(&self, node: &str, on: bool) -> Answer<()> {
        let mark = on.then_some(CORDONED_BY);
        let patch = json!({
            "metadata": {"annotations": {CORDONED_BY_ANNOTATION: mark}},
            "spec": {"unschedulable": on.then_some(true)},
        });
        match self.api.patch(&node_id(node), &patch).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(if on { "cordon" } else { "uncordon" }, "Node", node)(error)),
        }
    }

    async fn evict(&self, pod: &PodRef) -> Answer<Evicted> {
        match self.api.evict(&pod.namespace, &pod.name, Some(&pod.uid)).await {
            Ok(_) => Ok(Evicted::Leaving),
            Err(ApiError::Budget { message, .. }) => Ok(Evicted::Refused { message }),
            // Several budgets for one pod, which the API server does not support.
            Err(ApiError::Busy { status: 500, message, .. }) => Ok(Evicted::Refused { message }),
            Err(error) => Err(failed("evict", "Pod", &pod.to_string())(error)),
        }
    }

    async fn delete_pod(&self, pod: &PodRef) -> Answer<()> {
        let fail = failed("delete", "Pod", &pod.to_string());
        let id = ObjectId {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some(pod.namespace.clone()),
            name: pod.name.clone(),
        };
        let path = match self.api.object_path(&id, "delete").await {
            Ok(path) => path,
            Err(error) => return Err(fail(error)),
        };
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod.uid},
        });
        let question = Question::new(Method::DELETE, &path, format!("delete {id}"))
            .body("application/json", &options);
        match self.api.call(&question).await {
            Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Stale { .. }) => Ok(()),
            Err(error) => Err(fail(error)),
        }
    }

    async fn delete_node(&self, name: &str, uid: &str) -> Answer<()> {
        match self.api.delete(&node_id(name), Some(uid), Propagation::Background).await {
            Ok(_) | Err(ApiError::Stale { .. }) => Ok(()),
            Err(error) => Err(failed("delete", "Node", name)(error)),
        }
    }
}

impl KubeCluster {
    async fn make_namespace(&self) -> Answer<()> {
        let id = ObjectId {
            api_version: "v1".into(),
            kind: "Namespace".into(),
            namespace: None,
            name: SYSTEM_NAMESPACE.into(),
        };
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE},
        });
        match self.api.create(&Object { id, origin: Origin::default(), value }).await {
            Ok(_) | Err(ApiError::Exists { .. }) => Ok(()),
            Err(error) => Err(failed("make", "Namespace", SYSTEM_NAMESPACE)(error)),
        }
    }
}

fn lease_id(name: &str) -> ObjectId {
    ObjectId {
        api_version: LEASES.into(),
        kind: "Lease".into(),
        namespace: Some(SYSTEM_NAMESPACE.into()),
        name: name.into(),
    }
}

fn node_id(name: &str) -> ObjectId {
    ObjectId { api_version: "v1".into(), kind: "Node".into(), namespace: None, name: name.into() }
}

fn new_lease(id: &ObjectId, record: &Record) -> Object {
    let value = json!({
        "apiVersion": LEASES,
        "kind": "Lease",
        "metadata": {"name": id.name, "namespace": SYSTEM_NAMESPACE},
        "spec": record.spec(),
    });
    Object { id: id.clone(), origin: Origin::default(), value }
}

fn lease_of(lease: &Value) -> Lease {
    let text = |key: &str| lease["metadata"][key].as_str().unwrap_or_default().to_owned();
    Lease { name: text("name"), version: text("resourceVersion"), record: Record::of(lease) }
}

fn failed(
    attempt: &'static str,
    kind: &str,
    name: &str,
) -> impl FnOnce(ApiError) -> ClusterError + use<> {
    let object = format!("{kind} {name}").trim_end().to_owned();
    move |error| ClusterError::Failed {
        attempt,
        object,
        reason: match error.reason() {
            _ if error.is_admission() => Reason::KubernetesAdmissionRefused,
            // Its other words are about releases.
            reason @ (Reason::KubernetesApiUnavailable | Reason::KubernetesForbidden) => reason,
            _ => Reason::Internal,
        },
        retryable: error.retryable(),
        source: Box::new(error),
    }
}
