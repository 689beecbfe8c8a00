//! Pods that keep a StatefulSet from its newest form. With the default pod management
//! (`OrderedReady`) Kubernetes waits for a pod that is broken before it replaces it by one of the
//! newest revision, so a set whose template was put right stays broken until somebody deletes that
//! pod (kubernetes.io, "StatefulSets", "Forced rollback"). What decides is pure.

use crate::kubernetes::{Api, ApiError, PodsOf, Propagation, Readiness, pods_of, readiness};
use crate::object::ObjectId;
use serde_json::Value;

/// Deletes those pods; what is no StatefulSet, or is not there, is left alone.
///
/// # Errors
/// The API server refuses, or is away.
pub(super) async fn clear(api: &Api, id: &ObjectId) -> Result<(), ApiError> {
    if id.kind != "StatefulSet" {
        return Ok(());
    }
    let Some(set) = api.get(id).await? else { return Ok(()) };
    let Some(PodsOf::Labels { namespace, labels }) = pods_of(id, &set) else { return Ok(()) };
    for pod in stuck(&set, &api.list("v1", "Pod", Some(&namespace), &labels, "").await?) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        tracing::info!(set = %id, pod = name, "a broken pod of an older revision is deleted");
        let pod_id = ObjectId {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some(namespace.clone()),
            name: name.into(),
        };
        let uid = pod["metadata"]["uid"].as_str();
        match api.delete(&pod_id, uid, Propagation::Background).await {
            // Another pod has its name by now.
            Ok(_) | Err(ApiError::Stale { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Of `pods` those of the set that are broken, of an older revision, and to be replaced.
fn stuck<'a>(set: &Value, pods: &'a [Value]) -> Vec<&'a Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let newest = status["updateRevision"].as_str().unwrap_or_default();
    let is_current =
        status["observedGeneration"].as_i64() >= set["metadata"]["generation"].as_i64();
    if newest.is_empty()
        || !is_current
        || spec["podManagementPolicy"] == "Parallel"
        || spec["updateStrategy"]["type"] == "OnDelete"
    {
        return Vec::new();
    }
    // Pods below the partition stay as they are ("Partitioned rolling updates").
    let first = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    let is_stuck = |pod: &&Value| {
        let metadata = &pod["metadata"];
        let owners = metadata["ownerReferences"].as_array();
        let ordinal = metadata["name"].as_str().and_then(|name| name.rsplit_once('-'));
        let ordinal = ordinal.and_then(|(_, number)| number.parse::<i64>().ok());
        owners
            .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == set["metadata"]["uid"]))
            && metadata["labels"]["controller-revision-hash"] != newest
            && metadata["deletionTimestamp"].is_null()
            && ordinal.is_some_and(|ordinal| ordinal >= first)
            && readiness(pod) != Readiness::Ready
    };
    pods.iter().filter(is_stuck).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(spec: Value) -> Value {
        json!({
            "metadata": {"uid": "1", "generation": 3},
            "spec": spec,
            "status": {"observedGeneration": 3, "updateRevision": "web-2"},
        })
    }

    fn pod(ordinal: u8, revision: &str, ready: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("web-{ordinal}"),
                "labels": {"controller-revision-hash": revision},
                "ownerReferences": [{"uid": "1"}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn names(set: &Value, pods: &[Value]) -> Vec<String> {
        let name = |pod: &&Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        stuck(set, pods).iter().map(name).collect()
    }

    #[test]
    fn broken_pods_of_an_older_revision_are_stuck_and_no_others() {
        let mut leaving = pod(4, "web-1", "False");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut theirs = pod(5, "web-1", "False");
        theirs["metadata"]["ownerReferences"][0]["uid"] = json!("2");
        let pods = [
            pod(0, "web-1", "True"),
            pod(1, "web-1", "False"),
            pod(2, "web-2", "False"),
            pod(3, "web-2", "True"),
            leaving,
            theirs,
        ];
        assert_eq!(names(&set(json!({})), &pods), ["web-1"]);
        let partition = json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}});
        assert_eq!(names(&set(partition), &pods), [""; 0]);
    }

    #[test]
    fn a_set_that_goes_its_own_way_is_left_alone() {
        let pods = [pod(1, "web-1", "False")];
        let mut unseen = set(json!({}));
        unseen["metadata"]["generation"] = json!(4);
        for set in [
            unseen,
            set(json!({"podManagementPolicy": "Parallel"})),
            set(json!({"updateStrategy": {"type": "OnDelete"}})),
        ] {
            assert_eq!(names(&set, &pods), [""; 0], "{set}");
        }
    }
}
