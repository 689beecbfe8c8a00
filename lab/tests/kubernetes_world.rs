//! Kubernetes on a node of a world: it has the node's view of the machine, and goes with the world.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Place, cannot};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState, ReleasePhase};
use holdfast_api::paths::Root;
use holdfast_api::resources::Site;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::cgroups::Cgroup;
use holdfast_lab_kubernetes::node::REGISTRY;
use holdfast_poll::holds as until;
use lab::emulator::Cut;
use lab::faults::{Fault, Target};
use lab::fleet::Operator;
use lab::fleet::kubernetes::{ANSWER, answers, environment, release, start_registries};
use lab::programs::Programs;
use lab::world::topology::netns_prefix;
use lab::world::{EmulatorMode, Home, Host, World, WorldSpec, down};
use lab::{exec, faults, fleet, netns, status};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

#[test]
fn a_nodes_kubernetes_goes_with_its_world() {
    let test = "a_nodes_kubernetes_goes_with_its_world";
    let Some(kubernetes) = kubernetes(test) else { return };
    if cannot(test) {
        return;
    }
    let place = Place::new();
    let spec = WorldSpec {
        edges: 0,
        nodes: 1,
        nodes_set_themselves_up: false,
        kubernetes: Some(kubernetes.built().root().to_path_buf()),
        ..WorldSpec::default()
    };
    let mode = EmulatorMode::Process(LAB.into());
    let bin_dir = Path::new(LAB).parent().unwrap();
    let mut world = World::create(&place.home, &spec, bin_dir, &mode, &mut |_| {}).unwrap();
    let (node, root) = (Host::Node(1), world.home().root(Host::Node(1)));
    let (netns, build) = (world.netns(node), kubernetes.built().root().to_path_buf());
    let environment = environment(Some(&build), &root.display().to_string(), &netns);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // Without edges the images are on the node itself.
    start_registries(&mut world, &[node]).unwrap();
    let registries =
        format!("mirrors: {{\"{REGISTRY}\": {{endpoint: [\"http://127.0.0.1:5000\"]}}}}\n");
    let file = root.join("etc/rancher/k3s/registries.yaml");
    holdfast_durable::write(&file, registries.as_bytes(), 0o600).unwrap();
    for (name, manifest) in release().manifests {
        let file = root.join("var/lib/rancher/k3s/server/manifests").join(name);
        holdfast_durable::write(&file, manifest.as_bytes(), 0o600).unwrap();
    }
    let arguments = ["server", "--node-name=node-1"];
    world.start("k3s", Some(node), kubernetes.lab_k3s(), &arguments, &environment).unwrap();

    let kubectl = |words: &[&str]| {
        let mut command = Command::new(kubernetes.lab_k3s());
        command.arg("kubectl").args(words).envs(environment.iter().copied());
        let output = exec::output(&netns, &mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.addresses[?(@.type=="InternalIP")].address}"#;
    let patience = Duration::from_secs(120);
    until("the node is Ready", patience, || {
        let log = std::fs::read_to_string(world.home().log("k3s")).unwrap_or_default();
        assert!(world.process("k3s").unwrap().is_some(), "{log}");
        kubectl(&["get", "node", "node-1", "-o", ready]) == "True 198.19.1.2"
    });
    until("the workload runs", patience, || {
        kubectl(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]) == "1"
    });
    until("the workload answers", Duration::from_secs(60), || answers(&place.home, Host::Node(1)));
    assert_eq!(Cgroup::with_prefix(&netns).len(), 1);
    assert!(root.join("run/k3s/containerd/containerd.sock").exists());

    let report = down(&place.home).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(!place.home.exists());
    let prefix = netns_prefix(place.home.world());
    assert_eq!(Cgroup::with_prefix(&prefix), []);
    assert!(netns::with_prefix(&prefix).is_empty());
}

