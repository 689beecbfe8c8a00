//! Worlds of hosts and links without the programs of Holdfast: made, grown, broken off at any
//! moment, and removed without a trace.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Place, all_answered, cannot, rtts};
use holdfast_poll::holds as until;
use lab::emulator::Cut;
use lab::faults::{self, Fault, Target};
use lab::process::ProcessId;
use lab::world::topology::netns_prefix;
use lab::world::{EmulatorMode, Home, Host, World, WorldError, WorldSpec, down};
use lab::{exec, netns, status};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// The same of one that answers.
fn pinged(world: &World, from: Host, to: Host) -> Vec<f64> {
    all_answered(&world.netns(from), &to.address().unwrap().to_string(), 3)
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

/// How many namespaces and files of a world there are.
fn standing(home: &Home) -> usize {
    fn files(dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let below = |entry: std::fs::DirEntry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + files(&entry.path()),
            Ok(_) | Err(_) => 1,
        };
        entries.map(below).sum()
    }
    let namespaces = netns::with_prefix(&netns_prefix(home.world()));
    namespaces.len() + files(home.base())
}

fn assert_nothing_is_left(home: &Home) {
    assert_eq!(netns::with_prefix(&netns_prefix(home.world())), [] as [String; 0]);
    assert!(!home.base().exists(), "{} is left", home.base().display());
    until("every process ended", Duration::from_secs(60), || processes_of(home).is_empty());
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
        let times = pinged(&world, Host::Node(1), edge);
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
    assert_eq!(pinged(&world, Host::Node(1), Host::Edge(2)).len(), 3);

    let grown = WorldSpec { nodes: 2, ..world.spec().clone() };
    world.grow(&grown, &EmulatorMode::Thread, &mut |_| {}).unwrap();
    assert_eq!(pinged(&world, Host::Node(2), Host::Node(1)).len(), 3);
    assert!(matches!(
        World::create(&place.home, &grown, Path::new("/"), &EmulatorMode::Thread, &mut |_| {}),
        Err(WorldError::Incomplete(_))
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
    let waited = world.wait_for("node-1.failing", "a sign", Duration::from_secs(60), || None::<()>);
    assert!(matches!(waited, Err(WorldError::Ended { tail, .. }) if tail.contains("out of luck")));
}

/// The law: whatever a host does to the kernel's settings, those of the machine stay as they are.
#[test]
fn a_host_changes_nothing_of_the_machine() {
    if cannot("a_host_changes_nothing_of_the_machine") {
        return;
    }
    let place = Place::new();
    let world = make(&place, &WorldSpec { edges: 0, ..WorldSpec::default() });
    let root = world.home().root(Host::Node(1));
    let on_node = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&root);
        let output = exec::output(&world.netns(Host::Node(1)), &mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Only asked whether it could be written, or a failure would change this machine.
    let machines = "/proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /proc/sys/fs/file-max \
                    /proc/sysrq-trigger /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state \
                    /sys/bus/pci/rescan";
    let writable =
        |paths: &str| on_node(&format!("for f in {paths}; do test -w $f && echo $f; done"));
    assert_eq!(writable(machines), "");
    let own = "/proc/sys/net/ipv4/ip_default_ttl /sys/class/net/wan0/mtu";
    assert_eq!(writable(own), own.replace(' ', "\n") + "\n");
    let machines_ttl = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    assert_eq!(
        on_node(
            "cd proc/sys; echo 77 >net/ipv4/ip_default_ttl; cat /proc/sys/net/ipv4/ip_default_ttl"
        ),
        "77\n"
    );
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), machines_ttl);
    assert_eq!(on_node("cd proc/sys/kernel; echo 17 >panic; cat panic"), "17\n");
    let machines = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    assert_eq!(on_node("cat /proc/sys/kernel/panic"), machines);
    assert_ne!(machines, "17\n");
}

