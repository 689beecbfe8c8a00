//! What the tests that touch the kernel share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use lab::netns;
use lab::world::{Home, WorldName};
use netd::netns::NetNs;
use std::path::PathBuf;
use std::process::Command;

/// Why this machine cannot run tests with namespaces, after saying so.
pub(crate) fn cannot(test: &str) -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "it needs root"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "it needs /dev/net/tun"
    } else if lab::packages::find("ip").is_none() {
        "it needs ip(8)"
    } else if lab::packages::find("ping").is_none() {
        "it needs ping(8)"
    } else {
        return false;
    };
    eprintln!("skipped: {test}: {why}");
    true
}

/// A name of six characters that no other test uses.
pub(crate) fn unique() -> String {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A namespace that goes with the test, also when it panics.
pub(crate) struct Namespace {
    pub(crate) name: String,
    _netns: NetNs,
}

impl Namespace {
    pub(crate) fn new(what: &str) -> Self {
        let name = format!("lt-{what}-{}", unique());
        let netns = NetNs::create(&name).unwrap();
        netns::ip(&["-n", &name, "link", "set", "lo", "up"]).unwrap();
        Namespace { name, _netns: netns }
    }

    pub(crate) fn ip(&self, line: &str) -> String {
        let mut arguments = vec!["-n", self.name.as_str()];
        arguments.extend(line.split(' '));
        netns::ip(&arguments).unwrap()
    }

    /// Round-trip times in milliseconds of the pings that were answered.
    pub(crate) fn ping(&self, to: &str, count: u32) -> Vec<f64> {
        let count = count.to_string();
        let mut ping = Command::new("ping");
        ping.args(["-n", "-c", &count, "-i", "0.01", "-W", "1", to]);
        rtts(&lab::exec::output(&self.name, &mut ping).unwrap().stdout)
    }
}

/// Round-trip times in milliseconds of so many pings that are all to be answered, however late: ping(8)
/// goes on until as many answers came, so that one that was lost is missing here.
pub(crate) fn all_answered(netns: &str, to: &str, count: u32) -> Vec<f64> {
    let words = count.to_string();
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", &words, "-w", "60", "-i", "0.01", to]);
    let output = lab::exec::output(netns, &mut ping).unwrap().stdout;
    let number =
        |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse::<u32>().ok();
    let text = String::from_utf8_lossy(&output);
    let asked = text.lines().filter(|line| number(line).is_some_and(|number| number <= count));
    asked.flat_map(|line| rtts(line.as_bytes())).collect()
}

/// The times in the output of ping(8).
pub(crate) fn rtts(output: &[u8]) -> Vec<f64> {
    let text = String::from_utf8_lossy(output);
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next());
    times.map(|time| time.parse().unwrap()).collect()
}

/// A place for worlds of its own, taken down with the test, also when it panics.
pub(crate) struct Place {
    pub(crate) home: Home,
    dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let name = unique();
        let dir = PathBuf::from(format!("/run/holdfast-lab-test-{name}"));
        let world: WorldName = format!("t{name}").parse().unwrap();
        Place { home: Home::new(&dir, world), dir }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match lab::world::down(&self.home) {
            Ok(report) if report.problems.is_empty() => {}
            other => eprintln!("left behind: {other:?}"),
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