#[test]
fn a_world_ends_with_a_pod_that_answers_and_outlives_the_manager() {
    let name = "a_world_ends_with_a_pod_that_answers_and_outlives_the_manager";
    let Some(kubernetes) = kubernetes(name) else { return };
    if cannot(name) {
        return;
    }
    let beside = Path::new(LAB).parent().unwrap().to_path_buf();
    let dir = std::env::var_os("HOLDFAST_BIN_DIR").map_or(beside, Into::into);
    let programs = match Programs::in_dir(&dir) {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("skipped: {name}: {error}; `cargo build --workspace --bins` makes it");
            return;
        }
    };
    let place = Place::new();
    let spec = WorldSpec {
        edges: 2,
        kubernetes: Some(kubernetes.built().root().to_path_buf()),
        ..WorldSpec::default()
    };
    let mode = EmulatorMode::Process(LAB.into());
    let mut world = World::create(&place.home, &spec, programs.dir(), &mode, &mut |_| {}).unwrap();
    let started = fleet::start(&mut world, &programs, &mut |stage| eprintln!("{stage:?}"));
    let operator = started.unwrap_or_else(|error| {
        let log = |name: &str| std::fs::read_to_string(world.home().log(name)).unwrap_or_default();
        eprintln!("--- manager\n{}", log("node-1.holdfastd"));
        panic!("{}", holdfast_api::chain(&error));
    });
    let state = status::observe(&world).unwrap().nodes[0].kubernetes.clone().unwrap();
    assert_eq!(state.release.phase, ReleasePhase::Committed);

    let manager: Target = "process:node-1.holdfastd".parse().unwrap();
    faults::inject(&world, &manager, &Fault::Kill).unwrap();
    answers_soon(&place.home, "without its manager");
    faults::heal(&mut world, None).unwrap();
    fleet::wait_online(&mut world, &[1]).unwrap();
    answers_soon(&place.home, "taken over by the manager as it was");

    a_release_made_while_the_site_is_away_comes_when_it_is_back(&mut world, &operator);
    answers_soon(&place.home, "with the release of that while");

    let lab_k3s = kubernetes.lab_k3s();
    a_version_that_ends_at_once_is_left_and_a_good_one_is_taken(&world, &operator, lab_k3s);
    answers_soon(&place.home, "with the good version");

    a_datastore_torn_by_a_power_cut_is_restored_by_the_manager(&mut world);
    answers_soon(&place.home, "after the restore");

    assert!(down(&place.home).unwrap().problems.is_empty());
    assert_eq!(Cgroup::with_prefix(&netns_prefix(place.home.world())), []);
}

/// Nobody asks for it again: the site finds out by itself.
fn a_release_made_while_the_site_is_away_comes_when_it_is_back(
    world: &mut World,
    operator: &Operator,
) {
    let node = |world: &World| status::observe(world).unwrap().nodes.swap_remove(0);
    let link: Target = "link:node-1".parse().unwrap();
    faults::inject(world, &link, &Fault::Cut(Cut::Both)).unwrap();
    until("both tunnels are seen to be dead", Duration::from_secs(60), || {
        node(world).tunnels.is_some_and(|tunnels| tunnels.up() == 0)
    });
    let mut next = release();
    next.version = "2".into();
    for manifest in next.manifests.values_mut() {
        *manifest = manifest.replace(ANSWER, &format!("once more, {ANSWER}"));
    }
    operator.make_release("next", next).unwrap();
    let patch = serde_json::json!({"spec": {"kubernetes": {"release": "next"}}});
    let _site: Site = operator.patch(&fleet::settings::site(1), &patch).unwrap();
    let name = |world: &World| node(world).kubernetes.unwrap().release.good.unwrap().name;
    assert_eq!(name(world), "web", "nothing can have come");
    faults::heal(world, Some(&link)).unwrap();
    // Less than a poll's five minutes: connections are tried anew sooner than that.
    until("the release is in force", Duration::from_secs(240), || name(world) == "next");
}

