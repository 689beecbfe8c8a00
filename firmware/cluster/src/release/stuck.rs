//! Pods that keep a StatefulSet from its newest form. With the default pod management
//! (`OrderedReady`) Kubernetes waits for a pod that is broken before it replaces it by one of the
//! newest revision, so a set whose template was put right stays broken until somebody deletes that
//! pod (kubernetes.io, "StatefulSets", "Forced rollback"). One at a time, and only one that has been
//! seen broken for a while: members of a quorum are unready for moments. That is counted here and on
//! a clock that does not jump; when it broke by the cluster's clock only tells one time from the
//! next. What decides is pure.

use crate::kubernetes::{Api, ApiError, PodsOf, Propagation, Readiness, pods_of, readiness};
use crate::object::ObjectId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was seen of such pods.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// By set and pod (`uid`).
    broken: BTreeMap<(String, String), Broken>,
}

/// A pod that is broken.
#[derive(Debug)]
struct Broken {
    /// Which time it broke.
    time: String,
    /// When that was seen first.
    since: Instant,
    /// When it was seen last.
    seen: Instant,
}

/// Sets that nobody looks at any more are forgotten.
const FORGETS_AFTER: Duration = Duration::from_secs(3600);

impl Stuck {
    /// Deletes the next of those pods that was seen broken for `grace`; what is no StatefulSet, or
    /// is not there, is left alone.
    ///
    /// # Errors
    /// The API server refuses, or is away.
    pub(super) async fn clear(
        &mut self,
        api: &Api,
        id: &ObjectId,
        grace: Duration,
    ) -> Result<(), ApiError> {
        if id.kind != "StatefulSet" {
            return Ok(());
        }
        let Some(set) = api.get(id).await? else { return Ok(()) };
        let Some(PodsOf::Labels { namespace, labels }) = pods_of(id, &set) else { return Ok(()) };
        let pods = api.list("v1", "Pod", Some(&namespace), &labels, "").await?;
        if let Some(pod) = self.next(&set, &pods, grace, Instant::now()) {
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

    /// Takes what is seen of a set's pods `now`; the one to be deleted.
    fn next<'a>(
        &mut self,
        set: &Value,
        pods: &'a [Value],
        grace: Duration,
        now: Instant,
    ) -> Option<&'a Value> {
        let key = |value: &Value| value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let of = key(set);
        let broken = pods.iter().filter(|pod| !is_ready(pod));
        let broken: BTreeMap<String, String> =
            broken.map(|pod| (key(pod), broke(pod).to_owned())).collect();
        self.broken.retain(|(set, pod), known| match *set == of {
            true => broken.get(pod) == Some(&known.time),
            false => now.saturating_duration_since(known.seen) < FORGETS_AFTER,
        });
        for (pod, time) in broken {
            let known = self.broken.entry((of.clone(), pod));
            known.or_insert(Broken { time, since: now, seen: now }).seen = now;
        }
        let is_hopeless = |pod: &Value| {
            let known = self.broken.get(&(of.clone(), key(pod)));
            known.is_some_and(|known| now.saturating_duration_since(known.since) >= grace)
        };
        stuck(set, pods, is_hopeless)
    }
}

/// Of `pods` the one of the set that is to be replaced next, is of an older revision, and is
/// hopeless; none while another one is on its way.
fn stuck<'a>(
    set: &Value,
    pods: &'a [Value],
    is_hopeless: impl Fn(&Value) -> bool,
) -> Option<&'a Value> {
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
    let is_newest = |pod: &Value| pod["metadata"]["labels"]["controller-revision-hash"] == newest;
    let ours = || pods.iter().filter(is_ours);
    let is_on_its_way = |pod: &Value| {
        !pod["metadata"]["deletionTimestamp"].is_null() || (is_newest(pod) && !is_ready(pod))
    };
    if ours().any(is_on_its_way) {
        return None;
    }
    let broken = ours().filter(|pod| !is_newest(pod) && is_hopeless(pod));
    // The highest ordinal goes first, as in a rolling update.
    let next =
        broken.filter_map(|pod| Some((ordinal(pod)?, pod))).max_by_key(|(ordinal, _)| *ordinal);
    next.filter(|(ordinal, _)| *ordinal >= first).map(|(_, pod)| pod)
}

