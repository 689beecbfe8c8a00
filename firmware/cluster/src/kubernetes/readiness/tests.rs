use super::*;
use proptest::prelude::*;
use serde_json::json;

fn object(kind: (&str, &str), spec: Value, status: Value) -> Value {
    json!({"apiVersion": kind.0, "kind": kind.1, "spec": spec, "status": status,
           "metadata": {"name": "x", "namespace": "default", "generation": 2}})
}

/// Statuses of workloads on their way, as a real cluster gave them; the file says which.
#[test]
fn captured_statuses_are_understood() {
    let file: Value = serde_json::from_str(include_str!("../captured.json")).unwrap();
    let captured = file["captured"].as_array().unwrap();
    assert!(captured.len() > 30, "{}", captured.len());
    for one in captured {
        let object = &one["object"];
        assert_eq!(
            format!("{:?}", readiness(object)),
            one["readiness"].as_str().unwrap(),
            "{object}"
        );
    }
}

fn waits_for(object: &Value) -> String {
    match readiness(object) {
        Waiting(what) => what,
        other => panic!("{other:?} of {object}"),
    }
}

fn failed(object: &Value) -> (Reason, String) {
    match readiness(object) {
        Failed(reason, what) => (reason, what),
        other => panic!("{other:?} of {object}"),
    }
}

fn deployment_with(status: Value) -> Value {
    object(("apps/v1", "Deployment"), json!({"replicas": 3}), status)
}

/// A rollout of three replicas with one surplus.
#[test]
fn a_deployment_is_ready_when_the_new_replicas_are_available_and_the_old_gone() {
    let steps = [
        (json!({}), "its controller has not seen it yet"),
        (
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
            "its controller has not seen it yet",
        ),
        (
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1, "availableReplicas": 3}),
            "1 of 3 replicas are new",
        ),
        (
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 3}),
            "1 old replicas have not ended yet",
        ),
        (
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2, "unavailableReplicas": 1}),
            "2 of 3 replicas are available",
        ),
    ];
    for (status, want) in steps {
        assert_eq!(waits_for(&deployment_with(status)), want);
    }
    let done = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3});
    assert_eq!(readiness(&deployment_with(done)), Ready);
    let none =
        object(("apps/v1", "Deployment"), json!({"replicas": 0}), json!({"observedGeneration": 2}));
    assert_eq!(readiness(&none), Ready);
}

#[test]
fn a_deployment_whose_deadline_passed_failed() {
    let status = json!({"observedGeneration": 2, "updatedReplicas": 1, "conditions": [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
         "message": "ReplicaSet \"web-7d9\" has timed out progressing."}]});
    let (reason, words) = failed(&deployment_with(status));
    assert_eq!(reason, Reason::ReleaseTimeout);
    assert!(words.contains("timed out"), "{words}");
}

#[test]
fn a_deployment_that_may_not_make_pods_says_so() {
    let status = json!({"observedGeneration": 2, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: small"}]});
    assert_eq!(waits_for(&deployment_with(status)), "FailedCreate: exceeded quota: small");
}

#[test]
fn a_stateful_set_follows_its_strategy() {
    let set = |strategy: Value, status: Value| {
        object(
            ("apps/v1", "StatefulSet"),
            json!({"replicas": 3, "updateStrategy": strategy}),
            status,
        )
    };
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    let under_way = json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 1,
                           "currentRevision": "web-1", "updateRevision": "web-2"});
    assert_eq!(waits_for(&set(rolling.clone(), under_way.clone())), "1 of 3 replicas are new");
    let not_ready = json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 2, "updatedReplicas": 3,
                           "currentRevision": "web-2", "updateRevision": "web-2"});
    assert_eq!(waits_for(&set(rolling.clone(), not_ready)), "2 of 3 replicas are ready");
    let done = json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3,
                      "currentRevision": "web-2", "updateRevision": "web-2"});
    assert_eq!(readiness(&set(rolling, done)), Ready);
    let part =
        |partition| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    assert_eq!(readiness(&set(part(2), under_way.clone())), Ready);
    assert_eq!(waits_for(&set(part(1), under_way.clone())), "1 of 2 replicas are new");
    assert_eq!(readiness(&set(part(7), under_way.clone())), Ready);
    assert_eq!(readiness(&set(json!({"type": "OnDelete"}), under_way)), Ready);
}

