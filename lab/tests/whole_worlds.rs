//! Whole worlds with the real programs, end to end. They want the machine for themselves and take
//! a while, so they run only when they are asked for ([`ASKED`]), one at a time: `cargo lab test worlds`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Place, cannot, rtts};
use holdfast_api::local::Stage;
use holdfast_api::tunnel::{BfdState, TunnelsState};
use holdfast_poll::holds as until;
use lab::faults::{self, Fault, Target};
use lab::netns;
use lab::node_root::Hardware;
use lab::programs::Programs;
use lab::status::{self, WorldStatus};
use lab::world::topology::{SERVICE, netns_prefix};
use lab::world::{EmulatorMode, Home, Host, World, WorldSpec, down};
use lab::{exec, fleet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// Set by the step `worlds` of `cargo lab test`.
const ASKED: &str = "HOLDFAST_TEST_WORLDS";

/// The programs beside `lab`; none when they are not built or nobody asked, after saying so.
fn programs(test: &str) -> Option<Programs> {
    if std::env::var_os(ASKED).is_none() {
        eprintln!("skipped: a whole world wants the machine for itself: the step `worlds` runs it");
        return None;
    }
    if cannot(test) {
        return None;
    }
    let beside = Path::new(LAB).parent().unwrap().to_path_buf();
    let dir = std::env::var_os("HOLDFAST_BIN_DIR").map_or(beside, Into::into);
    match Programs::in_dir(&dir) {
        Ok(programs) => Some(programs),
        Err(error) => {
            eprintln!("skipped: {test}: {error}; `cargo build --workspace --bins` makes it");
            None
        }
    }
}

fn up(place: &Place, programs: &Programs, spec: &WorldSpec) -> World {
    let mode = EmulatorMode::Process(LAB.into());
    let mut world = World::create(&place.home, spec, programs.dir(), &mode, &mut |_| {}).unwrap();
    if let Err(error) = fleet::start(&mut world, programs, &mut |stage| eprintln!("{stage:?}")) {
        for name in world.home().services().unwrap().keys() {
            let log = std::fs::read_to_string(world.home().log(name)).unwrap_or_default();
            eprintln!("--- {name}\n{log}");
        }
        panic!("{}", holdfast_api::chain(&error));
    }
    world
}

fn tunnels(world: &World, node: u8) -> Option<TunnelsState> {
    fleet::ask(&fleet::tunneld_socket(world, Host::Node(node)), "/v1/state").ok()
}

fn state(world: &World) -> WorldStatus {
    status::observe(world).unwrap()
}

fn break_it(world: &World, what: &str) {
    let target: Target = what.parse().unwrap();
    faults::inject(world, &target, &faults::usual(&target)).unwrap();
}

fn heal(world: &mut World, what: &str) {
    faults::heal(world, Some(&what.parse().unwrap())).unwrap();
}

/// Steady traffic from a node through its tunnels to what stands behind the edges.
struct Traffic {
    ping: Child,
    answered: Arc<AtomicUsize>,
    reader: JoinHandle<String>,
}

impl Traffic {
    fn start(world: &World, node: u8) -> Self {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-i", "0.01", &SERVICE.to_string()]).stdout(Stdio::piped());
        let mut ping = exec::spawn(&world.netns(Host::Node(node)), &mut ping).unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let (lines, count) =
            (BufReader::new(ping.stdout.take().unwrap()).lines(), answered.clone());
        let reader = std::thread::spawn(move || {
            let line = |line: std::io::Result<String>| {
                let line = line.unwrap();
                count.fetch_add(rtts(line.as_bytes()).len(), Ordering::Relaxed);
                line
            };
            lines.map(line).collect::<Vec<_>>().join("\n")
        });
        Traffic { ping, answered, reader }
    }

    /// Lets this many more packets be answered.
    fn flow(&self, packets: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + packets;
        until("traffic flows", Duration::from_secs(60), || {
            self.answered.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends the traffic, and tells which of its packets were lost.
    fn lost(mut self) -> Vec<usize> {
        kill(Pid::from_raw(i32::try_from(self.ping.id()).unwrap()), Signal::SIGINT).unwrap();
        let text = self.reader.join().unwrap();
        self.ping.wait().unwrap();
        let number =
            |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse::<usize>().ok();
        let answered: Vec<usize> = text.lines().filter_map(number).collect();
        // What was sent after the last answer is still under way.
        let last = answered.iter().max().copied().unwrap();
        (1..=last).filter(|number| !answered.contains(number)).collect()
    }
}

/// Whether a packet goes through the tunnels and comes back.
fn passes(world: &World, node: u8) -> bool {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "1", "-W", "1", &SERVICE.to_string()]);
    exec::output(&world.netns(Host::Node(node)), &mut ping).unwrap().status.success()
}

fn assert_nothing_is_left(home: &Home) {
    assert_eq!(netns::with_prefix(&netns_prefix(home.world())), [] as [String; 0]);
    assert!(!home.base().exists(), "{} is left", home.base().display());
    let dir = home.dir().display().to_string();
    let names_it = |entry: std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&dir))
    };
    until("every process ended", Duration::from_secs(60), || {
        !std::fs::read_dir("/proc").unwrap().flatten().any(names_it)
    });
}

