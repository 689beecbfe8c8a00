//! Every tree in `tests/boxes/` is probed, gets its profile, its roles and its assertions checked,
//! and the whole is compared with the file `EXPECTED` beside it.
//!
//! `HOLDFAST_BLESS=1 cargo test -p hw-profiles --test boxes` writes those files; read the difference.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use hw_profiles::facts::Disk;
use hw_profiles::{Catalogue, Facts, check, probe, resolve_nics, select};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn boxes() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes");
    let mut boxes: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    boxes.sort();
    boxes
}

fn describe(root: &Path) -> String {
    let (facts, complaints) = probe(root);
    let selection = select(&Catalogue::shipped(), &facts);
    let profile = &selection.profile;
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "profile: {} (specificity {})", profile.name, selection.specificity).unwrap();
    writeln!(out, "bases: {}", profile.bases.join(", ")).unwrap();
    writeln!(out, "verdict: {}", selection.explanation.last().unwrap()).unwrap();
    writeln!(out, "warning: {}", selection.warning.map_or("none", |reason| reason.code())).unwrap();
    write_facts(out, &facts);
    for complaint in complaints {
        writeln!(out, "complaint: {} {}", complaint.reason, complaint.message).unwrap();
    }
    for (role, nics) in resolve_nics(profile, &facts).unwrap() {
        let names: Vec<String> = nics.iter().map(|nic| nic.name.clone()).collect();
        writeln!(out, "{role}: {}", names.join(" ")).unwrap();
    }
    for (size, pool) in &profile.hugepages.pools {
        for node in facts.memory_nodes() {
            let pages = pool.on(node.id).pages(*size, node.memory_bytes);
            writeln!(out, "pool: {pages} pages of {size} on node {}", node.id).unwrap();
        }
    }
    writeln!(out, "data plane: cores {:?}", profile.data_plane_cores(&facts)).unwrap();
    writeln!(out, "kernel arguments: {}", profile.kernel_arguments(&facts).join(" ")).unwrap();
    for result in check(profile, &facts) {
        writeln!(
            out,
            "{result}{}",
            result.reason.map_or(String::new(), |reason| format!(" [{reason}]"))
        )
        .unwrap();
    }
    text
}

fn write_facts(out: &mut String, facts: &Facts) {
    let cpus = &facts.cpus;
    writeln!(out, "cpus: {} on {} socket(s), {}", cpus.count, cpus.sockets, cpus.model).unwrap();
    writeln!(out, "memory: {} bytes, pages {:?}", facts.memory_bytes, facts.huge_page_sizes)
        .unwrap();
    for node in &facts.numa_nodes {
        writeln!(
            out,
            "node: {} has {} cpus and {} bytes",
            node.id,
            node.cpus.len(),
            node.memory_bytes
        )
        .unwrap();
    }
    for nic in &facts.nics {
        let pci = nic.pci_address.as_deref().unwrap_or("-");
        let driver = nic.driver.as_deref().unwrap_or("-");
        let mac = nic.mac.as_deref().unwrap_or("-");
        let speed = nic.speed_mbps.map_or("-".to_owned(), |speed| speed.to_string());
        writeln!(out, "nic: {} {:?} {pci} {driver} {speed} {mac}", nic.name, nic.kind).unwrap();
    }
    for disk in &facts.disks {
        let Disk { name, size_bytes, rotational, model } = disk;
        writeln!(out, "disk: {name} {size_bytes} bytes rotational={rotational} {model:?}").unwrap();
    }
    writeln!(out, "tpm: {}", facts.tpm.map_or("none", |version| version.as_str())).unwrap();
    let watchdog = facts.watchdog.as_ref().map(|dog| (&dog.identity, dog.timeout_secs));
    writeln!(out, "watchdog: {watchdog:?}").unwrap();
    writeln!(out, "virtualisation: {:?}, cloud: {:?}", facts.virtualisation, facts.cloud).unwrap();
}

#[test]
fn every_box_is_recognised_as_expected() {
    let bless = std::env::var_os("HOLDFAST_BLESS").is_some();
    let mut stale = Vec::new();
    for root in boxes() {
        let have = describe(&root);
        let path = root.join("EXPECTED");
        if bless {
            use std::io::Write as _;
            std::fs::File::create(&path)
                .and_then(|mut file| file.write_all(have.as_bytes()))
                .unwrap();
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        if have != want {
            stale.push(format!("{}\n--- expected\n{want}--- found\n{have}", root.display()));
        }
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

/// What must hold whatever the golden files say.
#[test]
fn each_box_gets_the_profile_it_was_made_for() {
    for (name, want) in [
        ("advantech-uno-127", "advantech-uno"),
        ("asus-nuc13anh", "intel-nuc-13"),
        ("aws-t3", "aws"),
        ("azure-d2s", "azure"),
        ("dell-edge-gateway-3001", "dell-edge-gateway-3000"),
        ("dell-edge-gateway-5000", "dell-edge-gateway"),
        ("gcp-e2", "gcp"),
        ("intel-nuc10i7fnh", "intel-nuc-10"),
        ("intel-nuc11tnhi5", "intel-nuc-11"),
        ("intel-nuc7i5bnh", "intel-nuc-7"),
        ("kvm-q35", "kvm"),
        ("onlogic-helix-310", "onlogic-helix-300"),
        ("stranger", "generic"),
        ("supermicro-e300-9d", "supermicro-e300-9d"),
        ("vmware-esxi", "vmware"),
    ] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes").join(name);
        let (facts, complaints) = probe(&root);
        assert_eq!(complaints, [], "{name}");
        let selection = select(&Catalogue::shipped(), &facts);
        assert_eq!(selection.profile.name, want, "{name}: {:#?}", selection.explanation);
        assert_eq!(selection.warning.is_some(), want == "generic", "{name}");
    }
}

#[test]
fn every_box_tells_where_it_comes_from() {
    assert!(boxes().len() >= 8);
    for root in boxes() {
        let origin = std::fs::read_to_string(root.join("ORIGIN")).unwrap_or_default();
        assert!(
            origin.starts_with("Constructed, not captured") || origin.starts_with("Captured"),
            "{root:?}"
        );
    }
}