#[test]
fn a_daemon_set_is_ready_when_each_node_has_the_new_pod() {
    let set = |kind: &str, status: Value| {
        object(("apps/v1", "DaemonSet"), json!({"updateStrategy": {"type": kind}}), status)
    };
    let old = json!({"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 1, "numberAvailable": 3});
    assert_eq!(waits_for(&set("RollingUpdate", old.clone())), "1 of 3 pods are new");
    assert_eq!(readiness(&set("OnDelete", old)), Ready);
    let starting =
        json!({"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3});
    assert_eq!(waits_for(&set("RollingUpdate", starting)), "0 of 3 pods are available");
    assert_eq!(
        readiness(&set(
            "RollingUpdate",
            json!({"observedGeneration": 2, "desiredNumberScheduled": 0})
        )),
        Ready
    );
}

#[test]
fn a_job_ends_well_or_not() {
    let job = |spec: Value, status: Value| object(("batch/v1", "Job"), spec, status);
    let of = |name: &str| {
        json!({"conditions": [{"type": name, "status": "True", "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit"}]})
    };
    assert_eq!(readiness(&job(json!({}), of("Complete"))), Ready);
    assert_eq!(failed(&job(json!({}), of("Failed"))).0, Reason::PodFailed);
    let counted = job(json!({"completions": 3}), json!({"active": 1, "succeeded": 2}));
    assert_eq!(waits_for(&counted), "2 of 3 pods have ended well");
    assert_eq!(waits_for(&job(json!({"suspend": true}), json!({}))), "it is suspended");
    // Newer servers tell that it will succeed before its pods are gone.
    assert!(waits_for(&job(json!({}), of("SuccessCriteriaMet"))).contains("0 of 1"));
}

#[test]
fn a_pod_is_ready_by_its_condition_and_done_by_its_phase() {
    let pod = |status: Value| object(("v1", "Pod"), json!({}), status);
    assert_eq!(readiness(&pod(json!({"phase": "Succeeded"}))), Ready);
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(readiness(&pod(ready)), Ready);
    let not_ready = json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [web]"}]});
    assert!(waits_for(&pod(not_ready)).contains("[web]"));
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
    assert_eq!(failed(&pod(evicted)).1, "Evicted: The node was low on resource: memory.");
}

#[test]
fn a_definition_whose_names_are_taken_fails() {
    let crd = |conditions: Value| {
        object(
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            json!({}),
            json!({"conditions": conditions}),
        )
    };
    let taken = json!([
        {"type": "NamesAccepted", "status": "False", "reason": "PluralConflict", "message": "\"gadgets\" is already in use"},
        {"type": "Established", "status": "False", "reason": "NotAccepted", "message": "not all names are accepted"}]);
    assert_eq!(failed(&crd(taken)).0, Reason::ReleaseCrdNotEstablished);
    let fresh = json!([{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "False", "reason": "Installing", "message": "the initial names have been accepted"}]);
    assert!(waits_for(&crd(fresh)).starts_with("Installing"));
    let done = json!([{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]);
    assert_eq!(readiness(&crd(done)), Ready);
    assert!(waits_for(&crd(json!([]))).contains("not established"));
}

#[test]
fn a_claim_waits_for_its_volume_or_for_its_first_pod() {
    let claim =
        |phase: &str| object(("v1", "PersistentVolumeClaim"), json!({}), json!({"phase": phase}));
    assert_eq!(readiness(&claim("Bound")), Ready);
    assert_eq!(failed(&claim("Lost")).0, Reason::PodConfigMissing);
    assert!(waits_for(&claim("Pending")).contains("no volume"));
    let class = |mode: &str| json!({"volumeBindingMode": mode});
    assert_eq!(claim_readiness(&claim("Pending"), Some(&class("WaitForFirstConsumer"))), Ready);
    assert!(matches!(claim_readiness(&claim("Pending"), Some(&class("Immediate"))), Waiting(_)));
    let lost = claim_readiness(&claim("Lost"), Some(&class("WaitForFirstConsumer")));
    assert!(matches!(lost, Failed(Reason::PodConfigMissing, _)));
}

#[test]
fn an_api_service_is_ready_when_its_server_answers() {
    let service = |status: &str| {
        let conditions = json!([{"type": "Available", "status": status, "reason": "MissingEndpoints", "message": "no addresses"}]);
        object(
            ("apiregistration.k8s.io/v1", "APIService"),
            json!({}),
            json!({"conditions": conditions}),
        )
    };
    assert_eq!(readiness(&service("True")), Ready);
    assert_eq!(waits_for(&service("False")), "MissingEndpoints: no addresses");
}

#[test]
fn others_are_ready_at_once_and_names_of_other_groups_do_not_count() {
    assert_eq!(readiness(&object(("v1", "ConfigMap"), json!({}), json!(null))), Ready);
    assert_eq!(readiness(&object(("example.org/v1", "Deployment"), json!({}), json!({}))), Ready);
    assert_eq!(
        readiness(&object(("v1", "Namespace"), json!({}), json!({"phase": "Active"}))),
        Ready
    );
}

const KINDS: [(&str, &str); 10] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
    ("v1", "Pod"),
    ("v1", "PersistentVolumeClaim"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("apiregistration.k8s.io/v1", "APIService"),
    ("example.org/v1", "Gadget"),
];

prop_compose! {
    fn any_status()(
        counts in prop::collection::vec(0..5i64, 9),
        phase in prop::sample::select(vec!["", "Pending", "Running", "Succeeded", "Bound", "Active"]),
        condition in prop::sample::select(vec!["Ready", "Complete", "Established", "Available"]),
        truth in prop::sample::select(vec!["True", "False", "Unknown"]),
    ) -> Value {
        let names = ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas", "desiredNumberScheduled",
                     "updatedNumberScheduled", "numberAvailable", "succeeded", "active"];
        let mut status = json!({"phase": phase, "conditions": [{"type": condition, "status": truth}]});
        for (name, count) in names.iter().zip(counts) {
            status[*name] = json!(count);
        }
        status
    }
}

proptest! {
    #[test]
    fn an_object_that_its_controller_has_not_seen_is_never_ready(
        kind in prop::sample::select(KINDS.to_vec()), status in any_status(),
        generation in 1..9i64, behind in 1..9i64,
    ) {
        let mut object = object(kind, json!({"replicas": 1}), status);
        object["metadata"]["generation"] = json!(generation);
        object["status"]["observedGeneration"] = json!(generation - behind);
        prop_assert_ne!(readiness(&object), Ready);
    }

    #[test]
    fn an_object_that_is_being_deleted_is_never_ready(
        kind in prop::sample::select(KINDS.to_vec()), status in any_status(),
    ) {
        let mut object = object(kind, json!({}), status);
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        prop_assert_ne!(readiness(&object), Ready);
    }

    /// More that is new and available never makes a ready object wait.
    #[test]
    fn a_daemon_set_gets_no_less_ready(status in any_status(), more in 0..3i64) {
        let at = |status: Value| readiness(&object(("apps/v1", "DaemonSet"), json!({}), status));
        let mut seen = status;
        seen["observedGeneration"] = json!(2);
        let before = at(seen.clone());
        for name in ["updatedNumberScheduled", "numberAvailable"] {
            seen[name] = json!(seen[name].as_i64().unwrap() + more);
        }
        prop_assert!(before != Ready || at(seen) == Ready);
    }
}

#[test]
fn an_old_controller_of_replicas_waits_for_them() {
    let of = |ready: i64| {
        let status = json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": ready});
        object(("v1", "ReplicationController"), json!({"replicas": 2}), status)
    };
    assert_eq!(waits_for(&of(1)), "1 of 2 replicas are ready");
    assert_eq!(readiness(&of(2)), Ready);
}
