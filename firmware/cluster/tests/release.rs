//! Releases on a real Kubernetes: one cluster, from the first release to a forced one.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod content;

use content::Content;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseRef, ReleaseState, release_digest};
use holdfast_api::paths::Root;
use holdfast_cluster::images::{OwnNode, PrePuller, Runtime};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::engine::{ReleaseEngine, Releases};
use holdfast_cluster::release::journal::Kept;
use holdfast_cluster::release::live::Live;
use holdfast_cluster::release::target::Failure;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeError, NodeSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The node's own registry, which containerd asks without TLS, and nobody after it.
const REGISTRY: &str = "127.0.0.1:5000";
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn releases_on_a_real_cluster() {
    let Some(kubernetes) = kubernetes("releases_on_a_real_cluster") else { return };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut spec = NodeSpec::server("node1");
    spec.registries = format!("mirrors:\n  {REGISTRY:?}:\n    endpoint: [\"http://{REGISTRY}\"]\n");
    let mut node = Node::start(&kubernetes, folder.path(), spec).unwrap();
    let image = |tag| node.web_image(&format!("{REGISTRY}/app:{tag}")).unwrap();
    let images = [image("v1"), image("v2")];
    let _registry = node.registry(&images).unwrap();
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    eprintln!("{:6.2} s  the node is Ready", started.elapsed().as_secs_f64());

    let state = tempfile::tempdir().unwrap();
    node.in_network(async || Site::new(&node, state.path(), started).story().await).unwrap();
    assert_eq!(node.stop().unwrap(), [] as [String; 0]);
}

struct Site<'a> {
    node: &'a Node,
    paths: ClusterPaths,
    started: Instant,
    engine: Option<(Releases, JoinHandle<()>)>,
    live: Option<Arc<Live<Content>>>,
}

impl<'a> Site<'a> {
    fn new(node: &'a Node, state: &Path, started: Instant) -> Self {
        let paths = ClusterPaths::new(&Root::new(state));
        let mut site = Site { node, paths, started, engine: None, live: None };
        site.open();
        site
    }

    /// Starts an engine, as after a restart of the manager.
    fn open(&mut self) {
        let pid = self.node.pid().unwrap().to_string();
        let inside = |path: &str| PathBuf::from("/proc").join(&pid).join("root").join(path);
        let runtime = Runtime::connect(&inside("run/k3s/containerd/containerd.sock"));
        // The files name each other by the paths of the node.
        let text = std::fs::read_to_string(self.node.data("agent/kubelet.kubeconfig")).unwrap();
        let text = text.replace("/var/lib/rancher/k3s", &self.node.data("").display().to_string());
        let kubelet = self.node.state().join("kubelet.kubeconfig");
        holdfast_durable::write(&kubelet, text.as_bytes(), 0o600).unwrap();
        let own = OwnNode::new(kubelet, "node1");
        let api = Api::connect(&self.node.state().join("etc/rancher/k3s/k3s.yaml")).unwrap();
        let live = Arc::new(Live::new(api, "node1", PrePuller::start(runtime, own), Content));
        let (engine, handle) = ReleaseEngine::open(&self.paths, Arc::clone(&live));
        self.live = Some(live);
        self.engine = Some((handle, tokio::spawn(engine.run())));
    }

