//! The bench as people run it: real programs, a real tunnel, and what is printed of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panics")]

use bench_dataplane::Report;
use std::path::Path;
use std::process::{Command, Stdio};

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