/// The node has nowhere to put its pods meanwhile, and serves them.
fn a_version_that_ends_at_once_is_left_and_a_good_one_is_taken(
    world: &World,
    operator: &Operator,
    lab_k3s: &Path,
) {
    let (node, netns) = (Host::Node(1), world.netns(Host::Node(1)));
    let root = world.home().root(node);
    let state = || status::observe(world).unwrap().nodes.swap_remove(0).kubernetes.unwrap();
    let versions = || -> serde_json::Value {
        let file = Root::new(&root).state_dir().join("cluster/distribution/versions.json");
        serde_json::from_slice(&std::fs::read(file).unwrap_or_default()).unwrap_or_default()
    };
    let ask_for = |version: &str, program: &[u8]| {
        let file = world.home().dir().join(version);
        holdfast_durable::write(&file, program, 0o755).unwrap();
        let sum = exec::output(&netns, Command::new("sha256sum").arg(&file)).unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let artifact = serde_json::json!({
            "version": version,
            "url": format!("file://{}", file.display()),
            "sha256": sum.split(' ').next(),
        });
        let patch = serde_json::json!({"spec": {"kubernetes": {"distribution": artifact}}});
        let _site: Site = operator.patch(&fleet::settings::site(1), &patch).unwrap();
    };
    let build = world.spec().kubernetes.as_ref();
    let environment = environment(build, &root.display().to_string(), &netns);
    let cordoned = || {
        let mut command = Command::new(lab_k3s);
        let words = ["kubectl", "get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"];
        let environment = environment.iter().map(|(name, value)| (*name, value.as_str()));
        let output = exec::output(&netns, command.args(words).envs(environment)).unwrap();
        // Kubernetes may be busy, or start once more by itself.
        if !output.status.success() {
            return format!("{output:?}");
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = state();
    let minor = before.version.rsplit_once('.').unwrap().0;
    let (bad, good) = (format!("{minor}.98+bad"), format!("{minor}.99+good"));
    let log = || std::fs::read_to_string(world.home().log("node-1.holdfastd")).unwrap_or_default();

    // Six starts with their pauses, and the way back.
    let patience = Duration::from_secs(600);
    ask_for(&bad, b"#!/bin/sh\necho this version does nothing\nexit 1\n");
    let mut told = None;
    until("the old version is back", patience, || {
        let (versions, state) = (versions(), state());
        let is_back = versions["failed"][0]["version"]["version"] == bad.as_str()
            && versions["service"] == "in"
            && state.phase == KubernetesPhase::Ready
            && state.reason == Some(Reason::KubernetesUpgradeFailed);
        assert!(versions["failed"][1].is_null(), "{versions}");
        told = Some(state);
        is_back
    });
    let Some(told) = told else { panic!("{}", log()) };
    assert!(told.message.contains("this version does nothing"), "{}", told.message);
    assert_eq!(told.version, before.version);
    until("it takes pods", patience, || cordoned().is_empty());
    until("the workload answers", patience, || answers_here(world));

    ask_for(&good, &[&std::fs::read(lab_k3s).unwrap(), b"another version".as_slice()].concat());
    until("the good version runs", patience, || {
        let versions = versions();
        versions["current"]["version"] == good.as_str()
            && versions["onTrial"] == false
            && versions["service"] == "in"
    });
    let mut now = state();
    until("it is ready", patience, || {
        now = state();
        (now.phase, now.reason) == (KubernetesPhase::Ready, None)
    });
    // On a busy machine Kubernetes ends by itself, and is started again.
    let wished = |state: &KubernetesState| state.starts - state.ends;
    assert!(wished(&now) <= wished(&told) + 1, "the bad one was tried again: {now:?} {told:?}");
    until("it takes pods", patience, || cordoned().is_empty());
    until("the workload answers", patience, || answers_here(world));
}

/// Nobody is asked: the node has one server, and snapshots.
fn a_datastore_torn_by_a_power_cut_is_restored_by_the_manager(world: &mut World) {
    let root = world.home().root(Host::Node(1));
    let state = |world: &World| status::observe(world).unwrap().nodes.swap_remove(0).kubernetes;
    let known = state(world).unwrap().snapshots.snapshots;
    assert!(!known.is_empty(), "one is taken at the first start, and one before each upgrade");
    let manager: Target = "process:node-1.holdfastd".parse().unwrap();
    faults::inject(world, &manager, &Fault::Kill).unwrap();
    let record = Root::new(&root).state_dir().join("cluster/distribution/process.json");
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    // With it everything ends that runs in the node's Kubernetes, pods too.
    let pid =
        nix::unistd::Pid::from_raw(record["process"]["pid"].as_i64().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    until("Kubernetes is gone", Duration::from_secs(60), || !answers_here(world));
    let database = root.join("var/lib/rancher/k3s/server/db/etcd/member/snap/db");
    assert!(database.exists());
    holdfast_durable::write(&database, b"torn by a power cut", 0o600).unwrap();

    faults::heal(world, None).unwrap();
    until("the manager restored the datastore", Duration::from_secs(600), || {
        state(world).is_some_and(|state| state.phase == KubernetesPhase::Ready)
    });
    let log = || std::fs::read_to_string(world.home().log("node-1.holdfastd")).unwrap();
    until("the restore is told", Duration::from_secs(60), || {
        log().contains("the damaged datastore was put back")
    });
    assert!(std::fs::metadata(&database).unwrap().len() > 4096);
    until("the workload answers", Duration::from_secs(120), || answers_here(world));
}

#[track_caller]
fn answers_soon(home: &Home, when: &str) {
    until(&format!("it answers, {when}"), Duration::from_secs(60), || answers(home, Host::Node(1)));
}

fn answers_here(world: &World) -> bool {
    answers(world.home(), Host::Node(1))
}
