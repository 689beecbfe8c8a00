//! The door to a real API server: one cluster, from the first connection to a server that freezes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

use holdfast_api::Reason;
use holdfast_api::kubernetes::KubernetesState;
use holdfast_cluster::kubernetes::{
    Api, ApiError, Applied, Explanation, Mode, Propagation, Readiness,
};
use holdfast_cluster::object::{Object, ObjectId, Origin};
use holdfast_cluster::status;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec};
use holdfast_poll::until_async as until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An image that is there. Others are asked of the registry's own address: where a mirror lacks an
/// image, containerd goes on to the registry itself, and only tells that there is none.
const GOOD: &str = "registry.lab:5000/app:v1";
const DRY_RUN: Mode = Mode { dry_run: true, force: false };
const APPLY: Mode = Mode { dry_run: false, force: false };
const FORCE: Mode = Mode { dry_run: false, force: true };

#[test]
fn the_door_to_a_real_api_server() {
    let Some(kubernetes) = kubernetes("the_door_to_a_real_api_server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    let _registry = node.registry(&[node.web_image(GOOD).unwrap()]).unwrap();
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();

    let told = std::thread::scope(|scope| {
        scope.spawn(|| node.in_network(|| story(&node)).unwrap()).join()
    });
    if let Err(why) = told {
        let text = why.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let why = why.downcast_ref::<String>().cloned().or(text).unwrap_or_default();
        let log = std::fs::read(node.data("log/kubernetes.log")).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        panic!("Kubernetes' log ends with\n{end}\nthe story broke off: {why}");
    }
    assert_eq!(node.stop().unwrap(), [] as [String; 0]);
}

async fn story(node: &Node) {
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let api = Api::connect(&admin(node)).unwrap();
    it_answers(&api).await;
    the_kubeconfig_may_change(node).await;
    a_kubelet_sees_its_node(node).await;
    passed("connected");
    // What takes its time is begun first.
    for (name, image, env) in [
        ("web", GOOD, json!([])),
        ("gone", "127.0.0.1:5000/app:v404", json!([])),
        ("crash", GOOD, json!([{"name": "CRASH_AFTER", "value": "50ms"}])),
    ] {
        assert_eq!(
            api.apply(&deployment(name, image, env), APPLY).await.unwrap(),
            Applied::Created
        );
    }
    applying_says_what_it_did(node, &api).await;
    what_is_wrong_is_refused_with_its_field(&api).await;
    fields_of_others_stay(node, &api).await;
    leases_change_hands(&api).await;
    passed("applied");
    a_kind_made_a_moment_ago_is_used(&api).await;
    passed("a custom resource");
    workloads_become_ready_or_tell_why(&api).await;
    passed("workloads");
    a_budget_keeps_its_pod(node, &api).await;
    passed("a budget");
    it_is_seen_from_outside(&api).await;
    a_frozen_server_is_noticed(node, &api).await;
    passed("a frozen server");
}

async fn it_answers(api: &Api) {
    api.ready().await.unwrap();
    assert!(api.version().await.unwrap().starts_with("v1."));
    assert_eq!(api.get(&id("v1", "ConfigMap", "nobody")).await.unwrap(), None);
    let error = api.get(&id("example.org/v1", "Gadget", "g")).await.unwrap_err();
    assert!(matches!(error, ApiError::UnknownKind { .. }), "{error:?}");
}

async fn the_kubeconfig_may_change(node: &Node) {
    let copy = node.state().join("copy.yaml");
    let text = std::fs::read(admin(node)).unwrap();
    let put = |bytes: &[u8]| holdfast_durable::write(&copy, bytes, 0o600).unwrap();
    put(&text[..text.len() / 2]);
    let error = Api::connect(&copy).unwrap_err();
    assert!(matches!(error, ApiError::Kubeconfig { .. }) && error.retryable(), "{error:?}");
    put(&text);
    let api = Api::connect(&copy).unwrap();
    api.ready().await.unwrap();
    put(&text[..text.len() / 2]);
    api.ready().await.unwrap();
    put(String::from_utf8(text).unwrap().replace(":6443", ":6442").as_bytes());
    let error = api.ready().await.unwrap_err();
    assert!(matches!(&error, ApiError::Unavailable { server, .. } if server.ends_with(":6442")));
    assert!(error.retryable());
}

async fn a_kubelet_sees_its_node(node: &Node) {
    let path = node.data("agent/kubelet.kubeconfig");
    if !path.is_file() {
        eprintln!("skipped: there is no {}", path.display());
        return;
    }
    let api = Api::connect(&path).unwrap();
    let own = id("v1", "Node", "node1");
    let annotation = |value: Option<&str>| {
        BTreeMap::from([("holdfast.dev/test".to_owned(), value.map(str::to_owned))])
    };
    api.annotate(&own, &annotation(Some("here"))).await.unwrap();
    let read = api.get(&own).await.unwrap().unwrap();
    assert_eq!(read["metadata"]["annotations"]["holdfast.dev/test"], "here");
    api.annotate(&own, &annotation(None)).await.unwrap();
    let read = api.get(&own).await.unwrap().unwrap();
    assert!(read["metadata"]["annotations"].get("holdfast.dev/test").is_none());
    let secrets = api.list("v1", "Secret", Some("kube-system"), "", "").await.unwrap_err();
    assert_eq!(secrets.reason(), Reason::KubernetesForbidden, "{secrets:?}");
    let seen = status::observe(&api, "node1").await.unwrap();
    assert!(seen.is_ready(), "{seen:?}");
}

async fn applying_says_what_it_did(node: &Node, api: &Api) {
    let one = config_map("one", "1");
    assert_eq!(api.apply(&one, DRY_RUN).await.unwrap(), Applied::Created);
    assert_eq!(api.get(&one.id).await.unwrap(), None);
    assert_eq!(api.apply(&one, APPLY).await.unwrap(), Applied::Created);
    assert_eq!(api.apply(&one, APPLY).await.unwrap(), Applied::Unchanged);
    node.kubectl(&["annotate", "configmap", "one", "example.org/theirs=yes"]).unwrap();
    assert_eq!(api.apply(&one, APPLY).await.unwrap(), Applied::Unchanged);
    assert_eq!(api.apply(&config_map("one", "2"), DRY_RUN).await.unwrap(), Applied::Changed);
    assert_eq!(api.apply(&config_map("one", "2"), APPLY).await.unwrap(), Applied::Changed);
    let read = api.get(&one.id).await.unwrap().unwrap();
    assert_eq!(read["data"]["k"], "2");
    assert_eq!(read["metadata"]["annotations"]["example.org/theirs"], "yes");

    let mut elsewhere = config_map("one", "1");
    elsewhere.id.namespace = Some("nowhere".into());
    elsewhere.value["metadata"]["namespace"] = json!("nowhere");
    let error = api.apply(&elsewhere, DRY_RUN).await.unwrap_err();
    assert_eq!(error.missing_namespace(), Some("nowhere"), "{error:?}");
}

async fn what_is_wrong_is_refused_with_its_field(api: &Api) {
    let mut unknown = deployment("wrong", GOOD, json!([]));
    unknown.value["spec"]["replica"] = json!(1);
    let mut invalid = deployment("wrong", GOOD, json!([]));
    invalid.value["spec"]["replicas"] = json!(-1);
    for (wrong, field) in [(unknown, "spec.replica"), (invalid, "spec.replicas")] {
        for mode in [DRY_RUN, APPLY] {
            let error = api.apply(&wrong, mode).await.unwrap_err();
            let ApiError::Refused { fields, .. } = &error else { panic!("{error:?}") };
            assert_eq!(fields[..], [field], "{error:?}");
            assert_eq!(error.reason(), Reason::ReleaseApplyRefused);
        }
        assert_eq!(api.get(&wrong.id).await.unwrap(), None);
    }
}

async fn fields_of_others_stay(node: &Node, api: &Api) {
    let theirs = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\ndata: {k: theirs}\n";
    node.apply(theirs).unwrap();
    let ours = config_map("theirs", "ours");
    let error = api.apply(&ours, APPLY).await.unwrap_err();
    let ApiError::Conflict { fields, .. } = &error else { panic!("{error:?}") };
    assert_eq!(fields[0].field, ".data.k");
    assert!(fields[0].manager.starts_with("kubectl"), "{fields:?}");
    assert_eq!(error.reason(), Reason::ReleaseConflict);
    assert_eq!(api.get(&ours.id).await.unwrap().unwrap()["data"]["k"], "theirs");
    assert_eq!(api.apply(&ours, FORCE).await.unwrap(), Applied::Changed);
}

async fn leases_change_hands(api: &Api) {
    let id = id("coordination.k8s.io/v1", "Lease", "lock");
    let lease = object(&id, json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 30}}));
    let mut first = api.create(&lease).await.unwrap();
    let error = api.create(&lease).await.unwrap_err();
    assert!(matches!(error, ApiError::Exists { .. }), "{error:?}");
    let mut second = first.clone();
    first["spec"]["holderIdentity"] = json!("b");
    let now = api.update(&id, &first).await.unwrap();
    assert_eq!(now["spec"]["holderIdentity"], "b");
    second["spec"]["holderIdentity"] = json!("c");
    let error = api.update(&id, &second).await.unwrap_err();
    assert!(matches!(error, ApiError::Stale { .. }), "{error:?}");

    let uid = now["metadata"]["uid"].as_str().unwrap();
    let error = api.delete(&id, Some("other"), Propagation::Background).await.unwrap_err();
    assert!(matches!(error, ApiError::Stale { .. }), "{error:?}");
    assert!(api.delete(&id, Some(uid), Propagation::Background).await.unwrap());
    assert!(!api.delete(&id, Some(uid), Propagation::Background).await.unwrap());
}

