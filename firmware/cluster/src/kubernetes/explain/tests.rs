use super::*;
use proptest::prelude::*;
use serde_json::json;

fn pod(name: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("web");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
            "containerStatuses": [container],
        },
    })
}

fn event(of: &str, reason: &str, message: &str) -> Value {
    json!({"type": "Warning", "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z",
           "involvedObject": {"uid": format!("uid-{of}"), "fieldPath": "spec.containers{web}"}})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"image": "registry.lab:5000/app:v2", "ready": false, "state": {"waiting": {"reason": reason, "message": message}}})
}

fn problem(pod: &Value, events: &[Value]) -> Explanation {
    pod_problem(pod, events).unwrap_or_else(|| panic!("nothing of {pod}"))
}

/// Pods as a real cluster gave them, with their events; the file says which.
#[test]
fn captured_pods_are_explained() {
    let file: Value = serde_json::from_str(include_str!("../captured.json")).unwrap();
    let captured = file["captured"].as_array().unwrap();
    let pods: Vec<_> = captured.iter().filter(|one| one["object"]["kind"] == "Pod").collect();
    assert!(pods.len() > 15, "{}", pods.len());
    for one in pods {
        let told = pod_problem(&one["object"], one["events"].as_array().unwrap());
        let told = told.map(|told| json!([told.reason.code(), told.word, told.hopeless]));
        assert_eq!(told.unwrap_or_default(), one["explained"], "{}", one["object"]);
    }
}

/// In the words of containerd 1.6 and 2, and of several registries.
#[test]
fn an_image_that_does_not_exist_is_told_from_a_registry_that_is_away() {
    let head = "rpc error: code = NotFound desc = failed to pull and unpack image \"registry.lab:5000/app:v2\": \
                failed to resolve reference \"registry.lab:5000/app:v2\": ";
    for (why, hopeless) in [
        ("registry.lab:5000/app:v2: not found", true),
        ("unexpected status: manifest unknown: manifest unknown", true),
        ("name unknown: repository name not known to registry", true),
        (
            "failed to do request: Head \"http://10.200.0.1:5000/v2/app/manifests/v2\": dial tcp 10.200.0.1:5000: connect: connection refused",
            false,
        ),
        ("failed to do request: Head \"https://r/v2/\": dial tcp: lookup r: no such host", false),
        ("unexpected status from HEAD request: 503 Service Unavailable", false),
        ("failed to copy: httpReadSeeker: failed open: unexpected EOF", false),
    ] {
        let said = format!("{head}{why}");
        let told = problem(&pod("a", waiting("ErrImagePull", &said)), &[]);
        assert_eq!((told.reason, told.hopeless), (Reason::PodImagePull, hopeless), "{why}");
        // Later the container only says that it backs off; the event still knows.
        let backing_off = pod(
            "a",
            waiting("ImagePullBackOff", "Back-off pulling image \"registry.lab:5000/app:v2\""),
        );
        let events = [event(
            "a",
            "Failed",
            &format!("Failed to pull image \"registry.lab:5000/app:v2\": {said}"),
        )];
        let told = problem(&backing_off, &events);
        assert_eq!((told.word.as_str(), told.hopeless), ("ImagePullBackOff", hopeless), "{why}");
        assert!(told.message.contains(why), "{}", told.message);
        assert!(!problem(&backing_off, &[]).hopeless, "nothing is known without the event");
    }
    assert!(
        problem(&pod("a", waiting("InvalidImageName", "couldn't parse image reference")), &[])
            .hopeless
    );
}

#[test]
fn a_container_that_crashes_tells_its_code_and_last_words() {
    let crashed = |restarts: i64| {
        let mut container = waiting("CrashLoopBackOff", "back-off 20s restarting failed container");
        container["restartCount"] = json!(restarts);
        container["lastState"] = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "no such file: /etc/edge\n"}});
        pod("a", container)
    };
    let told = problem(&crashed(1), &[]);
    assert_eq!((told.reason, told.hopeless), (Reason::PodCrashing, false));
    assert_eq!(
        told.message,
        "container web ended with code 3, 1 times restarted: no such file: /etc/edge"
    );
    assert!(problem(&crashed(CRASHES), &[]).hopeless);
}

