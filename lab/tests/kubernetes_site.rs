//! A site of three nodes from the controller's word on: roles, a release, reboots one at a time,
//! another version of Kubernetes, the node that began the cluster breaks, and the datastore goes
//! back on those that are left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Place, cannot};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesRole, KubernetesState, ReleasePhase};
use holdfast_api::local::NodeReport;
use holdfast_api::paths::Root;
use holdfast_api::resources::{NodeRole, Site};
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::cgroups::Cgroup;
use lab::fleet::kubernetes::{self, answers_with, environment, image_of, publish, release_of};
use lab::fleet::{self, Operator, settings};
use lab::programs::Programs;
use lab::world::topology::netns_prefix;
use lab::world::{EmulatorMode, Host, World, WorldSpec, down};
use lab::{exec, netns, process};
use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LAB: &str = env!("CARGO_BIN_EXE_lab");
/// Three nodes drain one after the other, and a kubelet of this version takes a minute for a pod
/// whose container was gone when it came to end it.
const PATIENCE: Duration = Duration::from_secs(1800);
/// What is asked for here costs a program's start or requests to the API server.
const PAUSE: Duration = Duration::from_millis(500);
const NODES: [Host; 3] = [Host::Node(1), Host::Node(2), Host::Node(3)];

struct Story {
    world: World,
    programs: Programs,
    operator: Operator,
    began: Instant,
    // Last, so that the world is there until the end.
    place: Place,
}

impl Story {
    fn begin(test: &str) -> Option<Self> {
        let kubernetes = kubernetes(test)?;
        if cannot(test) {
            return None;
        }
        let beside = Path::new(LAB).parent().unwrap().to_path_buf();
        let dir = std::env::var_os("HOLDFAST_BIN_DIR").map_or(beside, Into::into);
        let programs = match Programs::in_dir(&dir) {
            Ok(programs) => programs,
            Err(error) => {
                eprintln!("skipped: {test}: {error}; `cargo build --workspace --bins` makes it");
                return None;
            }
        };
        let (place, began) = (Place::new(), Instant::now());
        let spec = WorldSpec {
            edges: 2,
            nodes: 3,
            site_nodes: 3,
            kubernetes: Some(kubernetes.built().root().to_path_buf()),
            ..WorldSpec::default()
        };
        let mode = EmulatorMode::Process(LAB.into());
        let dir = programs.dir();
        let mut world = World::create(&place.home, &spec, dir, &mode, &mut |_| {}).unwrap();
        let told = fleet::start(&mut world, &programs, &mut |stage| eprintln!("{stage:?}"));
        let operator = told.unwrap_or_else(|error| {
            for host in NODES {
                eprintln!("--- {host}\n{}", log(&world, host));
            }
            panic!("{}", holdfast_api::chain(&error))
        });
        Some(Story { world, programs, operator, began, place })
    }

