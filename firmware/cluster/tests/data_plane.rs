//! The data-plane rule, with a pod that is itself the way to the registry.
//!
//! The registry is in a network of its own; images are named by an address at which only the pod
//! of a DaemonSet listens, which carries the bytes on. Replacing that pod ends the old one first
//! (two cannot have the address), so whatever image the new one needs cannot come any more.
//! Without pre-pull such a release never completes; that is shown by hand. The site's engine pulls
//! first: the interruption is the pod's restart, and without the image there is none.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod content;
mod images_lab;

use content::Content;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseRef, ReleaseState, release_digest};
use holdfast_api::marks::PRE_PULLED_ANNOTATION;
use holdfast_api::paths::Root;
use holdfast_cluster::images::{OwnNode, PrePuller, Runtime};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::engine::{ReleaseEngine, Releases, Report};
use holdfast_cluster::release::journal::Kept;
use holdfast_cluster::release::live::Live;
use holdfast_cluster::release::parse::parse;
use holdfast_cluster::release::target::Target;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::image::archive;
use holdfast_lab_kubernetes::node::{Node, NodeSpec};
use holdfast_lab_kubernetes::way::{WAY, manifest};
use images_lab::faraway::{FarRegistry, REGISTRY_ADDRESS};
use images_lab::probe::Probe;
use images_lab::{image, socket};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long a release without pre-pull is watched. The pod's own restart takes half of it.
const HOPELESS: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether every pod of the DaemonSet runs this image and is ready; else how it stands.
fn released(node: &Node, image: &str) -> Result<(), String> {
    let pods = "jsonpath={range .items[*]}{.spec.containers[0].image} {.status.conditions[?(@.type=='Ready')].status} {.status.containerStatuses[0].state.waiting.reason}{'\\n'}{end}";
    let pods = node
        .kubectl(&["get", "pods", "-l", "app=way", "-o", pods])
        .map_err(|error| error.to_string())?;
    let is_done = pods.lines().count() == 1
        && pods.lines().all(|pod| pod.starts_with(&format!("{image} True")));
    if is_done { Ok(()) } else { Err(pods) }
}

/// What tells one pod from the next.
fn uid(node: &Node) -> String {
    node.kubectl(&["get", "pods", "-l", "app=way", "-o", "jsonpath={.items[*].metadata.uid}"])
        .unwrap()
}

/// The manager's part, in the node's network.
struct Site<'a> {
    node: &'a Node,
    live: Arc<Live<Content>>,
    releases: Releases,
    engine: JoinHandle<()>,
}

impl<'a> Site<'a> {
    fn open(node: &'a Node) -> Self {
        // The files name each other by the paths of the node.
        let own = std::fs::read_to_string(node.data("agent/kubelet.kubeconfig")).unwrap();
        let own = own.replace("/var/lib/rancher/k3s", node.data("").to_str().unwrap());
        let path = node.state().join("kubelet.kubeconfig");
        holdfast_durable::write(&path, own.as_bytes(), 0o600).unwrap();
        let api = Api::connect(&node.path("etc/rancher/k3s/k3s.yaml")).unwrap();
        let puller = PrePuller::start(Runtime::connect(&socket(node)), OwnNode::new(path, "node1"));
        let live = Arc::new(Live::new(api, "node1", puller, Content));
        let paths = ClusterPaths::new(&Root::new(node.state().join("manager")));
        let (engine, releases) = ReleaseEngine::open(&paths, Arc::clone(&live));
        Site { node, live, releases, engine: tokio::spawn(engine.run()) }
    }

    /// Wants a release, and waits until it is decided.
    async fn bring(&self, kept: &Kept) -> ReleaseState {
        self.releases.want(Some(kept.clone()));
        let mut report = self.releases.report();
        let is_over = |report: &Report| {
            let decided =
                [ReleasePhase::Committed, ReleasePhase::RolledBack, ReleasePhase::Refused];
            let state = &report.state;
            let is_in_force = state.good.as_ref() == Some(&kept.release);
            state.wanted == kept.release
                && decided.contains(&state.phase)
                && (state.phase != ReleasePhase::Committed || is_in_force)
        };
        let over = tokio::time::timeout(PATIENCE, report.wait_for(is_over)).await;
        match over {
            Ok(over) => over.unwrap().state.clone(),
            Err(_) => panic!("not decided: {:#?}", self.releases.state()),
        }
    }

    /// Until the DaemonSet's pod is another one than `old`, with this image and ready.
    fn until_replaced(&self, old: &str, image: &str) {
        holdfast_poll::until("it is there again", PATIENCE, || match uid(self.node) == old {
            true => Err("the old one is there".into()),
            false => released(self.node, image),
        });
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.engine.abort();
    }
}