fn is_ready(pod: &Value) -> bool {
    readiness(pod) == Readiness::Ready
}

fn ordinal(pod: &Value) -> Option<i64> {
    pod["metadata"]["name"].as_str()?.rsplit_once('-')?.1.parse().ok()
}

/// When it broke by the cluster's clock, which may be wrong and is compared with itself alone.
fn broke(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.and_then(|ready| ready["lastTransitionTime"].as_str()).unwrap_or_default()
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
                "uid": format!("pod-{ordinal}"),
                "labels": {"controller-revision-hash": revision},
                "ownerReferences": [{"uid": "1"}],
            },
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": BROKE},
            ]},
        })
    }

    const BROKE: &str = "2026-01-01T00:00:00Z";

    const GRACE: Duration = Duration::from_secs(60);

    fn name(pod: Option<&Value>) -> Option<&str> {
        pod?["metadata"]["name"].as_str()
    }

    /// Seen broken at once and for long enough.
    fn next<'a>(set: &Value, pods: &'a [Value]) -> Option<&'a str> {
        let (mut seen, now) = (Stuck::default(), Instant::now());
        assert_eq!(seen.next(set, pods, GRACE, now), None, "it may still heal");
        name(seen.next(set, pods, GRACE, now + GRACE))
    }

    /// The cluster's clock says that it broke in January, whatever jumped since.
    #[test]
    fn how_long_a_pod_is_broken_is_counted_by_who_sees_it() {
        let (set, start) = (set(json!({})), Instant::now());
        let second = Duration::from_secs(1);
        let mut seen = Stuck::default();
        let mut pods = [pod(1, "web-1", "False")];
        assert_eq!(seen.next(&set, &pods, GRACE, start), None);
        assert_eq!(seen.next(&set, &pods, GRACE, start + GRACE - second), None);
        assert_eq!(name(seen.next(&set, &pods, Duration::ZERO, start)), Some("web-1"), "back");
        // Ready in between, seen or not.
        pods[0]["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:59Z");
        assert_eq!(seen.next(&set, &pods, GRACE, start + GRACE), None);
        pods[0] = pod(1, "web-1", "True");
        assert_eq!(seen.next(&set, &pods, GRACE, start + GRACE * 2), None);
        pods[0] = pod(1, "web-1", "False");
        assert_eq!(seen.next(&set, &pods, GRACE, start + GRACE * 3), None);
        assert_eq!(name(seen.next(&set, &pods, GRACE, start + GRACE * 4)), Some("web-1"));
        assert_eq!(seen.next(&set, &[], GRACE, start + GRACE * 5), None);
        assert!(seen.broken.is_empty(), "what is gone is forgotten");
    }

    #[test]
    fn a_set_that_nobody_looks_at_any_more_is_forgotten() {
        let (one, start) = (set(json!({})), Instant::now());
        let mut other = set(json!({}));
        other["metadata"]["uid"] = json!("2");
        let mut seen = Stuck::default();
        seen.next(&one, &[pod(1, "web-1", "False")], GRACE, start);
        seen.next(&other, &[], GRACE, start + FORGETS_AFTER - GRACE);
        assert_eq!(seen.broken.len(), 1);
        seen.next(&other, &[], GRACE, start + FORGETS_AFTER);
        assert!(seen.broken.is_empty());
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
        assert_eq!(next(&plain, &pods), Some("web-2"));
        let partition =
            |first: u8| set_of(json!({"updateStrategy": {"rollingUpdate": {"partition": first}}}));
        assert_eq!(next(&partition(2), &pods), Some("web-2"));
        assert_eq!(next(&partition(3), &pods), None);
        pods.push(pod(4, "web-2", "False"));
        assert_eq!(next(&plain, &pods), None, "a new one starts");
        pods[5] = pod(4, "web-1", "True");
        pods[5]["metadata"]["deletionTimestamp"] = json!(BROKE);
        assert_eq!(next(&plain, &pods), None, "one leaves");
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
            assert_eq!(next(&set, &pods), None, "{set}");
        }
    }
}
