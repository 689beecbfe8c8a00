//! The bench as people run it: real programs, a real tunnel, and what is printed of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panics")]

use bench_dataplane::Report;
use lab::process::{self, ProcessId};
use lab::programs::Programs;
use lab::{netns, process::inside};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What is missing here to measure a tunnel.
fn missing(bench: &Path) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("namespaces need root".into());
    }
    if !bench.with_file_name("holdfast-wireguard").exists() {
        return Some("holdfast-wireguard is not built; `cargo build -p tunnels`".into());
    }
    let lacks = |name: &&&str| {
        let tried = Command::new(**name).arg("--version").stdout(Stdio::null()).status();
        tried.is_err()
    };
    ["iperf3", "wg"].iter().find(lacks).map(|name| format!("{name} is not installed"))
}

#[test]
fn a_stream_is_measured_through_a_tunnel_with_its_offloads_on() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench-dataplane"));
    if let Some(why) = missing(bench) {
        eprintln!("skipped: {why}");
        return;
    }
    let out = Command::new(bench)
        .args(["run", "helpers", "--quick", "--rounds", "1", "-o", "json"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
    let reports = Report::parse(&String::from_utf8(out.stdout).unwrap()).unwrap();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    let link = &report.setup["offloads of holdfast's link"];
    let on: Vec<&str> = link.split(", ").collect();
    for name in ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-checksum-ip-generic", "rx-gro"]
    {
        assert!(on.contains(&name), "{link}");
    }
    // USO came with Linux 6.2 (drivers/net/tun.c: TUN_F_USO4).
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut version = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    if (version.next(), version.next()) >= (Some(6), Some(2)) {
        assert!(on.contains(&"tx-udp-segmentation"), "{link}");
    }
    for series in
        ["helpers, 1 beside 1", "helpers.tax, usual beside 2", "helpers.memory, 2 beside 2"]
    {
        let found = report.results.iter().find(|found| found.name == series);
        let found = found.unwrap_or_else(|| panic!("no {series} in {report:?}"));
        assert!(found.n == 1 && found.median > 0.0, "{found:?}");
    }
}

/// Ends the bench when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(bench: &Path, scenario: &str) -> Self {
        let mut command = Command::new(bench);
        command.args(["run", scenario, "--quick"]).stdin(Stdio::null());
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn namespaces(&self) -> Vec<String> {
        netns::with_prefix(&format!("bench-{}-", self.0.id()))
    }

    /// Of its world, whose hosts are namespaces and whose state is a directory.
    fn world(&self) -> (Vec<String>, bool) {
        let name = format!("b{}", self.0.id());
        let dir = Path::new("/run/holdfast-bench").join(&name);
        (netns::with_prefix(&format!("hfl-{name}-")), dir.exists())
    }

    /// What runs in its world, once a node's daemons do.
    fn inhabited(&mut self) -> Vec<ProcessId> {
        let ready = holdfast_poll::retry(Duration::from_secs(60), || {
            assert_eq!(self.0.try_wait().unwrap(), None, "it has ended");
            let (hosts, _) = self.world();
            let node = hosts.iter().filter(|name| name.ends_with("-node-1"));
            let daemons: Vec<ProcessId> =
                node.flat_map(|name| inside(&netns::path(name))).collect();
            if daemons.len() == 2 { Ok(daemons) } else { Err(format!("{hosts:?}, {daemons:?}")) }
        });
        ready.unwrap()
    }

    /// What runs in its namespaces, once a stream does.
    fn streaming(&mut self) -> Vec<ProcessId> {
        let ready = holdfast_poll::retry(Duration::from_secs(60), || {
            assert_eq!(self.0.try_wait().unwrap(), None, "it has ended");
            let all: Vec<ProcessId> =
                self.namespaces().iter().flat_map(|name| inside(&netns::path(name))).collect();
            let comm = |one: &ProcessId| std::fs::read_to_string(format!("/proc/{}/comm", one.pid));
            let streams = all.iter().filter(|one| comm(one).unwrap_or_default() == "iperf3\n");
            if streams.count() == 2 { Ok(all) } else { Err(format!("{all:?}")) }
        });
        ready.unwrap()
    }

    fn signal(&self, signal: Signal) {
        process::ProcessId::of(i32::try_from(self.0.id()).unwrap())
            .unwrap()
            .signal(signal)
            .unwrap();
    }
}

#[test]
fn one_that_is_asked_to_end_leaves_nothing_and_removes_what_one_that_was_killed_left() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench-dataplane"));
    if let Some(why) = missing(bench) {
        eprintln!("skipped: {why}");
        return;
    }
    let mut killed = Running::start(bench, "helpers");
    let orphans = killed.streaming();
    killed.signal(Signal::SIGKILL);
    killed.0.wait().unwrap();
    assert!(!killed.namespaces().is_empty(), "nobody could remove them");
    let mut asked = Running::start(bench, "helpers");
    let children = asked.streaming();
    assert_eq!(killed.namespaces(), [""; 0], "the next one removes them");
    assert!(!orphans.iter().any(|one| one.alive()), "{orphans:?}");
    asked.signal(Signal::SIGTERM);
    assert_eq!(asked.0.wait().unwrap().code(), Some(143));
    assert_eq!(asked.namespaces(), [""; 0]);
    assert!(!children.iter().any(|one| one.alive()), "{children:?}");
}

#[test]
fn worlds_go_in_the_same_way() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench-dataplane"));
    let programs = Programs::in_dir(bench.parent().unwrap()).err().map(|error| error.to_string());
    if let Some(why) = missing(bench).or(programs) {
        eprintln!("skipped: {why}");
        return;
    }
    let mut killed = Running::start(bench, "rest");
    let orphans = killed.inhabited();
    killed.signal(Signal::SIGKILL);
    killed.0.wait().unwrap();
    assert!(killed.world().1 && !killed.world().0.is_empty(), "nobody could remove it");
    let mut asked = Running::start(bench, "rest");
    let children = asked.inhabited();
    assert_eq!(killed.world(), (vec![], false), "the next one removes it");
    assert!(!orphans.iter().any(|one| one.alive()), "{orphans:?}");
    asked.signal(Signal::SIGTERM);
    assert_eq!(asked.0.wait().unwrap().code(), Some(143));
    assert_eq!(asked.world(), (vec![], false));
    assert!(!children.iter().any(|one| one.alive()), "{children:?}");
}
