//! Full and read-only disks, and the kernel's own settings: each test runs itself again in
//! namespaces of its own (unshare(1)), which vanish with it. Needs root, and says so without.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use holdfast_api::Reason;
use holdfast_api::chain;
use holdfast_api::paths::Root;
use holdfast_host::Outcome;
use holdfast_host::etc_hosts::{self, Entry, HostName};
use holdfast_host::ssh_ca::{self, DaemonError, Places, Sshd};
use holdfast_host::sysctl::{self, Name, SysctlError};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Runs the test `name` again in new namespaces. True in that second run.
fn alone(name: &str) -> bool {
    const INSIDE: &str = "HOLDFAST_TEST_INSIDE_NAMESPACES";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: namespaces and mounts need root");
        return false;
    }
    let itself = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--propagation", "private"]).arg(itself).args([
        "--exact",
        name,
        "--nocapture",
    ]);
    match command.env(INSIDE, "1").status() {
        Ok(status) => assert!(status.success(), "{name} failed in its namespaces"),
        Err(error) => eprintln!("skipped: unshare(1) cannot be run: {error}"),
    }
    false
}

/// A root on a disk of 128 KiB.
fn small_disk() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=128k")).unwrap();
    let root = Root::new(dir.path());
    (dir, root)
}

/// Takes all room that is left.
fn fill(root: &Root) {
    let mut file = File::create(root.join("ballast")).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

fn hosts(name: &str) -> etc_hosts::Want {
    let entry = |number: u8| Entry {
        address: [10, 7, 0, number].into(),
        name: HostName::try_from(format!("{name}-{number}").as_str()).unwrap(),
        aliases: vec![],
    };
    etc_hosts::Want { entries: (0..=255).map(entry).collect() }
}

fn apply_hosts(root: &Root, want: &etc_hosts::Want) -> Result<Outcome, etc_hosts::HostsError> {
    let step = etc_hosts::plan(want, &etc_hosts::observe(root).unwrap()).remove(0);
    etc_hosts::apply(root, &step)
}

#[test]
fn a_full_or_read_only_disk_leaves_the_hosts_file_whole() {
    if !alone("a_full_or_read_only_disk_leaves_the_hosts_file_whole") {
        return;
    }
    let (_dir, root) = small_disk();
    assert_eq!(apply_hosts(&root, &hosts("one")).unwrap(), Outcome::Created);
    let before = std::fs::read(etc_hosts::path(&root)).unwrap();
    fill(&root);
    let error = apply_hosts(&root, &hosts("another")).unwrap_err();
    assert_eq!(error.reason(), Reason::HostsUnwritable);
    assert!(error.retryable() && error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(std::fs::read(etc_hosts::path(&root)).unwrap(), before);
    assert_eq!(
        std::fs::read_dir(root.join("etc")).unwrap().count(),
        1,
        "no temporary file is left"
    );

    std::fs::remove_file(root.join("ballast")).unwrap();
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, root.dir(), None::<&str>, read_only, None::<&str>).unwrap();
    let error = apply_hosts(&root, &hosts("another")).unwrap_err();
    assert_eq!(error.reason(), Reason::HostsUnwritable);
    assert!(chain(&error).contains("Read-only file system"), "{}", chain(&error));

    mount(None::<&str>, root.dir(), None::<&str>, MsFlags::MS_REMOUNT, None::<&str>).unwrap();
    assert_eq!(apply_hosts(&root, &hosts("another")).unwrap(), Outcome::Changed);
}

/// An sshd that accepts everything, since here the disk is what fails.
struct Agreeable;

impl Sshd for Agreeable {
    fn installed(&self) -> bool {
        true
    }
    fn check(&self, _: &Path) -> Result<BTreeMap<String, String>, DaemonError> {
        Ok(BTreeMap::new())
    }
    fn check_krl(&self, _: &Path, _: &Path) -> Result<(), DaemonError> {
        Ok(())
    }
    fn reload(&mut self) -> Result<Outcome, DaemonError> {
        Ok(Outcome::Unchanged)
    }
}

#[test]
fn a_full_disk_leaves_the_ssh_authorities_as_they_are() {
    if !alone("a_full_disk_leaves_the_ssh_authorities_as_they_are") {
        return;
    }
    let (_dir, root) = small_disk();
    let drop_in = Places::new(&root).drop_in;
    holdfast_durable::write(&drop_in, b"# the one in force\n", 0o644).unwrap();
    fill(&root);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0FtVp0cMpPjkl0ABfdSRr4IS3ru4dKg3bxsx+Ez8Xx";
    let want = ssh_ca::Want::parse([key], [("root", vec!["operators"])], None).unwrap();
    let steps = ssh_ca::plan(&want, &ssh_ca::observe(&root, &Agreeable).unwrap());
    let failed =
        steps.iter().find_map(|step| ssh_ca::apply(&root, step, &mut Agreeable).err()).unwrap();
    assert_eq!(failed.reason(), Reason::StateDiskFull, "{}", chain(&failed));
    assert_eq!(std::fs::read(&drop_in).unwrap(), b"# the one in force\n");
}

#[test]
fn settings_are_set_in_the_kernel_and_read_back() {
    if !alone("settings_are_set_in_the_kernel_and_read_back") {
        return;
    }
    let root = Root::default();
    let want = |pairs: &[(&str, &str)]| -> sysctl::Want {
        pairs
            .iter()
            .map(|(name, value)| (Name::try_from(*name).unwrap(), value.to_string()))
            .collect()
    };
    let good =
        want(&[("net.ipv4.ip_forward", "1"), ("net.ipv4.ip_local_port_range", "20000 30001")]);
    let steps = sysctl::plan(&good, &sysctl::observe(&root, &good));
    assert_eq!(steps.len(), 2);
    for step in &steps {
        assert_eq!(sysctl::apply(&root, step).unwrap(), Outcome::Changed);
        assert_eq!(sysctl::apply(&root, step).unwrap(), Outcome::Unchanged);
    }
    assert_eq!(sysctl::plan(&good, &sysctl::observe(&root, &good)), []);

    let fail = |pairs| {
        let want = want(pairs);
        let step = sysctl::plan(&want, &sysctl::observe(&root, &want)).remove(0);
        sysctl::apply(&root, &step).unwrap_err()
    };
    let error = fail(&[("net.ipv4.ip_forward", "yes")]);
    assert!(matches!(error, SysctlError::Write { .. }), "{error}");
    assert_eq!((error.reason(), error.retryable()), (Reason::SysctlFailed, false));
    let error = fail(&[("net.ipv4.conf.all.forwarding", "0x0")]);
    assert!(matches!(&error, SysctlError::NotKept { got, .. } if got == "0"), "{error}");
}
