//! One node of real Kubernetes, from its start to its end.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::cache::BUILD_VARIABLE;
use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeError, NodeSpec, REGISTRY, Switch};
use holdfast_poll::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The node has its label and taint, keeps back what it was told to, shows the machine's huge
/// pages, and applied the administrator's manifest but not the disabled one.
fn is_as_asked(node: &mut Node) {
    let pages =
        || std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let before = pages().ok();
    let text = node.kubectl(&["get", "node", "node1", "-o", "json"]).unwrap();
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    let label = |name: &str| object["metadata"]["labels"][name].as_str().map(str::to_owned);
    assert_eq!(label("site").as_deref(), Some("here"));
    let taints = object["spec"]["taints"].to_string();
    assert!(taints.contains(r#""effect":"PreferNoSchedule","key":"kept""#), "{taints}");
    let status = &object["status"];
    let cpus: u64 = status["capacity"]["cpu"].as_str().unwrap().parse().unwrap();
    assert_eq!(status["allocatable"]["cpu"], format!("{}m", cpus * 1000 - 250));
    // Others on this machine may change the pool; then there is nothing to compare.
    if let Some(pages) = before.filter(|before| pages().ok().as_ref() == Some(before)) {
        let told = status["allocatable"]["hugepages-2Mi"].as_str().unwrap();
        if pages.trim() == "0" { assert_eq!(told, "0") } else { assert_ne!(told, "0") }
    }
    node.until("the manifest is applied", Duration::from_secs(20), |node| {
        let words = ["get", "configmap", "wanted"];
        node.kubectl(&words).map(|_| ()).map_err(|error| error.to_string())
    })
    .unwrap();
    assert!(node.kubectl(&["get", "configmap", "unwanted"]).is_err(), "it is disabled");
}

/// Kinds that the API server learns while it runs: objects of a custom kind, and an API whose
/// server does not exist. No way to apply them makes the API server panic.
fn takes_kinds_of_others(node: &mut Node) {
    let apply = |node: &Node, manifests: &str| {
        node.apply(manifests)?;
        let path = node.state().join("apply.yaml").display().to_string();
        node.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &path])
    };
    let schema = "{type: object, x-kubernetes-preserve-unknown-fields: true}";
    apply(
        node,
        &format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
             metadata: {{name: boats.lab.example}}\n\
             spec:\n  group: lab.example\n  scope: Namespaced\n  names: {{kind: Boat, plural: boats}}\n  \
             versions:\n  - name: v1\n    served: true\n    storage: true\n    \
             schema: {{openAPIV3Schema: {schema}}}\n---\n\
             apiVersion: apiregistration.k8s.io/v1\nkind: APIService\n\
             metadata: {{name: v1.absent.example}}\n\
             spec:\n  group: absent.example\n  version: v1\n  groupPriorityMinimum: 100\n  \
             versionPriority: 10\n  insecureSkipTLSVerify: true\n  \
             service: {{namespace: default, name: absent}}\n"
        ),
    )
    .unwrap();
    node.until("a custom object is applied", Duration::from_secs(20), |node| {
        let boat = "apiVersion: lab.example/v1\nkind: Boat\nmetadata: {name: one, labels: {a: b}}\n\
                    spec: {masts: 2, crew: {cook: ann, pilot: ben}}\n";
        apply(node, boat).map(|_| ()).map_err(|error| error.to_string())
    })
    .unwrap();
    let fields = "jsonpath={.items[*].spec.masts} {.items[*].spec.crew.pilot}";
    assert_eq!(node.kubectl(&["get", "boats", "-o", fields]).unwrap(), "2 ben");
    let service = "apiservice/v1.absent.example";
    node.kubectl(&["wait", "--for=condition=Available=false", service, "--timeout=20s"]).unwrap();
    node.kubectl(&["delete", "crd/boats.lab.example", service]).unwrap();
    // k3s writes to its output, the laboratory's parts to a file.
    for log in [node.state().join("k3s.log"), node.data("log/kubernetes.log")] {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let panics: Vec<&str> = text.lines().filter(|line| line.contains("panic")).collect();
        assert_eq!(panics, [] as [&str; 0], "{}", log.display());
    }
}

fn interfaces() -> BTreeSet<String> {
    std::fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// With the kubelet's own rights a node may change its own object, and nobody else's.
fn changes_itself_only(node: &Node, own: &str, other: &str) {
    let annotate = |name: &str| {
        node.kubectl(&[
            "--kubeconfig=/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
            "annotate",
            "--overwrite",
            "node",
            name,
            "holdfast.dev/test=1",
        ])
    };
    annotate(own).unwrap();
    let refused = annotate(other).unwrap_err().to_string();
    assert!(refused.contains("is not allowed to modify node"), "{refused}");
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: web\n    image: {image}\n    \
         env: [{{name: TEXT, value: hello}}]\n    \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
    )
}

