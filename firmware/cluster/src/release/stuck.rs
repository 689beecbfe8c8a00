//! Pods that keep a StatefulSet from its newest form. With the default pod management
//! (`OrderedReady`) Kubernetes waits for a pod that is broken before it replaces it by one of the
//! newest revision, so a set whose template was put right stays broken until somebody deletes that
//! pod (kubernetes.io, "StatefulSets", "Forced rollback"). One at a time, and only one that has been
//! broken for a while: members of a quorum are unready for moments. What decides is pure.

use crate::kubernetes::{Api, ApiError, PodsOf, Propagation, Readiness, pods_of, readiness};
use crate::object::ObjectId;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// Deletes the next of those pods that has been broken for `grace`; what is no StatefulSet, or is not there, is left alone.
///
/// # Errors
/// The API server refuses, or is away.
pub(super) async fn clear(api: &Api, id: &ObjectId, grace: Duration) -> Result<(), ApiError> {
    if id.kind != "StatefulSet" {
        return Ok(());
    }
    let Some(set) = api.get(id).await? else { return Ok(()) };
    let Some(PodsOf::Labels { namespace, labels }) = pods_of(id, &set) else { return Ok(()) };
    let before = Timestamp::now() - SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    let pods = api.list("v1", "Pod", Some(&namespace), &labels, "").await?;
    if let Some(pod) = stuck(&set, &pods, before) {
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

/// Of `pods` the one of the set that is to be replaced next, is of an older revision, and has been
/// broken since `before`; none while another one is on its way.
fn stuck<'a>(set: &Value, pods: &'a [Value], before: Timestamp) -> Option<&'a Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let newest = status["updateRevision"].as_str().unwrap_or_default();
    let is_current =
        status["observedGeneration"].as_i64() >= set["metadata"]["generation"].as_i64();
    if newest.is_empty()
        || !is_current
        || spec["podManagementPolicy"] == "Parallel"
        || spec["updateStrategy"]["type"] == "OnDelete"
    {
        return None;
    }
    // Pods below the partition stay as they are ("Partitioned rolling updates").
    let first = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    let is_ours = |pod: &&Value| {
        let owners = pod["metadata"]["ownerReferences"].as_array();
        owners.is_some_and(|owners| owners.iter().any(|one| one["uid"] == set["metadata"]["uid"]))
    };
    let is_ready = |pod: &Value| readiness(pod) == Readiness::Ready;
    let is_newest = |pod: &Value| pod["metadata"]["labels"]["controller-revision-hash"] == newest;
    let ours = || pods.iter().filter(is_ours);
    let is_on_its_way = |pod: &Value| {
        !pod["metadata"]["deletionTimestamp"].is_null() || (is_newest(pod) && !is_ready(pod))
    };
    if ours().any(is_on_its_way) {
        return None;
    }
    let broken = ours().filter(|pod| !is_newest(pod) && !is_ready(pod) && since(pod) <= before);
    // The highest ordinal goes first, as in a rolling update.
    let next =
        broken.filter_map(|pod| Some((ordinal(pod)?, pod))).max_by_key(|(ordinal, _)| *ordinal);
    next.filter(|(ordinal, _)| *ordinal >= first).map(|(_, pod)| pod)
}

fn ordinal(pod: &Value) -> Option<i64> {
    pod["metadata"]["name"].as_str()?.rsplit_once('-')?.1.parse().ok()
}

/// Since when it is not ready; since now as far as that is not told.
fn since(pod: &Value) -> Timestamp {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let told = ready.and_then(|ready| ready["lastTransitionTime"].as_str()?.parse().ok());
    told.unwrap_or(Timestamp::MAX)
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
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": BROKE},
            ]},
        })
    }

    const BROKE: &str = "2026-01-01T00:00:00Z";

    fn next(set: &Value, pods: &[Value], before: &str) -> Option<String> {
        let pod = stuck(set, pods, before.parse().unwrap())?;
        Some(pod["metadata"]["name"].as_str().unwrap().to_owned())
    }

    #[test]
    fn the_last_broken_pod_of_an_older_revision_is_next_and_no_other() {
        let mut theirs = pod(5, "web-1", "False");
        theirs["metadata"]["ownerReferences"][0]["uid"] = json!("2");
        let mut pods = vec![
            pod(0, "web-1", "True"),
            pod(1, "web-1", "False"),
            pod(2, "web-1", "False"),
            pod(3, "web-2", "True"),
            theirs,
        ];
        let set_of = |spec| set(spec);
        let plain = set_of(json!({}));
        assert_eq!(next(&plain, &pods, BROKE).as_deref(), Some("web-2"));
        let partition =
            |first: u8| set_of(json!({"updateStrategy": {"rollingUpdate": {"partition": first}}}));
        assert_eq!(next(&partition(2), &pods, BROKE).as_deref(), Some("web-2"));
        assert_eq!(next(&partition(3), &pods, BROKE), None);
        assert_eq!(next(&plain, &pods, "2025-12-31T23:59:59Z"), None, "it may still heal");
        pods.push(pod(4, "web-2", "False"));
        assert_eq!(next(&plain, &pods, BROKE), None, "a new one starts");
        pods[5] = pod(4, "web-1", "True");
        pods[5]["metadata"]["deletionTimestamp"] = json!(BROKE);
        assert_eq!(next(&plain, &pods, BROKE), None, "one leaves");
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
            assert_eq!(next(&set, &pods, BROKE), None, "{set}");
        }
    }
}