#[test]
fn traffic_survives_what_can_break() {
    let Some(programs) = programs("traffic_survives_what_can_break") else { return };
    let place = Place::new();
    let mut world = up(&place, &programs, &WorldSpec::default());

    until("tunnels to the two nearest, the active one first", Duration::from_secs(60), || {
        tunnels(&world, 1).is_some_and(|now| {
            let up = now.tunnels.iter().filter(|tunnel| tunnel.state == BfdState::Up);
            up.map(|tunnel| tunnel.edge.as_str()).eq(["re-1", "re-2"])
        })
    });
    until("traffic passes", Duration::from_secs(60), || passes(&world, 1));

    wg_shows(&world, 1, &["hf-wg0", "hf-wg1"]);

    break_it(&world, "active");
    until("traffic moves to the second", Duration::from_secs(60), || {
        faults::active_edge(&world, 1).as_deref() == Some("re-2")
    });
    until("traffic passes over the second", Duration::from_secs(60), || passes(&world, 1));

    heal(&mut world, "re-1");
    until("traffic comes back when the first has proved itself", Duration::from_secs(120), || {
        faults::active_edge(&world, 1).as_deref() == Some("re-1")
    });
    until("traffic passes over the first again", Duration::from_secs(60), || passes(&world, 1));

    // A machine that stands still for longer than liveness waits has a failover of its own.
    let failovers = |world: &World| tunnels(world, 1).map(|tunnels| tunnels.failovers);
    for attempt in 1..=3 {
        let before = failovers(&world);
        let lost = lost_while_others_are_away(&mut world);
        if lost.is_empty() {
            break;
        }
        let by_itself = failovers(&world) != before && attempt < 3;
        assert!(by_itself, "lost {lost:?}");
    }

    kill_everything(&world);
    assert_eq!(state(&world).not_running.len(), state(&world).processes.len());
    faults::heal(&mut world, None).unwrap();
    fleet::wait_online(&mut world, &[1]).unwrap();
    until("traffic passes in the world that was dead", Duration::from_secs(60), || {
        passes(&world, 1)
    });
    for name in world.home().services().unwrap().keys() {
        let log = std::fs::read_to_string(world.home().log(name)).unwrap();
        assert!(!log.contains('\u{1b}'), "{name} writes colours into a file");
        assert!(!log.contains("CONNECTION_EXPIRED"), "{name} calls silence an error");
    }

    assert!(down(&place.home).unwrap().problems.is_empty());
    assert_nothing_is_left(&place.home);
}

/// Of the traffic that needs neither the controller nor the manager.
fn lost_while_others_are_away(world: &mut World) -> Vec<usize> {
    let traffic = Traffic::start(world, 1);
    traffic.flow(50);
    break_it(world, "controller");
    traffic.flow(200);
    heal(world, "controller");
    traffic.flow(50);
    break_it(world, "node-1.holdfastd");
    traffic.flow(100);
    heal(world, "node-1.holdfastd");
    until("the manager is back", Duration::from_secs(60), || {
        matches!(state(world).nodes[0].stage, Some(Stage::Online | Stage::Degraded))
    });
    traffic.flow(50);
    traffic.lost()
}

fn kill_everything(world: &World) {
    for name in world.home().services().unwrap().keys() {
        let target = Target::Service(name.clone());
        faults::inject(world, &target, &Fault::Kill).unwrap();
    }
}