    fn passed(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// What `holdfast kube status` says there.
    fn state(&self, host: Host) -> KubernetesState {
        let mut command = Command::new(self.programs.path("holdfast"));
        command.arg("--root").arg(self.world.home().root(host));
        command.args(["kube", "status", "-o", "json"]);
        let output = exec::output(&self.world.netns(host), &mut command).unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{host}: {error}: {output:?}"))
    }

    /// What `holdfast` with these words says there, once it succeeds.
    fn holdfast(&self, host: Host, words: &[&str]) -> String {
        let mut command = Command::new(self.programs.path("holdfast"));
        command.arg("--root").arg(self.world.home().root(host)).args(words);
        let output = exec::output(&self.world.netns(host), &mut command).unwrap();
        let log = || log(&self.world, host);
        assert!(output.status.success(), "{host}: {words:?}: {output:?}\n{}", log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn report(&self, host: Host) -> NodeReport {
        fleet::ask(&fleet::manager_socket(&self.world, host), "/v1/status").unwrap()
    }

    fn k3s(&self, host: Host, words: &[&str]) -> String {
        let root = self.world.home().root(host).display().to_string();
        let build = self.world.spec().kubernetes.as_ref();
        let mut command = Command::new(self.programs.path("lab-k3s"));
        let netns = self.world.netns(host);
        command.args(words).envs(environment(build, &root, &netns));
        let output = exec::output(&netns, &mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Names of the cluster's nodes that are Ready, as `host` sees them, in order.
    fn ready(&self, host: Host) -> Vec<String> {
        let words = ["kubectl", "--request-timeout=5s", "get", "nodes", "--no-headers"];
        let listed = self.k3s(host, &words);
        let mut lines: Vec<Vec<&str>> =
            listed.lines().map(|line| line.split_whitespace().collect()).collect();
        lines.sort();
        lines.iter().filter(|line| line[1] == "Ready").map(|line| line[0].to_owned()).collect()
    }

    /// Asks the reboot lock of `at` for the node `id`: the status and what is said.
    fn lock(&self, at: Host, request: &str, id: &str) -> (u16, String) {
        let socket = Root::new(self.world.home().root(at)).fleet_lock_socket();
        let body = format!(r#"{{"client_params": {{"id": "{id}", "group": "default"}}}}"#);
        let mut stream = UnixStream::connect(socket).unwrap();
        write!(
            stream,
            "POST /v1/{request} HTTP/1.1\r\nhost: lock\r\nconnection: close\r\n\
             fleet-lock-protocol: true\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    fn granted(&self, at: Host, request: &str, id: &str) {
        until(&format!("{request} of {id}"), || match self.lock(at, request, id) {
            (200, _) => Ok(()),
            (_, said) => Err(said),
        });
    }

    fn site(&self) -> Site {
        self.operator.list::<Site>().unwrap().remove(0)
    }

    /// As when somebody pulls the plug.
    fn break_down(&self, host: Host) {
        let netns = self.world.netns(host);
        for _ in 0..2 {
            let all = process::inside(&netns::path(&netns));
            assert_eq!(process::end(&all, Duration::ZERO), []);
        }
        for cgroup in Cgroup::with_prefix(&netns) {
            cgroup.remove(PATIENCE).unwrap();
        }
    }
}

/// Tries until it succeeds.
fn until<T, E: Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let deadline = Instant::now() + PATIENCE;
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match attempt() {
                Ok(done) => return done,
                Err(last) => assert!(Instant::now() < deadline, "not in time: {what}: {last:?}"),
            }
        }
    })
}

fn holds(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || if condition() { Ok(()) } else { Err(()) });
}

/// A pod whose node was away counts as ready until the kubelet has looked at it again, so that a
/// release is in force a moment before its pod answers.
fn answers_at_last(story: &Story, host: Host) {
    let what = format!("the pod on {host} answers");
    holds(&what, || answers_with(&story.place.home, host, "second"));
}

fn log(world: &World, host: Host) -> String {
    let [_, manager] = fleet::node_services(host);
    std::fs::read_to_string(world.home().log(&manager)).unwrap_or_default()
}

#[test]
fn three_nodes_share_a_cluster_and_one_takes_the_place_of_another() {
    let test = "three_nodes_share_a_cluster_and_one_takes_the_place_of_another";
    let Some(mut story) = Story::begin(test) else { return };
    story.passed("up");

    let roles = NODES.map(|host| story.report(host).kubernetes.unwrap().role);
    use KubernetesRole::{ClusterInit, Server};
    assert_eq!(roles, [ClusterInit, Server, Server]);
    let names = NODES.map(|host| story.report(host).node);
    assert_eq!(names, ["site-1", "site-1-2", "site-1-3"]);
    holds("all nodes are Ready", || story.ready(Host::Node(3)) == names);

    a_release_reaches_every_node_and_is_applied_once(&story);
    one_reboots_at_a_time(&story);
    a_version_that_fails_on_one_is_not_tried_on_the_next(&story);
    another_configuration_goes_from_node_to_node(&story);
    another_version_goes_from_node_to_node(&story);
    the_one_that_began_breaks_and_is_replaced(&mut story);
    the_datastore_goes_back_on_all_servers(&story);

    assert!(down(&story.place.home).unwrap().problems.is_empty());
    assert_eq!(Cgroup::with_prefix(&netns_prefix(story.place.home.world())), []);
    story.passed("gone");
}

fn a_release_reaches_every_node_and_is_applied_once(story: &Story) {
    publish(&story.world, &image_of("2")).unwrap();
    let release = story.operator.make_release("web2", release_of("2", "second")).unwrap();
    let digest = release.status.unwrap().digest;
    let patch = serde_json::json!({"spec": {"kubernetes": {"release": "web2"}}});
    let _: Site = story.operator.patch(&settings::site(1), &patch).unwrap();
    for host in NODES {
        until(&format!("{host} runs the release"), || {
            let release = story.state(host).release;
            let name = release.good.as_ref().map(|good| good.name.clone());
            let in_force =
                release.phase == ReleasePhase::Committed && name.as_deref() == Some("web2");
            if in_force { Ok(()) } else { Err((release.phase, release.message)) }
        });
        let is_there = |line: &str| line.split_whitespace().next() == Some(&*image_of("2"));
        until(&format!("{host} lists the image"), || {
            let images = story.k3s(host, &["crictl", "images"]);
            if images.lines().any(is_there) { Ok(()) } else { Err(images) }
        });
        answers_at_last(story, host);
        holds(&format!("{host} is ready"), || story.state(host).phase == KubernetesPhase::Ready);
    }
    let column =
        r#"jsonpath={range .items[*]}{.metadata.annotations.holdfast\.dev/pre-pulled}{" "}{end}"#;
    until("every Node says that it holds the images", || {
        let held = story.k3s(Host::Node(2), &["kubectl", "get", "nodes", "-o", column]);
        if held.split_whitespace().eq([digest.as_str(); 3]) { Ok(()) } else { Err(held) }
    });
    // The first version and the second: nobody applied either of them once more in another form.
    let of_web = ["kubectl", "get", "deployment", "web", "-o", "jsonpath={.metadata.generation}"];
    let generation =
        until("the deployment is read", || story.k3s(Host::Node(1), &of_web).parse::<u32>());
    assert_eq!(generation, 2);
    let said = format!("the release is in force release=\"{digest}\"");
    let who: Vec<Host> =
        NODES.into_iter().filter(|host| plain(&log(&story.world, *host)).contains(&said)).collect();
    assert_eq!(who.len(), 1, "{who:?} applied it");
    story.passed("the second release is in force");
}

/// Without the colours of a log.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.filter_map(|part| Some(part.split_once('m')?.1)).collect::<String>()
}

fn one_reboots_at_a_time(story: &Story) {
    let [first, second, third] = NODES;
    story.granted(first, "pre-reboot", "site-1-2");
    until("the third is told that another has it", || {
        let (status, said) = story.lock(third, "pre-reboot", "site-1-3");
        assert_ne!(status, 200, "two have it: {said}");
        let is_told = status == 409 && said.contains("failed_lock_semaphore_full");
        if is_told { Ok(()) } else { Err(said) }
    });
    story.granted(second, "steady-state", "site-1-2");
    story.granted(third, "pre-reboot", "site-1-3");
    story.granted(first, "steady-state", "site-1-3");
    story.passed("two nodes had the lock, one after the other");
}

/// Asks for a version with this program.
fn ask_for_version(story: &Story, version: &str, program: &[u8]) {
    let file = story.place.home.dir().join(version);
    holdfast_durable::write(&file, program, 0o755).unwrap();
    let sum = exec::output(&story.world.netns(NODES[0]), Command::new("sha256sum").arg(&file));
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    let version = serde_json::json!({
        "version": version,
        "url": format!("file://{}", file.display()),
        "sha256": sum.split(' ').next(),
    });
    let patch = serde_json::json!({"spec": {"kubernetes": {"distribution": version}}});
    let _: Site = story.operator.patch(&settings::site(1), &patch).unwrap();
}

/// What a node knows of versions.
fn versions(story: &Story, host: Host) -> serde_json::Value {
    let root = Root::new(story.world.home().root(host));
    let file = root.state_dir().join("cluster/distribution/versions.json");
    serde_json::from_slice(&std::fs::read(file).unwrap_or_default()).unwrap_or_default()
}

/// That of all nodes, of which one at most is out of service.
fn versions_of_all(story: &Story) -> [serde_json::Value; 3] {
    let read = || NODES.map(|host| versions(story, host));
    let away =
        |all: &[serde_json::Value; 3]| all.iter().filter(|it| it["service"] == "out").count();
    let now = read();
    // A node that is back gives the lock away before it writes that down.
    let for_a_moment =
        || holdfast_poll::holds("one at a time", Duration::from_secs(5), || away(&read()) <= 1);
    if away(&now) > 1 {
        for_a_moment();
    }
    now
}

fn all_take_pods(story: &Story, asked: Host) {
    let column = "jsonpath={range .items[*]}{.metadata.name}:{.spec.unschedulable} {end}";
    until("the nodes are listed, and all take pods again", || {
        let nodes = story.k3s(asked, &["kubectl", "get", "nodes", "-o", column]);
        let all = nodes.split_whitespace().count() >= NODES.len();
        let take = all && nodes.split_whitespace().all(|node| node.ends_with(':'));
        if take { Ok(()) } else { Err(nodes) }
    });
}

fn a_version_that_fails_on_one_is_not_tried_on_the_next(story: &Story) {
    ask_for_version(story, "v1.20.98+bad", b"#!/bin/sh\necho this version does nothing\nexit 1\n");
    let has_failed = |it: &serde_json::Value| !it["failed"][0].is_null();
    until("it fails on one, and the others know", || {
        let now = versions_of_all(story);
        assert!(now.iter().filter(|it| has_failed(it)).count() <= 1, "{now:?}");
        let told = NODES.map(|host| story.state(host).reason);
        let with = |reason| told.iter().filter(|told| **told == Some(reason)).count();
        let failed = with(Reason::KubernetesUpgradeFailed);
        let spared = with(Reason::KubernetesFailedElsewhere);
        if (failed, spared) == (1, 2) { Ok(()) } else { Err((now, told)) }
    });
    all_take_pods(story, NODES[0]);
    for host in NODES {
        answers_at_last(story, host);
    }
    story.passed("a version failed on one node and was not tried on the others");
}

/// Starts that were the manager's wish. Kubernetes ends by itself when a part of it cannot renew its
/// lease in time, on a machine that is too busy, and is started again: that is no doing of what a
/// step asked for.
fn wished_starts(story: &Story, host: Host) -> u32 {
    until(&format!("{host} is ready"), || {
        let state = story.state(host);
        let is_ready = state.phase == KubernetesPhase::Ready;
        if is_ready {
            Ok(state.starts.saturating_sub(state.ends))
        } else {
            Err((state.phase, state.message))
        }
    })
}

/// Also while a version is asked for that failed.
fn another_configuration_goes_from_node_to_node(story: &Story) {
    let had = NODES.map(|host| (story.state(host).starts, wished_starts(story, host)));
    let patch = serde_json::json!({"spec": {"kubernetes": {"disable": ["metrics-server"]}}});
    let _: Site = story.operator.patch(&settings::site(1), &patch).unwrap();
    until("every node was restarted, one at a time", || {
        let now = versions_of_all(story);
        let states = NODES.map(|host| story.state(host));
        // One that ended by itself starts with the new configuration, and need not be restarted.
        let restarted = |at: usize| {
            let wished = states[at].starts.saturating_sub(states[at].ends);
            states[at].starts > had[at].0 && wished <= had[at].1 + 1
        };
        let serves = |at: usize| {
            states[at].phase == KubernetesPhase::Ready && now[at]["forRestart"] == false
        };
        if (0..3).all(|at| restarted(at) && serves(at)) {
            Ok(())
        } else {
            Err(states.map(|state| (state.phase, state.starts, state.ends, state.message)))
        }
    });
    all_take_pods(story, NODES[0]);
    story.passed("another configuration went from node to node");
}

fn another_version_goes_from_node_to_node(story: &Story) {
    let lease = ["kubectl", "--request-timeout=5s", "-n", "holdfast-system", "get", "lease"];
    // Of the lock when it is free: who takes it again before it has let go of it has not changed.
    let turns = |host| {
        let column = "jsonpath={.spec.holderIdentity}/{.spec.leaseTransitions}";
        until("the lock is free, and read", || {
            let said = story.k3s(host, &[&lease[..], &["holdfast-reboot", "-o", column]].concat());
            said.strip_prefix('/').and_then(|turns| turns.parse::<usize>().ok()).ok_or(said)
        })
    };
    let before = turns(NODES[0]);
    let had = NODES.map(|host| (wished_starts(story, host), story.state(host)));

    // The same program with other bytes behind its end, which the kernel does not look at.
    let mut program = std::fs::read(story.programs.path("lab-k3s")).unwrap();
    program.extend_from_slice(b"another version");
    ask_for_version(story, "v1.20.99+next", &program);
    until("every node runs the new version", || {
        let now = versions_of_all(story);
        let is_done = |it: &serde_json::Value| {
            it["current"]["version"] == "v1.20.99+next"
                && it["onTrial"] == false
                && it["service"] == "in"
        };
        if now.iter().all(is_done) { Ok(()) } else { Err(now) }
    });
    let mut ended = 0;
    for (host, (starts, had)) in NODES.into_iter().zip(had) {
        let log = || log(&story.world, host);
        assert!(wished_starts(story, host) <= starts + 1, "{host}: {}", log());
        let now = story.state(host).snapshots.snapshots;
        // One that ended by itself has nothing to move away, and begins the version without a turn.
        ended += usize::from(story.state(host).ends > had.ends);
        let kept = had.snapshots.snapshots.len();
        assert!(now.len() > kept || ended > 0, "{host} kept its datastore before");
        answers_at_last(story, host);
    }
    let turns = turns(NODES[0]) - before;
    let logs = || NODES.map(|host| format!("--- {host}\n{}", log(&story.world, host))).concat();
    assert!((3 - ended..=3).contains(&turns), "each had the lock once: {turns}\n{}", logs());
    all_take_pods(story, NODES[0]);
    story.passed("all three run another version");
}

/// The servers that are left, and the new one. All three are told to join another.
const LEFT: [Host; 3] = [Host::Node(2), Host::Node(3), Host::Node(4)];
const LEFT_NAMES: [&str; 3] = ["site-1-2", "site-1-3", "site-1-4"];

fn the_one_that_began_breaks_and_is_replaced(story: &mut Story) {
    let (broken, new) = (Host::Node(1), Host::Node(4));
    let others = [Host::Node(2), Host::Node(3)].map(|host| (host, wished_starts(story, host)));
    story.break_down(broken);
    // The one call. The rest is the new machine's token and power switch.
    let token = story.operator.make_replacement(&settings::site(1), "site-1").unwrap();
    let spec = WorldSpec { nodes: 4, site_nodes: 4, ..story.world.spec().clone() };
    let mode = EmulatorMode::Process(LAB.into());
    story.world.grow(&spec, &mode, &mut |_| {}).unwrap();
    fleet::start_node(&mut story.world, &story.programs, 4, &token).unwrap();
    fleet::wait_online(&mut story.world, &[4]).unwrap();
    story.passed("the new node is online");
    let site = story.site().spec.nodes;
    let members: Vec<(&str, NodeRole)> =
        site.iter().map(|node| (node.name.as_str(), node.role)).collect();
    assert_eq!(members, LEFT_NAMES.map(|name| (name, NodeRole::ControlPlane)));

    if let Err(error) = kubernetes::wait_ready(&mut story.world, new) {
        panic!("{}\n{}", holdfast_api::chain(&error), log(&story.world, Host::Node(2)));
    }
    story.passed("the new node is Ready");
    holds("the broken node is gone", || story.ready(new) == LEFT_NAMES);
    holds("the new node knows the release", || {
        story.state(new).release.phase == ReleasePhase::Committed
    });
    for (host, starts) in others {
        let log = || log(&story.world, host);
        assert!(wished_starts(story, host) <= starts, "{host} went on: {}", log());
    }
    // Nobody is to begin a datastore any more, for each of two may have it.
    holds("all of them are told to join", || {
        LEFT.iter().all(|host| story.state(*host).role == KubernetesRole::Server)
    });
}

fn the_datastore_goes_back_on_all_servers(story: &Story) {
    let [first, second, new] = LEFT;
    let make = |name| {
        holds(&format!("the configmap {name} is made"), || {
            story.k3s(first, &["kubectl", "create", "configmap", name]);
            let made = story.k3s(first, &["kubectl", "get", "configmap", name, "-o", "name"]);
            made.trim() == format!("configmap/{name}")
        });
    };
    make("before");
    let taken = story.holdfast(first, &["kube", "snapshot", "--wait", "-o", "json"]);
    let taken: serde_json::Value = serde_json::from_str(&taken).unwrap();
    let name = taken["name"].as_str().unwrap();
    make("after");

    for other in [second, new] {
        story.holdfast(other, &["kube", "stop"]);
    }
    story.passed("the others are stopped");
    story.holdfast(first, &["kube", "restore", name, "--yes", "--wait"]);
    story.passed("the datastore is put back on one");
    for other in [second, new] {
        story.holdfast(other, &["kube", "start", "--rejoin"]);
        story.holdfast(other, &["kube", "status", "--wait"]);
    }
    story.passed("the others joined it");

    for host in LEFT {
        until(&format!("{host} is at rest"), || {
            let state = story.state(host);
            let is_well = state.phase == KubernetesPhase::Ready
                && state.reason.is_none()
                && state.snapshots.problem.is_none()
                && state.release.phase == ReleasePhase::Committed;
            if is_well { Ok(()) } else { Err(Box::new(state)) }
        });
        holds("all nodes are Ready", || story.ready(host) == LEFT_NAMES);
        let maps = until("configmaps are listed", || {
            let maps = story.k3s(host, &["kubectl", "get", "configmaps", "-o", "name"]);
            if maps.is_empty() { Err(()) } else { Ok(maps) }
        });
        let has = |name: &str| maps.lines().any(|line| line == format!("configmap/{name}"));
        assert!(has("before") && !has("after"), "{host}: {maps}");
        answers_at_last(story, host);
    }
    all_take_pods(story, new);
    // Two of three write, two of four would not, nor would one of two: all three have a vote, and
    // no dead member is left.
    story.break_down(first);
    holds("the datastore goes on", || {
        let words = ["kubectl", "--request-timeout=5s", "create", "configmap", "on", "-o", "name"];
        story.k3s(new, &words).contains("configmap/on")
    });
    story.passed("two of three go on");
}