    async fn kill(&mut self) {
        let (_handle, task) = self.engine.take().unwrap();
        self.live = None;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    fn shop(&self, text: &'static str, tag: &'static str) -> Shop {
        Shop {
            text,
            tag,
            crash: false,
            has_old: false,
            extra: "replicas: 1",
            gadget: "size: 3",
            namespace: "shop",
        }
    }

    fn live(&self) -> &Live<Content> {
        self.live.as_ref().unwrap()
    }

    fn handle(&self) -> &Releases {
        &self.engine.as_ref().unwrap().0
    }

    async fn reach(&self, what: &str, is: impl Fn(&ReleaseState) -> bool) -> ReleaseState {
        let mut report = self.handle().report();
        let reached = tokio::time::timeout(PATIENCE, report.wait_for(|report| is(&report.state)));
        let state = match reached.await {
            Ok(report) => report.unwrap().state.clone(),
            Err(_) => panic!("not: {what}: {:#?}", self.handle().state()),
        };
        eprintln!("{:6.2} s  {what}", self.started.elapsed().as_secs_f64());
        state
    }

    /// Wants a release, and waits until it is decided.
    async fn bring(&self, what: &str, kept: &Kept) -> ReleaseState {
        self.handle().want(Some(kept.clone()));
        let decided = [ReleasePhase::Committed, ReleasePhase::RolledBack, ReleasePhase::Refused];
        let is_it = |state: &ReleaseState| {
            state.wanted == kept.release
                && decided.contains(&state.phase)
                && (state.phase != ReleasePhase::Committed
                    || state.good.as_ref() == Some(&kept.release))
        };
        let state = self.reach(what, is_it).await;
        eprintln!("          {:?}", self.handle().report().borrow().took_ms);
        state
    }

    fn get(&self, object: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.node.kubectl(&["get", "-n", "shop", object, "-o", &path]).unwrap()
    }

    /// Waits until the service answers that. Which pods it leads to is told a moment after they are
    /// ready.
    fn answers(&self, want: &str) {
        holdfast_poll::until("the service's answer", PATIENCE, || match self.answer() {
            Ok(said) if said.trim() == want => Ok(()),
            other => Err(other.map_err(|error| error.to_string())),
        });
    }

    fn answer(&self) -> Result<String, NodeError> {
        let url = format!("http://{}:8080/", self.get("service/web", ".spec.clusterIP"));
        self.node.kubectl(&[
            "exec",
            "-n",
            "shop",
            "daemonset/agent",
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            &url,
        ])
    }

    async fn story(&mut self) {
        let one = release(&Shop { has_old: true, ..self.shop("one", "v1") });
        let state = self.bring("the first release", &one).await;
        assert_eq!(state.phase, ReleasePhase::Committed, "{state:#?}");
        self.answers("one");
        let mark = self
            .node
            .kubectl(&[
                "get",
                "node",
                "node1",
                "-o",
                r"jsonpath={.metadata.annotations.holdfast\.dev/release}",
            ])
            .unwrap();
        assert_eq!(mark, one.release.digest);
        self.again_is_nothing(&one).await;

        self.node.kubectl(&["label", "-n", "shop", "deployment/web", "theirs=kept"]).unwrap();
        self.node
            .kubectl(&["annotate", "-n", "shop", "deployment/web", "theirs.example/a=kept"])
            .unwrap();
        self.typos_touch_nothing().await;
        self.a_missing_image_keeps_everything_as_it_is().await;
        let crash = self.a_crash_is_taken_back(&one).await;
        self.killed_while_it_applies().await;

        let state = self.bring("the version that crashed, again", &crash).await;
        assert_eq!(
            (state.phase, state.reason),
            (ReleasePhase::Refused, Some(Reason::ReleaseRefused))
        );
        let mut forced = crash.clone();
        forced.release.force = 1;
        let state = self.bring("the same, forced", &forced).await;
        assert_eq!(
            (state.phase, state.reason),
            (ReleasePhase::RolledBack, Some(Reason::PodCrashing))
        );
        self.answers("three");
        self.what_others_made_stays().await;
        self.kill().await;
    }

    /// A release without namespace and definition, once while others have something in them.
    async fn what_others_made_stays(&self) {
        self.node.kubectl(&["create", "-n", "shop", "configmap", "theirs"]).unwrap();
        let gadget = "apiVersion: lab.example/v1\nkind: Gadget\nmetadata: {name: theirs}\n";
        let path = self.node.state().join("gadget.yaml");
        holdfast_durable::write(&path, gadget.as_bytes(), 0o644).unwrap();
        let path = path.display().to_string();
        self.node.kubectl(&["apply", "-n", "default", "-f", &path]).unwrap();

        let nowhere = "apiVersion: lab.example/v1\nkind: Gadget\nmetadata: {name: two}\n";
        let state = self.bring("a resource without its namespace", &of("nowhere", nowhere)).await;
        let failed = state.failed.last().unwrap();
        assert_eq!((state.phase, failed.reason), (ReleasePhase::Refused, Reason::ReleaseInvalid));
        assert!(failed.message.contains("a.yaml, document 1: metadata.namespace"), "{failed:?}");

        let state = self.bring("a release that has little left", &of("little", &pod("1"))).await;
        assert_eq!(
            (state.phase, state.reason),
            (ReleasePhase::Committed, Some(Reason::ReleaseLeftover)),
            "{state:#?}"
        );
        for left in ["Namespace shop", "CustomResourceDefinition gadgets.lab.example"] {
            assert!(state.message.contains(left), "{}", state.message);
        }
        assert_eq!(self.get("configmap/theirs", ".metadata.name"), "theirs");
        assert!(self.node.kubectl(&["get", "-n", "default", "gadget/theirs"]).is_ok());
        assert!(self.node.kubectl(&["get", "-n", "shop", "deployment/web"]).is_err());

        self.node.kubectl(&["delete", "-n", "shop", "configmap/theirs"]).unwrap();
        self.node.kubectl(&["delete", "-n", "default", "gadget/theirs"]).unwrap();
        let state = self.bring("the next one", &of("less", &pod("2"))).await;
        assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
        assert!(self.node.kubectl(&["get", "namespace", "shop"]).is_err());
        assert!(self.node.kubectl(&["get", "crd", "gadgets.lab.example"]).is_err());
    }

    async fn again_is_nothing(&mut self, one: &Kept) {
        let version = ".metadata.resourceVersion";
        let before = self.get("deployment/web", version);
        assert_eq!(self.handle().plan(one).unwrap().steps(), []);
        self.kill().await;
        self.open();
        let state = self.bring("the same again, after a restart", one).await;
        assert_eq!((state.phase, state.steps), (ReleasePhase::Committed, 0));
        assert_eq!(self.get("deployment/web", version), before);
    }

    async fn typos_touch_nothing(&self) {
        let version = self.get("deployment/web", ".metadata.generation");
        let shop = Shop { extra: "replcas: 2", ..self.shop("typo", "v1") };
        for (what, kept, says) in [
            ("a misspelt field", release(&shop), ["app.yaml, document 2: spec.replcas", "replcas"]),
            (
                "a misspelt field of a custom resource",
                release(&Shop { gadget: "siez: 3", ..self.shop("gadget", "v1") }),
                ["custom.yaml, document 2: spec.siez", "no such field"],
            ),
            (
                "a namespace that is not there",
                release(&Shop { namespace: "shpo", ..self.shop("space", "v1") }),
                ["app.yaml, document 1: metadata.namespace", "shpo"],
            ),
            (
                "a misspelt kind",
                Kept { timeout_secs: 3600, ..of("kind", MISSPELT) },
                ["a.yaml, document 1: kind: ", "ConfigMapp"],
            ),
        ] {
            let plan = self.handle().plan(&kept).unwrap();
            let told = plan.ask(self.live(), true, PATIENCE).await.problems;
            let is_told = |problem: &Failure| says.iter().all(|it| problem.message.contains(it));
            assert!(told.iter().any(is_told), "{told:#?}");
            let state = self.bring(what, &kept).await;
            assert_eq!(state.phase, ReleasePhase::Refused, "{state:#?}");
            let failed = state.failed.last().unwrap();
            assert_eq!(failed.reason, Reason::ReleaseInvalid, "{failed:?}");
            assert!(says.iter().all(|words| failed.message.contains(words)), "{failed:?}");
        }
        assert_eq!(self.get("deployment/web", ".metadata.generation"), version);
        self.answers("one");
    }

    /// Whether it is refused or waits is the container runtime's word: it may ask a second place,
    /// which does not answer.
    async fn a_missing_image_keeps_everything_as_it_is(&self) {
        let kept = release(&self.shop("none", "v404"));
        self.handle().want(Some(kept.clone()));
        let state = self
            .reach("an image that is not there", |state| {
                state.wanted == kept.release && state.message.contains("app:v404")
            })
            .await;
        assert!(matches!(state.phase, ReleasePhase::PrePull | ReleasePhase::Refused), "{state:#?}");
        let reasons = [Reason::ReleaseImageMissing, Reason::ReleaseRegistry];
        assert!(state.reason.is_some_and(|reason| reasons.contains(&reason)), "{state:#?}");
        self.answers("one");
    }

    async fn a_crash_is_taken_back(&self, one: &Kept) -> Kept {
        let crash = Shop { crash: true, ..self.shop("crash", "v2") };
        let kept = release(&crash);
        let state = self.bring("a release that crashes", &kept).await;
        assert_eq!(
            (state.phase, state.reason),
            (ReleasePhase::RolledBack, Some(Reason::PodCrashing)),
            "{state:#?}"
        );
        assert_eq!(state.good.as_ref(), Some(&one.release));
        self.answers("one");
        assert_eq!(
            self.get("deployment/web", ".spec.template.spec.containers[0].image"),
            image("v1")
        );
        // What only the failed one lacks was not removed, what only it had is gone.
        assert_eq!(self.get("configmap/old", ".metadata.name"), "old");
        assert!(self.node.kubectl(&["get", "-n", "shop", "configmap/fresh"]).is_err());
        kept
    }

    async fn killed_while_it_applies(&mut self) {
        let three = release(&self.shop("three", "v2"));
        self.handle().want(Some(three.clone()));
        self.reach("the next one is being applied", |state| {
            state.wanted == three.release && state.phase == ReleasePhase::Applying
        })
        .await;
        self.kill().await;
        self.open();
        let state = self.bring("it is in force, over a restart", &three).await;
        assert_eq!(state.phase, ReleasePhase::Committed, "{state:#?}");
        self.answers("three");
        assert!(self.node.kubectl(&["get", "-n", "shop", "configmap/old"]).is_err(), "pruned");
        assert_eq!(self.get("configmap/fresh", ".metadata.name"), "fresh");
        assert_eq!(self.get("deployment/web", ".metadata.labels.theirs"), "kept");
        assert_eq!(self.get("deployment/web", r".metadata.annotations.theirs\.example/a"), "kept");
    }
}

/// A pod with all that is looked up when it is admitted.
fn pod(name: &str) -> String {
    let image = image("v1");
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: sa{name}}}\n---\n\
         apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: pc{name}}}\n\
         value: 7\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: pod{name}}}\nspec:\n  \
         serviceAccountName: sa{name}\n  priorityClassName: pc{name}\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: web, image: {image}, env: [{{name: TEXT, value: x}}]}}]\n"
    )
}

