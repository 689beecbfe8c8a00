//! Worlds of hosts and links without the programs of Holdfast: made, grown, broken off at any
//! moment, and removed without a trace.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Place, cannot, rtts, until};
use lab::emulator::Cut;
use lab::process::ProcessId;
use lab::world::topology::netns_prefix;
use lab::world::{EmulatorMode, Home, Host, World, WorldError, WorldSpec, down};
use lab::{exec, netns};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

fn make(place: &Place, spec: &WorldSpec) -> World {
    let spec = &WorldSpec { nodes_set_themselves_up: false, ..spec.clone() };
    let mode = EmulatorMode::Process(LAB.into());
    World::create(&place.home, spec, Path::new("/nonexistent"), &mode, &mut |_| {}).unwrap()
}

fn ping(world: &World, from: Host, to: Host) -> Vec<f64> {
    let to = to.address().unwrap().to_string();
    let mut command = Command::new("ping");
    command.args(["-n", "-c", "3", "-i", "0.01", "-W", "1", &to]);
    rtts(&exec::output(&world.netns(from), &mut command).unwrap().stdout)
}

/// Processes whose command line names this world.
fn processes_of(home: &Home) -> Vec<String> {
    let dir = home.dir().display().to_string();
    let command = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&dir))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(command).collect()
}

fn assert_nothing_is_left(home: &Home) {
    assert_eq!(netns::with_prefix(&netns_prefix(home.world())), [] as [String; 0]);
    assert!(!home.base().exists(), "{} is left", home.base().display());
    until("every process ended", Duration::from_secs(5), || processes_of(home).is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&home.dir().display().to_string()), "a mount is left");
}

#[test]
fn hosts_reach_each_other_with_the_delays_of_their_links() {
    if cannot("hosts_reach_each_other_with_the_delays_of_their_links") {
        return;
    }
    let place = Place::new();
    let mut world = make(&place, &WorldSpec { edges: 2, ..WorldSpec::default() });
    for (edge, least) in [(Host::Edge(1), 12.0), (Host::Edge(2), 26.0)] {
        let times = ping(&world, Host::Node(1), edge);
        assert_eq!(times.len(), 3, "{edge} does not answer");
        assert!(times.iter().all(|time| *time >= least), "{edge} is too near: {times:?}");
    }
    let mut command = Command::new("ping");
    command.args(["-n", "-c", "1", "-W", "1", "10.255.0.2"]);
    assert!(
        exec::output(&world.netns(Host::Edge(1)), &mut command).unwrap().status.success(),
        "no backbone"
    );

    world.links().unwrap().cut("re-1", Cut::Both).unwrap();
    assert!(ping(&world, Host::Node(1), Host::Edge(1)).is_empty());
    assert_eq!(ping(&world, Host::Node(1), Host::Edge(2)).len(), 3);

    let grown = WorldSpec { nodes: 2, ..world.spec().clone() };
    world.grow(&grown, &EmulatorMode::Thread, &mut |_| {}).unwrap();
    assert_eq!(ping(&world, Host::Node(2), Host::Node(1)).len(), 3);
    assert!(matches!(
        World::create(&place.home, &grown, Path::new("/"), &EmulatorMode::Thread, &mut |_| {}),
        Err(WorldError::Exists(_))
    ));
    assert!(down(&place.home).unwrap().problems.is_empty());
    assert_nothing_is_left(&place.home);
}

#[test]
fn a_host_sees_its_own_interfaces_in_sys() {
    if cannot("a_host_sees_its_own_interfaces_in_sys") {
        return;
    }
    let place = Place::new();
    let world = make(&place, &WorldSpec { edges: 0, ..WorldSpec::default() });
    let read = |command: &mut Command| {
        let output = exec::output(&world.netns(Host::Node(1)), command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(read(Command::new("ls").arg("/sys/class/net")), "lo\nwan0\n");
    let root = world.home().root(Host::Node(1));
    let address = read(Command::new("cat").arg(root.join("sys/class/net/wan0/address")));
    assert!(!address.is_empty());
    assert!(read(Command::new("ip").args(["link", "show", "wan0"])).contains(address.trim()));
}

#[test]
fn services_are_restarted_and_their_end_is_told_with_their_log() {
    if cannot("services_are_restarted_and_their_end_is_told_with_their_log") {
        return;
    }
    let place = Place::new();
    let mut world = make(&place, &WorldSpec { edges: 0, nodes: 1, ..WorldSpec::default() });
    let host = Some(Host::Node(1));
    let first = world.start("node-1.sleeper", host, Path::new("sleep"), &["600"], &[]).unwrap();
    assert!(lab::process::inside(&netns::path(&world.netns(Host::Node(1)))).contains(&first));
    lab::process::end(&[first], Duration::ZERO);
    assert_eq!(world.process("node-1.sleeper").unwrap(), None);
    let second: ProcessId = world.restart("node-1.sleeper").unwrap();
    assert!(second.alive() && second != first);
    assert!(
        matches!(world.restart("nobody"), Err(WorldError::NoSuchService(name)) if name == "nobody")
    );

    world
        .start("node-1.failing", host, Path::new("sh"), &["-c", "echo out of luck; exit 1"], &[])
        .unwrap();
    let waited = world.wait_for("node-1.failing", "a sign", Duration::from_secs(10), || None::<()>);
    assert!(matches!(waited, Err(WorldError::Ended { tail, .. }) if tail.contains("out of luck")));
}

/// Programs that do nothing but stay.
fn idle_programs(dir: &Path) {
    for program in lab::programs::Programs::ALL {
        holdfast_durable::write(&dir.join(program), b"#!/bin/sh\nexec sleep 600\n", 0o755).unwrap();
    }
}

#[test]
fn a_world_whose_making_was_killed_at_any_moment_goes_without_a_trace() {
    if cannot("a_world_whose_making_was_killed_at_any_moment_goes_without_a_trace") {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    idle_programs(programs.path());
    for moment_ms in [1, 5, 10, 20, 40, 60, 90, 120, 160, 220, 300, 450] {
        let place = Place::new();
        let world = place.home.world().as_str();
        let lab = |command: &str| {
            let mut lab = Command::new(LAB);
            lab.args([command, "-w", world, "--dir"])
                .arg(place.home.base())
                .env("HOLDFAST_BIN_DIR", programs.path());
            lab.stdout(Stdio::null()).stderr(Stdio::null());
            lab
        };
        let mut up = lab("up").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment_ms));
        up.kill().unwrap();
        up.wait().unwrap();
        assert!(
            lab("down").env_remove("HOLDFAST_BIN_DIR").status().unwrap().success(),
            "down failed after {moment_ms} ms"
        );
        assert_nothing_is_left(&place.home);
        assert!(
            lab("down").env_remove("HOLDFAST_BIN_DIR").status().unwrap().success(),
            "down twice"
        );
    }
}