#[test]
fn a_node_comes_up_runs_a_pod_and_leaves_nothing() {
    let Some(kubernetes) = kubernetes("a_node_comes_up_runs_a_pod_and_leaves_nothing") else {
        return;
    };
    let before = interfaces();
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());

    let mut spec = NodeSpec::server("node1");
    spec.config.push_str(
        "node-label: [site=here]\nnode-taint: [\"kept=free:PreferNoSchedule\"]\n\
         kubelet-arg: [\"system-reserved=cpu=250m,memory=200Mi\"]\ndisable: [unwanted]\n",
    );
    let manifests = folder.path().join("own/var/lib/rancher/k3s/server/manifests");
    for name in ["wanted", "unwanted"] {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        let path = manifests.join(format!("{name}.yaml"));
        holdfast_durable::write(&path, text.as_bytes(), 0o600).unwrap();
    }
    let mut node = Node::start(&kubernetes, folder.path(), spec).unwrap();
    let image = format!("{REGISTRY}/app:v1");
    let _registry = node.registry(&[node.web_image(&image).unwrap()]).unwrap();
    passed("the registry answers");
    node.wait_up(Duration::from_secs(120)).unwrap();
    passed("k3s says that it is ready");
    assert_eq!(node.kubectl(&["get", "--raw=/readyz"]).unwrap(), "ok");
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    passed("the node is Ready");
    is_as_asked(&mut node);
    takes_kinds_of_others(&mut node);
    passed("custom kinds are taken");

    assert!(node.token().unwrap().starts_with("K10"));
    node.k3s(&["crictl", "pull", &image]).unwrap();
    passed("the image is pulled over CRI");
    node.apply(&pod("web", &image)).unwrap();
    node.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).unwrap();
    passed("the pod is Ready");
    assert_eq!(
        node.kubectl(&["exec", "web", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])
            .unwrap(),
        "hello\n"
    );

    node.k3s(&["etcd-snapshot", "save"]).unwrap();
    let listed = node.k3s(&["etcd-snapshot", "ls"]).unwrap();
    assert!(listed.contains("on-demand-node1-"), "{listed}");
    passed("the snapshot is taken");

    assert_eq!(node.stop().unwrap(), [] as [String; 0]);
    passed("it ended");
    assert_eq!(interfaces(), before);
}

#[test]
fn a_killed_node_leaves_nothing_and_its_datastore_comes_back() {
    let Some(kubernetes) = kubernetes("a_killed_node_leaves_nothing_and_its_datastore_comes_back")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    node.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]).unwrap();
    node.k3s(&["etcd-snapshot", "save"]).unwrap();
    let kept = ["get", "configmap", "kept", "-o", "jsonpath={.data.a}"];
    node.kubectl(&["create", "configmap", "later"]).unwrap();
    assert_eq!(node.kill(), [] as [String; 0]);

    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    node.wait_up(Duration::from_secs(120)).unwrap();
    assert_eq!(node.kubectl(&kept).unwrap(), "b");
    node.kubectl(&["get", "configmap", "later"]).unwrap();
    let snapshots = node.data("server/db/snapshots");
    let taken = std::fs::read_dir(&snapshots).unwrap().flatten().next().unwrap().file_name();
    assert_eq!(node.stop().unwrap(), [] as [String; 0]);

    let mut spec = NodeSpec::server("node1");
    spec.config.push_str(&format!(
        "cluster-reset: true\ncluster-reset-restore-path: /var/lib/rancher/k3s/server/db/snapshots/{}\n",
        taken.display()
    ));
    match Node::start(&kubernetes, folder.path(), spec)
        .and_then(|mut node| node.wait_up(Duration::from_secs(30)))
    {
        Err(NodeError::Ended { status, .. }) => assert!(status.success(), "{status}"),
        other => panic!("{other:?}"),
    }

    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    assert_eq!(node.kubectl(&kept).unwrap(), "b");
    assert!(node.kubectl(&["get", "configmap", "later"]).is_err(), "it came after the snapshot");
    assert_eq!(node.stop().unwrap(), [] as [String; 0]);

    if !kubernetes.is_real() {
        let drill = Drill { kubernetes: &kubernetes, data: folder.path().join("drill") };
        assert_eq!(drill.try_out(&snapshots.join(taken), &kept), "b");
    }
}