#[test]
fn a_dead_emulator_is_told_and_mended() {
    if cannot("a_dead_emulator_is_told_and_mended") {
        return;
    }
    let place = Place::new();
    let mut world = make(&place, &WorldSpec { edges: 1, ..WorldSpec::default() });
    let emulator: Target = "process:emulator".parse().unwrap();
    let whole = |world: &World| {
        let status = status::observe(world).unwrap();
        let links = status.links.map(|links| links.iter().all(|link| link.cut == Cut::None));
        (links, status.not_running)
    };
    assert_eq!(whole(&world), (Some(true), vec![]));
    for target in [Some(&emulator), Some(&Target::Link("re-1".into())), None] {
        world.links().unwrap().cut("node-1", Cut::Both).unwrap();
        faults::inject(&world, &emulator, &Fault::Kill).unwrap();
        assert_eq!(whole(&world), (None, vec!["emulator".into()]));
        let refused = faults::inject(&world, &"re-1".parse().unwrap(), &Fault::Cut(Cut::Both));
        let text = holdfast_api::chain(&refused.unwrap_err());
        assert!(text.contains("`heal` starts it again"), "{text}");
        let done = faults::heal(&mut world, target).unwrap();
        assert_eq!(done, ["process emulator is started again"]);
        assert_eq!(whole(&world), (Some(true), vec![]), "the links are as they were");
        assert_eq!(pinged(&world, Host::Node(1), Host::Edge(1)).len(), 3);
    }
    faults::inject(&world, &emulator, &Fault::Freeze).unwrap();
    assert_eq!(faults::heal(&mut world, None).unwrap(), ["process emulator runs on"]);
    assert_eq!(faults::heal(&mut world, None).unwrap(), [] as [String; 0]);

    let misfit = faults::inject(&world, &emulator, &Fault::Cut(Cut::Both)).unwrap_err();
    assert!(misfit.to_string().starts_with("process emulator cannot be broken in this way"));
    let unknown = faults::inject(&world, &"process:x".parse().unwrap(), &Fault::Kill).unwrap_err();
    let text = unknown.to_string();
    assert!(text.contains("process x") && text.contains("emulator"), "{text}");
}

/// Programs that do nothing but stay.
fn idle_programs(dir: &Path) {
    for program in lab::programs::Programs::ALL {
        holdfast_durable::write(&dir.join(program), b"#!/bin/sh\nexec sleep 600\n", 0o755).unwrap();
    }
}

#[test]
fn an_interrupt_says_what_is_left() {
    if cannot("an_interrupt_says_what_is_left") {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    idle_programs(programs.path());
    let place = Place::new();
    let world = place.home.world().as_str();
    let lab = |command: &str| {
        let mut lab = Command::new(LAB);
        lab.args([command, "-w", world, "--dir"]).arg(place.home.base());
        lab.env("HOLDFAST_BIN_DIR", programs.path());
        lab
    };
    let up = lab("up")
        .arg("--no-kubernetes")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It waits for a controller that never answers.
    until("the controller is started", Duration::from_secs(30), || {
        exec::recorded(&place.home.record("controller")).is_some()
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(up.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = up.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains(&format!("`cargo lab -w {world} down`")), "{text}");

    let again = lab("up").arg("--no-kubernetes").output().unwrap();
    let text = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{text}");
    assert!(text.contains("not complete") && text.contains("down`"), "{text}");

    for (program, code) in [("/nonexistent/program", 127), ("/etc/passwd", 126)] {
        let output = lab("exec").args(["node-1", program]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{program}");
    }
    let failed = lab("break").args(["-o", "json", "nonsense"]).output().unwrap();
    let error: serde_json::Value = serde_json::from_slice(&failed.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("link nonsense"), "{error}");
}

#[test]
fn a_world_whose_making_was_killed_at_any_moment_goes_without_a_trace() {
    /// So much of it stands when it is killed: from nothing to hosts whose programs were started.
    const MOMENTS: [usize; 14] = [0, 1, 2, 4, 8, 12, 16, 18, 24, 40, 160, 280, 360, 500];
    if cannot("a_world_whose_making_was_killed_at_any_moment_goes_without_a_trace") {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    idle_programs(programs.path());
    for moment in MOMENTS {
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
        let mut up = lab("up").arg("--no-kubernetes").spawn().unwrap();
        // Without a pause: hosts and files come many in a millisecond.
        let deadline = Instant::now() + Duration::from_secs(60);
        while standing(&place.home) < moment {
            assert!(Instant::now() < deadline, "{moment} never stand");
            assert_eq!(up.try_wait().unwrap(), None, "it ended by itself");
            std::thread::yield_now();
        }
        up.kill().unwrap();
        up.wait().unwrap();
        assert!(
            lab("down").env_remove("HOLDFAST_BIN_DIR").status().unwrap().success(),
            "down failed where {moment} stood"
        );
        assert_nothing_is_left(&place.home);
        assert!(
            lab("down").env_remove("HOLDFAST_BIN_DIR").status().unwrap().success(),
            "down twice"
        );
    }
}