const MISSPELT: &str = "apiVersion: v1\nkind: ConfigMapp\nmetadata: {name: a}\n";

/// A release of one file.
fn of(version: &str, text: &str) -> Kept {
    let manifests = BTreeMap::from([("a.yaml".to_owned(), text.to_owned())]);
    let digest = release_digest(&manifests);
    let release = ReleaseRef { name: "shop".into(), version: version.into(), digest, force: 0 };
    Kept { release, manifests, timeout_secs: 40 }
}

fn image(tag: &str) -> String {
    format!("{REGISTRY}/app:{tag}")
}

/// What differs between the releases.
struct Shop {
    text: &'static str,
    tag: &'static str,
    crash: bool,
    /// The first one alone has `old`, the others have `fresh`.
    has_old: bool,
    extra: &'static str,
    gadget: &'static str,
    namespace: &'static str,
}

fn release(shop: &Shop) -> Kept {
    let Shop { text, tag, crash, has_old, extra, gadget, namespace } = shop;
    let image = image(tag);
    let timeout = if *crash { 8 } else { 90 };
    let crash = if *crash { ", {name: CRASH_AFTER, value: 1ms}" } else { "" };
    let config = if *has_old { "old" } else { "fresh" };
    // What is asked from stays the same pod throughout: only `web` changes.
    let agent = crate::image("v1");
    let pod = |name: &str, image: &str, text: &str, crash: &str| {
        format!(
            "metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
             containers:\n      - name: web\n        image: {image}\n        \
             env: [{{name: TEXT, value: {text:?}}}{crash}]\n        \
             readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
        )
    };
    let app = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {config}, namespace: {namespace}}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop, annotations: \
         {{holdfast.dev/timeout: '{timeout}'}}}}\nspec:\n  {extra}\n  selector: {{matchLabels: {{app: web}}}}\n  \
         template:\n    {}---\n\
         apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: agent}}}}\n  template:\n    {}---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: \
         {{selector: {{app: web}}, ports: [{{port: 8080, protocol: TCP}}]}}\n",
        pod("web", &image, text, crash),
        pod("agent", &agent, "agent", ""),
    );
    let gadget = format!(
        "---\napiVersion: lab.example/v1\nkind: Gadget\nmetadata: {{name: one, namespace: shop}}\n\
         spec: {{{gadget}}}\n"
    );
    let custom = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: \
         gadgets.lab.example}}\nspec:\n  group: lab.example\n  scope: Namespaced\n  names: {{kind: Gadget, \
         plural: gadgets, singular: gadget}}\n  versions:\n  - name: v1\n    served: true\n    storage: \
         true\n    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          \
         spec: {{type: object, properties: {{size: {{type: integer}}}}}}\n{gadget}"
    );
    let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned();
    let manifests = BTreeMap::from([
        ("app.yaml".to_owned(), app),
        ("custom.yaml".to_owned(), custom),
        ("space.yaml".to_owned(), space),
    ]);
    let digest = release_digest(&manifests);
    let release = ReleaseRef { name: "shop".into(), version: (*text).into(), digest, force: 0 };
    Kept { release, manifests, timeout_secs: 40 }
}