/// A snapshot tried out in a datastore to be thrown away, beside everything, with nothing but
/// loopback.
struct Drill<'a> {
    kubernetes: &'a Kubernetes,
    data: PathBuf,
}

impl Drill<'_> {
    fn try_out(&self, snapshot: &Path, question: &[&str]) -> String {
        let from = format!("--cluster-reset-restore-path={}", snapshot.display());
        let reset = ["--cluster-reset", &from];
        assert!(self.server(&reset).status().unwrap().success());
        // As with k3s, once.
        let again = self.server(&reset).output().unwrap();
        assert!(String::from_utf8_lossy(&again.stderr).contains("was reset already"), "{again:?}");
        let ports = ["--disable-agent", "--https-listen-port=7443"];
        let mut server = self.server(&ports).spawn().unwrap();
        let answer = until("the question is answered", Duration::from_secs(60), || {
            let mut kubectl = Command::new("nsenter");
            kubectl.arg(format!("--net=/proc/{}/ns/net", server.id())).arg(self.kubernetes.k3s());
            kubectl.arg("kubectl").args(question).env("KUBECONFIG", self.data.join("admin.yaml"));
            let output = kubectl.output().unwrap();
            assert_eq!(server.try_wait().unwrap(), None, "it ended");
            if output.status.success() { Ok(output) } else { Err(output) }
        });
        kill(Pid::from_raw(server.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(server.wait().unwrap().success());
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    fn server(&self, options: &[&str]) -> Command {
        let alone = "ip link set lo up && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", alone, "sh"]).arg(self.kubernetes.k3s());
        command.args(["server", "--config=/dev/null", "--node-name=drill"]).arg("--data-dir");
        command.arg(&self.data).arg("--write-kubeconfig").arg(self.data.join("admin.yaml"));
        command.args(options).env_remove("NOTIFY_SOCKET");
        command.env(BUILD_VARIABLE, self.kubernetes.built().root());
        command
    }
}

#[test]
fn a_second_node_joins_with_the_token() {
    let Some(kubernetes) = kubernetes("a_second_node_joins_with_the_token") else { return };
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::new(&kubernetes).unwrap();
    let spec = NodeSpec { switch: Some(switch.pid()), ..NodeSpec::server("node1") };
    let mut first = Node::start(&kubernetes, &folder.path().join("1"), spec).unwrap();
    let image = format!("{REGISTRY}/app:v1");
    let _registry = first.registry(&[first.web_image(&image).unwrap()]).unwrap();
    first.wait_up(Duration::from_secs(120)).unwrap();
    first.wait_ready("node1", Duration::from_secs(120)).unwrap();

    let started = Instant::now();
    let spec = NodeSpec::agent("node2", "10.200.0.2/24", &first, &first.token().unwrap());
    let mut second = Node::start(&kubernetes, &folder.path().join("2"), spec).unwrap();
    second.wait_up(Duration::from_secs(120)).unwrap();
    first.wait_ready("node2", Duration::from_secs(120)).unwrap();
    eprintln!("{:6.2} s  the second node is Ready", started.elapsed().as_secs_f64());

    changes_itself_only(&first, "node1", "node2");
    changes_itself_only(&second, "node2", "node1");
    let there = pod("there", &image).replace("spec:\n", "spec:\n  nodeName: node2\n");
    let here = pod("here", &image).replace("spec:\n", "spec:\n  nodeName: node1\n");
    first.apply(&format!("{there}---\n{here}")).unwrap();
    first
        .kubectl(&["wait", "--for=condition=Ready", "pod/here", "pod/there", "--timeout=60s"])
        .unwrap();
    let address =
        first.kubectl(&["get", "pod", "there", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let url = format!("http://{address}:8080/");
    let answer = first.kubectl(&["exec", "here", "--", "wget", "-q", "-O", "-", &url]).unwrap();
    assert_eq!(answer, "hello\n");

    assert_eq!(second.stop().unwrap(), [] as [String; 0]);
    assert_eq!(first.stop().unwrap(), [] as [String; 0]);
}

#[test]
fn a_mistyped_option_is_told_by_its_name() {
    let Some(kubernetes) = kubernetes("a_mistyped_option_is_told_by_its_name") else { return };
    if kubernetes.is_real() {
        eprintln!("skipped: a_mistyped_option_is_told_by_its_name: a real k3s only warns");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut spec = NodeSpec::server("node1");
    spec.config.push_str("node-lable: [a=b]\n");
    let mut node = Node::start(&kubernetes, folder.path(), spec);
    let error = match &mut node {
        Ok(node) => node.wait_up(Duration::from_secs(20)).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("unknown option \"node-lable\""), "{error}");
}