/// wg(8) on a node names these devices and no others; where the kernel has WireGuard, by netlink.
fn wg_shows(world: &World, node: u8, devices: &[&str]) {
    let names = tempfile::NamedTempFile::new().unwrap();
    let mut wg = Command::new("sh");
    wg.args(["-c", r#"wg show interfaces >"$0""#]).arg(names.path());
    let host = Host::Node(node);
    let root = world.home().root(host);
    assert!(lab::exec::status(&world.netns(host), &root, &mut wg).unwrap().success());
    let mut seen: Vec<String> = std::fs::read_to_string(names.path())
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    seen.sort();
    assert_eq!(seen, devices);
}

#[test]
fn a_third_edge_is_found_when_one_dies_for_good() {
    let Some(programs) = programs("a_third_edge_is_found_when_one_dies_for_good") else { return };
    let place = Place::new();
    let world = up(&place, &programs, &WorldSpec::default());
    // The node has to do it alone.
    break_it(&world, "controller");
    break_it(&world, "process:re-1");
    until("the third edge takes its place", Duration::from_secs(120), || {
        tunnels(&world, 1).is_some_and(|now| {
            now.up() == 2 && now.tunnels.iter().any(|tunnel| tunnel.edge == "re-3")
        })
    });
    until("traffic passes", Duration::from_secs(60), || passes(&world, 1));
}

#[test]
fn sites_join_a_running_world_and_operators_see_them() {
    let Some(programs) = programs("sites_join_a_running_world_and_operators_see_them") else {
        return;
    };
    let place = Place::new();
    let lab = |arguments: &[&str]| {
        let mut lab = Command::new(LAB);
        lab.args(["-w", place.home.world().as_str(), "--dir"])
            .arg(place.home.base())
            .args(arguments);
        lab.env("HOLDFAST_BIN_DIR", programs.dir()).output().unwrap()
    };
    let ok = |output: std::process::Output| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    ok(lab(&["up", "--no-kubernetes", "--edges", "2"]));
    ok(lab(&["add-site"]));
    until("two nodes with two tunnels each", Duration::from_secs(60), || {
        let status = ok(lab(&["status", "-o", "json"]));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let nodes = status["nodes"].as_array().unwrap();
        let has_two = |node: &serde_json::Value| {
            let tunnels = node["tunnels"]["tunnels"].as_array().unwrap();
            tunnels.iter().filter(|tunnel| tunnel["state"] == "up").count() == 2
        };
        nodes.len() == 2 && nodes.iter().all(has_two)
    });
    assert!(ok(lab(&["exec", "node-2", "--", "holdfast", "status"])).contains("re-1"));
    if lab::packages::find("kubectl").is_none() {
        eprintln!("skipped: kubectl is not there");
        return;
    }
    let sites = ok(lab(&["kubectl", "get", "sites,registrations,regionaledges"]));
    for name in ["site-1", "site-2", "re-1", "re-2"] {
        assert!(sites.contains(name), "{name} is not in\n{sites}");
    }
    ok(lab(&["down"]));
    assert_nothing_is_left(&place.home);
}

#[test]
fn a_world_whose_making_was_killed_goes_without_a_trace() {
    let Some(programs) = programs("a_world_whose_making_was_killed_goes_without_a_trace") else {
        return;
    };
    // After the controller is there, while edges register, while the node registers.
    for service in ["controller", "re-1", "node-1.tunneld", "node-1.holdfastd"] {
        let place = Place::new();
        let mut up = Command::new(LAB)
            .args(["up", "--no-kubernetes", "-w", place.home.world().as_str(), "--dir"])
            .arg(place.home.base())
            .env("HOLDFAST_BIN_DIR", programs.dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(service, Duration::from_secs(60), || {
            exec::recorded(&place.home.record(service)).is_some()
        });
        up.kill().unwrap();
        up.wait().unwrap();
        assert!(down(&place.home).unwrap().problems.is_empty());
        assert_nothing_is_left(&place.home);
    }
}

#[test]
fn every_box_comes_as_far_as_its_world_allows() {
    let Some(programs) = programs("every_box_comes_as_far_as_its_world_allows") else { return };
    for (hardware, edges, profile) in
        [(Hardware::IntelNuc11, 1, "intel-nuc-11"), (Hardware::Stranger, 0, "generic")]
    {
        let place = Place::new();
        let world = up(&place, &programs, &WorldSpec { edges, hardware, ..WorldSpec::default() });
        let node = &state(&world).nodes[0];
        assert_eq!(node.profile, profile);
        until("as many tunnels as edges", Duration::from_secs(60), || {
            tunnels(&world, 1).map(|now| now.up()) == Some(edges.into())
        });
    }
}

#[test]
fn a_node_comes_online_when_the_controller_does() {
    let Some(programs) = programs("a_node_comes_online_when_the_controller_does") else { return };
    let place = Place::new();
    let mut world = up(&place, &programs, &WorldSpec { nodes: 0, ..WorldSpec::default() });
    let operator = fleet::operator(&world, &programs).unwrap();
    let grown = WorldSpec { nodes: 1, ..world.spec().clone() };
    world.grow(&grown, &EmulatorMode::Thread, &mut |_| {}).unwrap();
    faults::inject(
        &world,
        &"link:controller".parse().unwrap(),
        &Fault::Cut(lab::emulator::Cut::Both),
    )
    .unwrap();
    fleet::start_nodes(&mut world, &programs, &operator, &[1]).unwrap();
    until("the node says that the controller is away", Duration::from_secs(30), || {
        state(&world).nodes[0].reason == Some(holdfast_api::Reason::ControllerUnreachable)
    });
    heal(&mut world, "link:controller");
    fleet::wait_online(&mut world, &[1]).unwrap();
}