async fn a_kind_made_a_moment_ago_is_used(api: &Api) {
    let definition = object(
        &id("apiextensions.k8s.io/v1", "CustomResourceDefinition", "gadgets.example.org"),
        json!({"spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}],
        }}),
    );
    let gadget = object(&id("example.org/v1", "Gadget", "g"), json!({"spec": {"size": 3}}));
    let error = api.get(&gadget.id).await.unwrap_err();
    assert!(matches!(error, ApiError::UnknownKind { .. }), "{error:?}");
    api.apply(&definition, APPLY).await.unwrap();
    until("the definition is established", Duration::from_secs(60), async || {
        is_ready(api, &definition.id).await
    })
    .await;
    // It is served a moment after it is established.
    until("gadgets are known", Duration::from_secs(60), async || {
        api.get(&gadget.id).await.map_err(|error| format!("{error:?}"))
    })
    .await;
    let mut wanted = vec![&definition.id, &gadget.id];
    until("a gadget is made", Duration::from_secs(60), async || {
        api.apply(&gadget, APPLY).await.map_err(|error| format!("{error:?}"))
    })
    .await;
    let map = config_map("one", "").id;
    wanted.push(&map);
    let managed = api.managed("edge").await.unwrap();
    for wanted in wanted {
        let wanted = api.place(wanted).await.unwrap();
        assert!(managed.contains(&wanted), "{wanted} is not in {managed:?}");
    }
    assert!(
        !managed.iter().any(|one| one.kind == "Pod" || one.kind == "ReplicaSet"),
        "{managed:?}"
    );
    assert_eq!(api.managed("other").await.unwrap(), []);

    assert!(api.delete(&definition.id, None, Propagation::Foreground).await.unwrap());
    until("the kind is gone", Duration::from_secs(60), async || match api.get(&gadget.id).await {
        Err(ApiError::UnknownKind { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

async fn workloads_become_ready_or_tell_why(api: &Api) {
    let of = |name| id("apps/v1", "Deployment", name);
    until("web is ready", Duration::from_secs(60), async || is_ready(api, &of("web")).await).await;
    let told = async |name, wanted: &dyn Fn(&Explanation) -> bool| {
        until(&format!("{name} is explained"), Duration::from_secs(60), async || {
            assert_ne!(api.readiness(&of(name)).await.unwrap(), Some(Readiness::Ready), "{name}");
            match api.explain(&of(name)).await.unwrap() {
                Some(told) if wanted(&told) => Ok(told),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    };
    let told_of_gone =
        told("gone", &|one| one.reason == Reason::PodImagePull && one.hopeless).await;
    assert!(told_of_gone.message.contains("app:v404"), "{told_of_gone:?}");
    let crash = told("crash", &|one| one.reason == Reason::PodCrashing).await;
    assert!(crash.message.contains("ended with code 3"), "{crash:?}");

    // A new version that cannot start is explained by its own pods; the old ones still run.
    let next = deployment("web", "127.0.0.1:5000/app:v405", json!([]));
    assert_eq!(api.apply(&next, APPLY).await.unwrap(), Applied::Changed);
    let web = told("web", &|one| one.reason == Reason::PodImagePull && one.hopeless).await;
    assert!(web.message.contains("app:v405"), "{web:?}");
    // And one that mends a crash is not spoken against by the pods before it.
    api.apply(&deployment("crash", GOOD, json!([])), FORCE).await.unwrap();
    until("crash is mended", Duration::from_secs(60), async || {
        if let Some(told) = api.explain(&of("crash")).await.unwrap() {
            assert_ne!(told.reason, Reason::PodCrashing, "{told:?}");
        }
        is_ready(api, &of("crash")).await
    })
    .await;
}

async fn a_budget_keeps_its_pod(node: &Node, api: &Api) {
    let version = match api.resource("policy/v1", "PodDisruptionBudget").await {
        Ok(resource) => resource.api_version,
        Err(_) => "policy/v1beta1".to_owned(),
    };
    node.apply(&format!(
        "apiVersion: {version}\nkind: PodDisruptionBudget\nmetadata: {{name: keep}}\n\
         spec: {{minAvailable: 1, selector: {{matchLabels: {{app: crash}}}}}}\n"
    ))
    .unwrap();
    let pods = api.list("v1", "Pod", Some("default"), "app=crash", "").await.unwrap();
    let running = pods.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).unwrap();
    let name = running["metadata"]["name"].as_str().unwrap();
    let error = until("the budget is in force", Duration::from_secs(60), async || {
        match api.evict("default", name, None).await {
            Err(error @ ApiError::Budget { .. }) if error.to_string().contains("keep") => Ok(error),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(error.retryable() && error.reason() == Reason::NodeDrainBlocked);
    let budget = id(&version, "PodDisruptionBudget", "keep");
    assert!(api.delete(&budget, None, Propagation::Background).await.unwrap());
    let uid = running["metadata"]["uid"].as_str();
    assert!(!api.evict("default", name, Some("of an earlier pod")).await.unwrap());
    assert!(api.evict("default", name, uid).await.unwrap());
    assert!(!api.evict("default", "nobody", None).await.unwrap());
}

async fn it_is_seen_from_outside(api: &Api) {
    let seen = status::observe(api, "node1").await.unwrap();
    assert!(seen.is_ready(), "{seen:?}");
    for name in ["apiserver", "etcd", "kubelet", "containerd"] {
        assert!(seen.components.iter().any(|one| one.name == name && one.ok), "{name}: {seen:?}");
    }
    assert!(seen.components.iter().all(|one| one.ok), "{:?}", seen.components);
    assert!(seen.conditions.iter().all(|one| one.ok) && seen.conditions.len() >= 4, "{seen:?}");
    assert!(seen.pods.deployed >= 1 && seen.pods.failed >= 1, "{:?}", seen.pods);
    assert!(seen.pods.problems.iter().any(|one| one.code == Reason::PodImagePull));
    let nobody = status::observe(api, "nobody").await.unwrap();
    assert!(!nobody.is_ready() && nobody.conditions.is_empty());
    let state = KubernetesState {
        components: seen.components,
        conditions: seen.conditions,
        pods: seen.pods,
        ..KubernetesState::default()
    };
    let page = status::metrics::render(&state, jiff::Timestamp::now());
    assert!(page.contains("holdfast_node_not_true_condition{condition=\"Ready\"} 0\n"), "{page}");
}

/// Stops a process, and lets it go on when dropped.
struct Frozen(Pid);

impl Frozen {
    /// Every thread stands when this returns: on a busy machine those that the signal has not
    /// reached answer for a while yet.
    async fn new(pid: i32) -> Self {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let frozen = Frozen(Pid::from_raw(pid));
        until("every thread stands", Duration::from_secs(30), async || {
            let going = threads_going(pid);
            if going.is_empty() { Ok(()) } else { Err(going) }
        })
        .await;
        frozen
    }
}

/// What `/proc/PID/task/TID/stat` says of threads that are not stopped (proc_pid_stat(5)).
fn threads_going(pid: i32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats =
        tasks.flatten().filter_map(|one| std::fs::read_to_string(one.path().join("stat")).ok());
    // The state follows the name in brackets, which may have brackets of its own.
    let stands = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    stats.filter(|stat| !stands(stat)).collect()
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

async fn a_frozen_server_is_noticed(node: &Node, api: &Api) {
    let Some(pid) = api_server(node) else {
        eprintln!("skipped: the process of the API server is not found");
        return;
    };
    let frozen = Frozen::new(pid).await;
    let since = Instant::now();
    let error = api.get(&id("v1", "ConfigMap", "one")).await.unwrap_err();
    let took = since.elapsed();
    assert!(matches!(error, ApiError::Unavailable { .. }) && error.retryable(), "{error:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    drop(frozen);
    until("it answers again", Duration::from_secs(30), async || {
        api.ready().await.map_err(|error| format!("{error:?}"))
    })
    .await;
}

/// The process with the API server in it: the laboratory runs all parts `together`, k3s names
/// itself `k3s server`. It may have a PID namespace of its own; the network is the node's.
fn api_server(node: &Node) -> Option<i32> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network(&node.pid()?.to_string())?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pid = name.parse().ok()?;
        let words = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = words.contains("\0together\0") || words.contains("k3s server");
        (is_it && network(&name)? == own).then_some(pid)
    })
}

fn admin(node: &Node) -> PathBuf {
    node.state().join("etc/rancher/k3s/k3s.yaml")
}

fn id(api_version: &str, kind: &str, name: &str) -> ObjectId {
    ObjectId {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: None,
        name: name.into(),
    }
}

fn object(id: &ObjectId, body: Value) -> Object {
    let mut value = body;
    value["apiVersion"] = json!(id.api_version);
    value["kind"] = json!(id.kind);
    value["metadata"] = json!({"name": id.name, "labels": {"holdfast.dev/managed-by": "edge"}});
    Object { id: id.clone(), origin: Origin::default(), value }
}

fn config_map(name: &str, data: &str) -> Object {
    object(&id("v1", "ConfigMap", name), json!({"data": {"k": data}}))
}

fn deployment(name: &str, image: &str, env: Value) -> Object {
    let container = json!({
        "name": "web", "image": image, "env": env,
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
    });
    object(
        &id("apps/v1", "Deployment", name),
        json!({"spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
        }}),
    )
}

async fn is_ready(api: &Api, id: &ObjectId) -> Result<(), String> {
    match api.readiness(id).await.unwrap() {
        Some(Readiness::Ready) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
