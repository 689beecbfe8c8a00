//! Probing strange places.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use holdfast_api::Reason;
use hw_profiles::facts::{NicKind, TpmVersion};
use hw_profiles::{Catalogue, Facts, probe, select};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(content.as_ref()).unwrap();
}

#[test]
fn an_empty_root_gives_no_facts_and_says_why() {
    let root = tempfile::tempdir().unwrap();
    for sys in [false, true] {
        if sys {
            fs::create_dir_all(root.path().join("sys")).unwrap();
            fs::create_dir_all(root.path().join("proc")).unwrap();
        }
        let (facts, complaints) = probe(root.path());
        assert_eq!(facts, Facts::default());
        let mut reasons: Vec<Reason> =
            complaints.iter().map(|complaint| complaint.reason).collect();
        reasons.sort();
        reasons.dedup();
        assert_eq!(reasons, [Reason::HwNoDmi, Reason::HwFactsUnreadable]);
        assert!(complaints.iter().all(|complaint| complaint.path.starts_with(root.path())));

        let selection = select(&Catalogue::shipped(), &facts);
        assert_eq!(selection.profile.name, "generic");
        assert_eq!(selection.warning, Some(Reason::HwNoProfile));
    }
}

#[test]
fn a_root_that_is_a_file_or_is_not_there_is_an_empty_one() {
    let root = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(probe(root.path()).0, Facts::default());
    assert_eq!(probe(Path::new("/nonexistent/root")).0, Facts::default());
}

#[test]
fn the_class_directory_may_be_a_link_elsewhere() {
    let (root, real) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(
        real.path(),
        "devices/pci0000:00/0000:00:03.0/virtio0/net/eth0/address",
        "52:54:00:AA:00:01\n",
    );
    put(real.path(), "devices/pci0000:00/0000:00:03.0/virtio0/net/eth0/type", "1\n");
    let device = real.path().join("devices/pci0000:00/0000:00:03.0/virtio0");
    symlink("../../../virtio0", device.join("net/eth0/device")).unwrap();
    symlink("../../../../bus/virtio/drivers/virtio_net", device.join("driver")).unwrap();
    fs::create_dir_all(real.path().join("class/net")).unwrap();
    symlink(
        "../../devices/pci0000:00/0000:00:03.0/virtio0/net/eth0",
        real.path().join("class/net/eth0"),
    )
    .unwrap();
    fs::create_dir_all(root.path().join("sys/class")).unwrap();
    symlink(real.path().join("class/net"), root.path().join("sys/class/net")).unwrap();

    let (facts, _) = probe(root.path());
    let [nic] = &facts.nics[..] else { panic!("{:?}", facts.nics) };
    assert_eq!(nic.pci_address.as_deref(), Some("0000:00:03.0"));
    assert_eq!(nic.driver.as_deref(), Some("virtio_net"));
    assert_eq!(nic.mac.as_deref(), Some("52:54:00:aa:00:01"));
    assert_eq!(nic.kind, NicKind::Ethernet);
}

#[test]
fn a_root_whose_class_directory_is_the_running_machines_lists_its_ports() {
    let real = Path::new("/sys/class/net");
    if !real.join("lo").exists() {
        eprintln!("skipped: /sys is not mounted here");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("sys/class")).unwrap();
    symlink(real, root.path().join("sys/class/net")).unwrap();
    let (facts, _) = probe(root.path());
    assert!(
        facts.nics.iter().any(|nic| nic.name == "lo" && nic.kind == NicKind::Loopback),
        "{:?}",
        facts.nics
    );
}

#[test]
fn the_running_machine_can_be_probed() {
    if !Path::new("/proc/meminfo").exists() {
        eprintln!("skipped: /proc is not mounted here");
        return;
    }
    let (facts, _) = probe(Path::new("/"));
    assert!(facts.cpus.count > 0 && facts.cpus.sockets > 0 && facts.memory_bytes > 0, "{facts:?}");
}

#[test]
fn garbage_in_proc_and_sys_is_a_complaint_and_never_a_panic() {
    let huge = "18446744073709551615";
    for garbage in [
        "",
        "\n\n\n",
        "processor\nprocessor",
        "processor : 0\n\n\n\nmodel name",
        "é 1 kB\nMemTotal: 1 kB",
        "MemTotal:",
        &format!("MemTotal: {huge} kB\n"),
        &format!("MemTotal: 999999999999999999999999 kB\nx: {huge} MB"),
        "\0\0\0",
    ] {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "proc/cpuinfo",
            "proc/meminfo",
            "sys/devices/system/cpu/online",
            "sys/devices/system/node/node0/meminfo",
            "sys/devices/system/node/node0/cpulist",
            "sys/class/dmi/id/sys_vendor",
            "sys/class/net/eth0/type",
            "sys/class/net/eth0/speed",
            "sys/class/tpm/tpm0/tpm_version_major",
            "sys/block/sda/size",
            "sys/class/watchdog/watchdog0/timeout",
        ] {
            put(root.path(), path, garbage);
        }
        put(
            root.path(),
            "sys/kernel/mm/hugepages/hugepages-18446744073709551615kB/nr_hugepages",
            "0",
        );
        put(root.path(), "sys/class/net/bonding_masters", "");
        let (facts, complaints) = probe(root.path());
        assert_eq!(facts.memory_bytes, 0, "{garbage:?}");
        assert_eq!(facts.huge_page_sizes, [] as [u64; 0]);
        assert!(
            complaints.iter().any(|complaint| complaint.path.ends_with("meminfo")),
            "{garbage:?}"
        );
    }
}

#[test]
fn firmware_that_is_not_utf8_is_read_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "sys/class/dmi/id/sys_vendor", b"  ACME \xff Corp. \n");
    assert_eq!(probe(root.path()).0.dmi.sys_vendor, "ACME \u{fffd} Corp.");
}

#[test]
fn an_old_tpm_is_told_from_a_new_one() {
    for (file, content, want) in [
        ("tpm_version_major", "2\n", TpmVersion::V2_0),
        ("tpm_version_major", "1\n", TpmVersion::V1_2),
        ("caps", "Manufacturer: 0x49465800\nTCG version: 1.2\n", TpmVersion::V1_2),
        ("uevent", "", TpmVersion::V2_0),
    ] {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), &format!("sys/class/tpm/tpm0/{file}"), content);
        fs::create_dir_all(root.path().join("sys/class/tpm/tpmrm0")).unwrap();
        assert_eq!(probe(root.path()).0.tpm, Some(want), "{file}");
    }
}

#[test]
fn facts_survive_the_wire() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes/supermicro-e300-9d");
    let (facts, _) = probe(&root);
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&json).unwrap(), facts);
    // An old controller knows fewer fields and fewer words.
    let newer = r#"{"cpus":{"count":4,"dies":2},"virtualisation":"bhyve","quantum":true}"#;
    assert_eq!(serde_json::from_str::<Facts>(newer).unwrap().cpus.count, 4);
}
