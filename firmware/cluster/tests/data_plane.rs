//! The data-plane rule, with a pod that is itself the way to the registry.
//!
//! The registry is in a network of its own; images are named by an address at which only the pod
//! of a DaemonSet listens, which carries the bytes on. Replacing that pod ends the old one first
//! (two cannot have the address), so whatever image the new one needs cannot come any more.
//! Without pre-pull such a release never completes. With it, the interruption is the pod's restart.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod content;
mod images_lab;

use content::Content;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_api::marks::PRE_PULLED_ANNOTATION;
use holdfast_cluster::images::{OwnNode, PrePuller, Runtime};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::release::live::Live;
use holdfast_cluster::release::model::Release;
use holdfast_cluster::release::parse::parse;
use holdfast_cluster::release::target::{Failure, Target};
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::image::archive;
use holdfast_lab_kubernetes::node::{Node, NodeSpec};
use holdfast_lab_kubernetes::way::{WAY, manifest};
use images_lab::faraway::{FarRegistry, REGISTRY_ADDRESS};
use images_lab::probe::Probe;
use images_lab::{image, socket};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a release without pre-pull is watched. The pod's own restart takes half of it at most.
const HOPELESS: Duration = Duration::from_secs(10);

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

/// The manager's part, in the node's network: first asked too early, then after it pulled.
fn pre_pull(node: &Node, release: Release) -> Result<(), Failure> {
    // The files name each other by the paths of the node.
    let own = std::fs::read_to_string(node.data("agent/kubelet.kubeconfig")).unwrap();
    let own = own.replace("/var/lib/rancher/k3s", node.data("").to_str().unwrap());
    let path = node.state().join("kubelet.kubeconfig");
    holdfast_durable::write(&path, own.as_bytes(), 0o600).unwrap();
    let admin = node.path("etc/rancher/k3s/k3s.yaml");
    let work = async || {
        let api = Api::connect(&admin).unwrap();
        let puller = PrePuller::start(Runtime::connect(&socket(node)), OwnNode::new(path, "node1"));
        let target = Live::new(api, "node1", puller, Content);
        let item = &release.items[0];
        let blocked = target.may_replace(&release, item).await.unwrap_err();
        assert_eq!(blocked.reason, Reason::ReleasePrePull);
        eprintln!("          {blocked}");
        let say = |words: String| eprintln!("          {words}");
        target.pull_here(&release, &say).await?;
        target.pulled_everywhere(&release, &say).await?;
        target.may_replace(&release, item).await
    };
    node.in_network(work).unwrap()
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
    let name = |number: u32| format!("{WAY}/way:v{number}");

    // The first version comes with the node, as k3s' folder of images has it.
    let first: PathBuf = folder.path().join("own/var/lib/rancher/k3s/agent/images/way.tar");
    std::fs::create_dir_all(first.parent().unwrap()).unwrap();
    holdfast_durable::write(&first, &archive(&[version(1)]), 0o644).unwrap();
    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    let registry = FarRegistry::start(&kubernetes, &node, &[version(2), version(3)]);
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    node.apply(&manifest(&name(1), REGISTRY_ADDRESS)).unwrap();
    node.until("the way is there", Duration::from_secs(60), |node| released(node, &name(1)))
        .unwrap();
    passed("the node has a way to its registry: a pod");
    let probe = Probe::start(&node, WAY);

    let before = Instant::now();
    node.apply(&manifest(&name(2), REGISTRY_ADDRESS)).unwrap();
    let hopeless = node
        .until("it is released", HOPELESS, |node| released(node, &name(2)))
        .expect_err("an image came without a way");
    assert!(
        hopeless.to_string().contains("ErrImagePull")
            || hopeless.to_string().contains("ImagePullBackOff"),
        "{hopeless}"
    );
    let answered = probe.last_answer().saturating_duration_since(before);
    assert!(answered < HOPELESS * 3 / 4, "the way was there until {answered:?}");
    passed(&format!(
        "without pre-pull: not released in {HOPELESS:?}, no way for the last {:.1} s",
        (HOPELESS - answered).as_secs_f64()
    ));

    node.apply(&manifest(&name(1), REGISTRY_ADDRESS)).unwrap();
    // The kubelet takes half a minute to let go of a pod that never began.
    node.kubectl(&["delete", "pod", "-l", "app=way", "--force", "--grace-period=0"]).unwrap();
    node.until("the way is back", Duration::from_secs(60), |node| released(node, &name(1)))
        .unwrap();
    passed("the last good version is back");

    let manifests = BTreeMap::from([("way.yaml".to_owned(), manifest(&name(3), REGISTRY_ADDRESS))]);
    let digest = release_digest(&manifests);
    let reference =
        ReleaseRef { name: "site".into(), digest: digest.clone(), ..Default::default() };
    pre_pull(&node, parse(&reference, &manifests, Duration::ZERO).unwrap()).unwrap();
    let noted =
        node.kubectl(&["get", "node", "node1", "-o", "jsonpath={.metadata.annotations}"]).unwrap();
    assert!(noted.contains(PRE_PULLED_ANNOTATION) && noted.contains("1/1 images"), "{noted}");
    passed("pre-pulled, over the pod itself, and the Node says so");

    let before = Instant::now();
    let old = uid(&node);
    node.kubectl(&["delete", "pod", "-l", "app=way", "--wait=false"]).unwrap();
    node.until("it is there again", Duration::from_secs(60), |node| {
        if uid(node) == old { Err("the old one is there".into()) } else { released(node, &name(1)) }
    })
    .unwrap();
    let restart = probe.longest_gap_since(before);
    passed(&format!("the pod's own restart: no way for {:.2} s", restart.as_secs_f64()));

    let before = Instant::now();
    node.apply(&manifest(&name(3), REGISTRY_ADDRESS)).unwrap();
    node.until("it is released", Duration::from_secs(60), |node| released(node, &name(3))).unwrap();
    let interruption = probe.longest_gap_since(before);
    passed(&format!(
        "with pre-pull: released in {:.2} s, no way for {:.2} s",
        before.elapsed().as_secs_f64(),
        interruption.as_secs_f64()
    ));
    drop((probe, registry));
    assert_eq!(node.stop().unwrap(), [""; 0]);
}
