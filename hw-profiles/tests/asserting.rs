//! What a machine is compared with what its profile promises.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use holdfast_api::Reason;
use hw_profiles::facts::{Cpus, Disk, Nic, NicKind, NumaNode, TpmVersion, Watchdog};
use hw_profiles::{AssertionResult, Catalogue, Facts, Profile, check};
use std::fs::File;
use std::io::Write;

fn profile(text: &str) -> Profile {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("acme.toml")).unwrap().write_all(text.as_bytes()).unwrap();
    let catalogue = Catalogue::load(&[dir.path().into()]);
    assert_eq!(catalogue.problems(), []);
    catalogue.get("acme").unwrap().clone()
}

fn facts() -> Facts {
    let nic = |name: &str, slot: u8, speed| Nic {
        name: name.into(),
        pci_address: Some(format!("0000:0{slot}:00.0")),
        driver: Some("igc".into()),
        speed_mbps: speed,
        kind: NicKind::Ethernet,
        ..Nic::default()
    };
    Facts {
        cpus: Cpus { count: 4, sockets: 1, ..Cpus::default() },
        numa_nodes: vec![NumaNode { memory_bytes: 8 << 30, ..NumaNode::default() }],
        memory_bytes: 8 << 30,
        huge_page_sizes: vec![2 << 20],
        nics: vec![nic("eno1", 1, Some(1000)), nic("eno2", 2, None)],
        tpm: Some(TpmVersion::V1_2),
        disks: vec![Disk { name: "sda".into(), size_bytes: 32_000_000_000, ..Disk::default() }],
        watchdog: Some(Watchdog { name: "watchdog0".into(), ..Watchdog::default() }),
        ..Facts::default()
    }
}

fn one(text: &str, facts: &Facts, name: &str) -> AssertionResult {
    let results = check(&profile(text), facts);
    results
        .iter()
        .find(|result| result.name == name)
        .cloned()
        .unwrap_or_else(|| panic!("{name}: {results:#?}"))
}

#[test]
fn each_assertion_holds_or_fails_with_its_reason() {
    let ports = "nics.outside = [{ order = 0 }]\nnics.inside = [{ from = 1 }]\n";
    for (text, name, failure) in [
        ("assertions.cpus = { min = 4 }", "cpus", None),
        ("assertions.cpus = { min = 5 }", "cpus", Some(Reason::HwAssertionFailed)),
        ("assertions.cpus = { max = 3 }", "cpus", Some(Reason::HwAssertionFailed)),
        ("assertions.sockets = { min = 1, max = 1 }", "sockets", None),
        ("assertions.numa_nodes = { min = 2 }", "numa_nodes", Some(Reason::HwAssertionFailed)),
        ("assertions.memory = { min = '7.5 GiB', max = '8 GiB' }", "memory", None),
        ("assertions.memory = { min = '8.5 GiB' }", "memory", Some(Reason::HwAssertionFailed)),
        ("assertions.tpm = '1.2'", "tpm", None),
        ("assertions.tpm = '2.0'", "tpm", Some(Reason::HwAssertionFailed)),
        ("tpm = 'required'", "tpm.required", Some(Reason::ProfileTpmMissing)),
        ("assertions.page_sizes = ['2M']", "hugepages.2M", None),
        ("assertions.page_sizes = ['1G']", "hugepages.1G", Some(Reason::HugepagesUnsupported)),
        ("hugepages.pools.1G.count = 1", "hugepages.1G", Some(Reason::HugepagesUnsupported)),
        ("assertions.watchdog = true", "watchdog", None),
        ("assertions.watchdog = false", "watchdog", Some(Reason::HwAssertionFailed)),
        ("watchdog.timeout_secs = 60", "watchdog", None),
        ("assertions.disks = { min_size = '32 GB' }", "disks", None),
        (
            "assertions.disks = { min = 2, min_size = '1 GB' }",
            "disks",
            Some(Reason::HwAssertionFailed),
        ),
        ("assertions.nics.outside = { count = 1 }", "nics.outside.count", None),
        (
            "assertions.nics.outside = { count = 2 }",
            "nics.outside.count",
            Some(Reason::HwAssertionFailed),
        ),
        ("assertions.nics.inside = { min = 1 }", "nics.inside.count", None),
        (
            "assertions.nics.storage = { min = 1 }",
            "nics.storage.count",
            Some(Reason::HwAssertionFailed),
        ),
        ("assertions.nics.outside = { driver = ['igc'] }", "nics.outside.driver", None),
        (
            "assertions.nics.outside = { driver = ['e1000e'] }",
            "nics.outside.driver",
            Some(Reason::HwAssertionFailed),
        ),
        (
            "assertions.nics.outside = { min_speed_mbps = 2500 }",
            "nics.outside.speed",
            Some(Reason::HwAssertionFailed),
        ),
        // A cable that is not plugged in says nothing about the port.
        ("assertions.nics.inside = { min_speed_mbps = 2500 }", "nics.inside.speed", None),
        ("", "nics.roles", None),
        (
            "nics.storage = [{ pci = '0000:01:00.0' }]",
            "nics.roles",
            Some(Reason::ProfileNicConflict),
        ),
    ] {
        let result = one(&format!("{ports}{text}"), &facts(), name);
        assert_eq!(result.reason, failure, "{text}: {result}");
        assert_eq!(result.holds, failure.is_none(), "{text}: {result}");
    }
}

#[test]
fn a_failure_says_what_was_wanted_and_what_is_there() {
    let result = one("assertions.memory = { min = '15.5 GiB' }", &facts(), "memory");
    assert_eq!(result.to_string(), "memory FAILS: want at least 15.5 GiB, have 8 GiB");
    let text = "nics.outside = [{}]\nassertions.nics.outside = { driver = ['igb', 'e1000e'] }";
    let result = one(text, &facts(), "nics.outside.driver");
    assert_eq!(
        (result.want.as_str(), result.have.as_str()),
        ("e1000e or igb", "eno1 on igc, eno2 on igc")
    );
}

#[test]
fn a_machine_that_says_nothing_fails_politely() {
    let catalogue = Catalogue::shipped();
    for profile in catalogue.iter() {
        for result in check(profile, &Facts::default()) {
            assert_eq!(result.holds, result.reason.is_none(), "{}: {result}", profile.name);
        }
    }
}

#[test]
fn a_kernel_without_numa_counts_as_one_node() {
    let flat = Facts { numa_nodes: vec![], ..facts() };
    assert!(one("assertions.numa_nodes = { min = 1, max = 1 }", &flat, "numa_nodes").holds);
    let [node] = &flat.memory_nodes()[..] else { panic!() };
    assert_eq!((node.id, node.memory_bytes, node.cpus.len()), (0, 8 << 30, 4));
    assert_eq!(Facts::default().memory_nodes(), []);
}