fn release(number: u32) -> Kept {
    let text = manifest(&name(number), REGISTRY_ADDRESS);
    let manifests = BTreeMap::from([("way.yaml".to_owned(), text)]);
    let (digest, version) = (release_digest(&manifests), number.to_string());
    let release = ReleaseRef { name: "way".into(), version, digest, force: 0 };
    Kept { release, manifests, timeout_secs: 60 }
}

fn name(number: u32) -> String {
    format!("{WAY}/way:v{number}")
}

#[test]
fn a_data_plane_is_replaced_only_by_what_is_on_the_node() {
    let Some(kubernetes) = kubernetes("data_plane") else { return };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let version = |number: u32| {
        image(&kubernetes, &format!("{WAY}/way:v{number}"), 8)
            .link("bin/nc", "busybox")
            .variable("VERSION", &number.to_string())
    };
    // The first version comes with the node, as k3s' folder of images has it.
    let first: PathBuf = folder.path().join("own/var/lib/rancher/k3s/agent/images/way.tar");
    std::fs::create_dir_all(first.parent().unwrap()).unwrap();
    holdfast_durable::write(&first, &archive(&[version(1)]), 0o644).unwrap();
    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    let registry = FarRegistry::start(&kubernetes, &node, &[version(2), version(3)]);
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    node.apply(&manifest(&name(1), REGISTRY_ADDRESS)).unwrap();
    node.until("the way is there", PATIENCE, |node| released(node, &name(1))).unwrap();
    passed("the node has a way to its registry: a pod");
    let probe = Probe::start(&node, WAY);

    node.apply(&manifest(&name(2), REGISTRY_ADDRESS)).unwrap();
    let is_hopeless =
        |said: &str| said.contains("ErrImagePull") || said.contains("ImagePullBackOff");
    node.until("its image cannot be pulled", PATIENCE, |node| match released(node, &name(2)) {
        Err(said) if is_hopeless(&said) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    // The old pod is gone by now.
    let before = Instant::now();
    let hopeless = node
        .until("it is released", HOPELESS, |node| released(node, &name(2)))
        .expect_err("an image came without a way");
    assert!(is_hopeless(&hopeless.to_string()), "{hopeless}");
    let answered = probe.last_answer().saturating_duration_since(before);
    assert_eq!(answered, Duration::ZERO, "there was a way");
    passed(&format!("without pre-pull: no way and no release in {HOPELESS:?}"));

    // The kubelet takes half a minute to let go of a pod that never began.
    node.kubectl(&["delete", "daemonset", "way", "--cascade=orphan"]).unwrap();
    node.kubectl(&["delete", "pod", "-l", "app=way", "--force", "--grace-period=0"]).unwrap();
    node.in_network(async || by_the_engine(&node, &probe, &passed).await).unwrap();
    drop((probe, registry));
    assert_eq!(node.stop().unwrap(), [""; 0]);
}

/// From here on the site's manager does what was done by hand.
async fn by_the_engine(node: &Node, probe: &Probe, passed: &impl Fn(&str)) {
    let site = Site::open(node);
    let one = site.bring(&release(1)).await;
    assert_eq!((one.phase, one.reason), (ReleasePhase::Committed, None), "{one:#?}");
    passed("the first version is a release; its image needed no way");

    let old = uid(node);
    let before = Instant::now();
    let none = site.bring(&release(404)).await;
    let refused = (ReleasePhase::Refused, Some(Reason::ReleaseImageMissing));
    assert_eq!((none.phase, none.reason), refused, "{none:#?}");
    assert_eq!(uid(node), old, "what carries the traffic was not touched");
    let gap = probe.longest_gap_since(before);
    passed(&format!("an image that is nowhere: refused, no way for {:.2} s", gap.as_secs_f64()));

    let before = Instant::now();
    node.kubectl(&["delete", "pod", "-l", "app=way", "--wait=false"]).unwrap();
    site.until_replaced(&old, &name(1));
    let restart = probe.longest_gap_since(before);
    passed(&format!("the pod's own restart: no way for {:.2} s", restart.as_secs_f64()));

    let three = release(3);
    let parsed = parse(&three.release, &three.manifests, Duration::ZERO).unwrap();
    let blocked = site.live.may_replace(&parsed, &parsed.items[0]).await.unwrap_err();
    assert_eq!(blocked.reason, Reason::ReleasePrePull, "asked before it was pulled");
    let before = Instant::now();
    let old = uid(node);
    let state = site.bring(&three).await;
    assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
    assert_ne!(uid(node), old);
    released(node, &name(3)).unwrap();
    let noted =
        node.kubectl(&["get", "node", "node1", "-o", "jsonpath={.metadata.annotations}"]).unwrap();
    assert!(noted.contains(PRE_PULLED_ANNOTATION) && noted.contains("1/1 images"), "{noted}");
    let interruption = probe.longest_gap_since(before);
    passed(&format!(
        "with pre-pull, over the pod itself: in force in {:.2} s, no way for {:.2} s",
        before.elapsed().as_secs_f64(),
        interruption.as_secs_f64()
    ));
}