#[test]
fn a_container_between_two_crashes_is_crashing() {
    let container = json!({"ready": false, "restartCount": 1, "state": {"running": {}},
                           "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}});
    let told = problem(&pod("a", container), &[]);
    assert_eq!((told.reason, told.word.as_str()), (Reason::PodCrashing, "Error"));
}

#[test]
fn a_container_that_needs_too_much_memory_is_told_as_such() {
    for state in [json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"running": {}})] {
        let container = json!({"ready": false, "restartCount": 1, "state": state,
                               "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}});
        let told = problem(&pod("a", container), &[]);
        assert_eq!((told.reason, told.hopeless), (Reason::PodOutOfMemory, true));
    }
}

#[test]
fn no_room_is_told_in_the_schedulers_words() {
    let unscheduled = |message: &str| {
        json!({"metadata": {"name": "a", "uid": "uid-a"}, "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}})
    };
    let told = problem(&unscheduled("0/1 nodes are available: 1 Insufficient cpu."), &[]);
    assert_eq!((told.reason, told.hopeless), (Reason::PodUnschedulable, false));
    assert_eq!(told.message, "0/1 nodes are available: 1 Insufficient cpu.");
    let told = problem(&unscheduled("0/1 nodes are available: 1 Insufficient hugepages-2Mi."), &[]);
    assert_eq!(told.reason, Reason::PodNoHugepages);
}

#[test]
fn what_is_missing_is_told() {
    let config = waiting("CreateContainerConfigError", "configmap \"settings\" not found");
    let told = problem(&pod("a", config), &[]);
    assert_eq!(told.reason, Reason::PodConfigMissing);
    assert!(told.message.contains("settings"));
    let creating = pod("a", waiting("ContainerCreating", ""));
    assert_eq!(pod_problem(&creating, &[]), None);
    let mount = event(
        "a",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"keys\" : secret \"keys\" not found",
    );
    let told = problem(&creating, std::slice::from_ref(&mount));
    assert_eq!((told.reason, told.word.as_str()), (Reason::PodConfigMissing, "FailedMount"));
    let of_another = pod("b", waiting("ContainerCreating", ""));
    assert_eq!(pod_problem(&of_another, &[mount]), None);
}

#[test]
fn a_probe_that_fails_is_told_of_its_container() {
    let running = pod("a", json!({"ready": false, "restartCount": 0, "state": {"running": {}}}));
    assert_eq!(pod_problem(&running, &[]), None);
    let told = problem(
        &running,
        &[event(
            "a",
            "Unhealthy",
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
        )],
    );
    assert_eq!(told.reason, Reason::PodProbeFailing);
    assert!(told.message.contains("503"));
}

#[test]
fn a_pod_that_was_evicted_or_took_too_long_says_so() {
    for word in ["Evicted", "DeadlineExceeded"] {
        let pod = json!({"metadata": {"uid": "u"}, "status": {"phase": "Failed", "reason": word, "message": "why"}});
        let told = problem(&pod, &[]);
        assert_eq!((told.reason, told.word.as_str()), (Reason::PodFailed, word));
    }
}

#[test]
fn of_several_the_hopeless_one_is_told() {
    let pods = [
        pod("a", waiting("ErrImagePull", "dial tcp: connection refused")),
        pod("b", waiting("ErrImagePull", "registry.lab:5000/app:v2: not found")),
        pod("c", waiting("CreateContainerConfigError", "secret \"s\" not found")),
    ];
    let told = explain(&json!({"metadata": {"uid": "o"}}), &pods, &[]).unwrap();
    assert!(told.hopeless && told.message.starts_with("pod b: "), "{told:?}");
}

#[test]
fn pods_of_an_older_generation_do_not_speak_for_the_newest() {
    let pods = [pod("a", waiting("ErrImagePull", "registry.lab:5000/app:v2: not found"))];
    let at = |seen: i64| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 2}, "status": {"observedGeneration": seen}});
    assert_eq!(explain(&at(1), &pods, &[]), None);
    assert!(explain(&at(2), &pods, &[]).is_some());
}

#[test]
fn an_object_without_pods_speaks_for_itself() {
    let object = json!({"kind": "DaemonSet", "metadata": {"uid": "uid-ds"}, "status": {}});
    let quota = event(
        "ds",
        "FailedCreate",
        "Error creating: pods \"x\" is forbidden: exceeded quota: small",
    );
    let told = explain(&object, &[], &[quota]).unwrap();
    assert_eq!((told.reason, told.word.as_str()), (Reason::PodFailed, "FailedCreate"));
    let object = json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m"}]}});
    assert_eq!(explain(&object, &[], &[]).unwrap().message, "m");
    assert_eq!(explain(&json!({}), &[], &[]), None);
}

#[test]
fn a_selector_becomes_text() {
    let id = ObjectId {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: Some("x".into()),
        name: "web".into(),
    };
    let object = json!({"metadata": {"namespace": "x"}, "spec": {"selector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]}}});
    let labels = "app=web,tier in (a,b),!old".to_owned();
    assert_eq!(pods_of(&id, &object), Some(PodsOf::Labels { namespace: "x".into(), labels }));
    // A selector of nothing would be every pod of the namespace.
    assert_eq!(pods_of(&id, &json!({"metadata": {"namespace": "x"}})), None);
}

#[test]
fn only_pods_of_the_newest_revision_count() {
    let revision = |hash: &str, number: i64, owner: &str| {
        json!({"metadata": {"labels": {"pod-template-hash": hash}, "ownerReferences": [{"uid": owner}],
                            "annotations": {"deployment.kubernetes.io/revision": number.to_string()}}})
    };
    let of =
        |hash: &str| json!({"metadata": {"name": hash, "labels": {"pod-template-hash": hash}}});
    let object = json!({"metadata": {"uid": "o"}});
    let revisions =
        [revision("new", 10, "o"), revision("old", 9, "o"), revision("foreign", 11, "p")];
    let pods = newest_pods(&object, &revisions, vec![of("old"), of("new"), of("foreign")]);
    assert_eq!(pods, [of("new")]);
    assert_eq!(newest_pods(&object, &[], vec![of("old")]).len(), 1);
    let controller = json!({"revision": 2, "metadata": {"labels": {"controller-revision-hash": "b"}, "ownerReferences": [{"uid": "o"}]}});
    let pod = |hash: &str| json!({"metadata": {"labels": {"controller-revision-hash": hash}}});
    assert_eq!(newest_pods(&object, &[controller], vec![pod("a"), pod("b")]), [pod("b")]);
    let of_a_set =
        json!({"revision": 2, "metadata": {"name": "set-b", "ownerReferences": [{"uid": "o"}]}});
    let pods = vec![pod("set-a"), pod("set-b")];
    assert_eq!(newest_pods(&object, &[of_a_set], pods), [pod("set-b")]);
}

proptest! {
    #[test]
    fn a_pod_that_is_ready_has_no_problem(
        word in "[A-Za-z]{0,20}", restarts in 0..9i64, code in 0..200i64, said in "\\PC{0,40}",
    ) {
        let container = json!({"ready": true, "restartCount": restarts, "state": {"waiting": {"reason": word, "message": said}},
                               "lastState": {"terminated": {"exitCode": code, "reason": "OOMKilled"}}});
        let mut pod = pod("a", container);
        pod["status"]["conditions"][1]["status"] = json!("True");
        prop_assert_eq!(pod_problem(&pod, &[event("a", "FailedMount", &said)]), None);
    }

    /// Whatever the words are, giving up early is only for what was seen often enough.
    #[test]
    fn few_crashes_are_never_hopeless(restarts in 0..CRASHES, code in 1..255i64, said in "\\PC{0,40}") {
        let mut container = waiting("CrashLoopBackOff", &said);
        container["restartCount"] = json!(restarts);
        container["lastState"] = json!({"terminated": {"exitCode": code, "reason": "Error", "message": said}});
        prop_assert!(!pod_problem(&pod("a", container), &[]).unwrap().hopeless);
    }
}
