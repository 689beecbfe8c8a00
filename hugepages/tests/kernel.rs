//! Against the running kernel: needs root and huge pages of 2 MiB, and says so when it lacks them.
//!
//! The pools are the machine's own, so every test holds a lock among processes and puts back what
//! it found, also when it fails.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use holdfast_api::Reason;
use holdfast_api::paths::Root;
use hugepages::drive::SystemClock;
use hugepages::{
    Bytes, Have, Kernel, Mount, NodeId, NodeOutcome, PageSize, Patience, Pool, Report, Step, Sysfs,
    Want, drive, plan, verify,
};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;

const M2: PageSize = PageSize::M2;
const G1: PageSize = PageSize::G1;

/// The machine's pools, ours until dropped.
struct Machine {
    kernel: Sysfs,
    node: NodeId,
    before: Have,
    state: tempfile::TempDir,
    _lock: Flock<File>,
}

impl Machine {
    fn take() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: changing page pools needs root");
            return None;
        }
        let lock = std::env::temp_dir().join("holdfast-hugepages.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(lock).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
        let kernel = Sysfs::new(Root::default());
        let before = kernel.observe().unwrap();
        let Some(node) =
            before.nodes.iter().find(|(_, n)| n.pools.contains_key(&M2)).map(|(id, _)| *id)
        else {
            eprintln!("skipped: the kernel has no huge pages of 2 MiB");
            return None;
        };
        Some(Machine { kernel, node, before, state: tempfile::tempdir().unwrap(), _lock: lock })
    }

    fn pages(&self, size: PageSize) -> u64 {
        self.kernel.observe().unwrap().pool(self.node, size).map_or(0, Pool::persistent)
    }

    fn want(&self, pools: &[(PageSize, u64)]) -> Want {
        let pools: BTreeMap<PageSize, u64> = pools.iter().copied().collect();
        Want { pools: [(self.node, pools)].into(), floor: Bytes::mib(512), mounts: vec![] }
    }

    fn drive(&mut self, want: &Want) -> Report {
        let patience = Patience { rounds: 2, ..Patience::default() };
        drive(&mut self.kernel, want, patience, &Root::new(self.state.path()), &mut SystemClock)
            .unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for size in [G1, M2] {
            if let Some(pool) = self.before.pool(self.node, size) {
                let put_back = self.kernel.set_pool(self.node, size, pool.persistent());
                put_back
                    .map(drop)
                    .unwrap_or_else(|error| eprintln!("{}", holdfast_api::chain(&error)));
            }
        }
    }
}

#[test]
fn small_pages_come_and_go_and_doing_it_twice_changes_nothing() {
    let Some(mut machine) = Machine::take() else { return };
    let start = machine.pages(M2);
    let want = machine.want(&[(M2, start + 8)]);
    assert_eq!(verify(&want, &machine.before)[0].reason, Reason::HugepagesShort);

    let report = machine.drive(&want);
    assert_eq!(report.findings(), []);
    assert_eq!(report.nodes[&machine.node], NodeOutcome::Changed);
    let have = machine.kernel.observe().unwrap();
    assert!(plan(&want, &have).is_nothing());
    assert_eq!(verify(&want, &have), []);
    // Checked with the kernel's own summary, which is another file.
    let total = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
    assert!(total.trim().parse::<u64>().unwrap() >= start + 8);

    assert!(!machine.drive(&want).changed());
    let back = machine.want(&[(M2, start)]);
    assert_eq!(machine.drive(&back).findings(), []);
    assert_eq!(machine.pages(M2), start);
}

#[test]
fn more_than_there_can_be_is_refused_or_given_back() {
    let Some(mut machine) = Machine::take() else { return };
    let start = machine.pages(M2);
    // All memory but the floor: the kernel and we hold some of it, so it cannot be had.
    let all = M2.fitting(machine.before.headroom(machine.node, Bytes(0)).less(Bytes::mib(512)));
    let too_much = machine.want(&[(M2, start + all + 1024)]);
    let report = machine.drive(&too_much);
    assert_eq!(report.findings()[0].reason, Reason::HugepagesFloor);
    assert_eq!(machine.pages(M2), start);
}

#[test]
fn gigantic_pages_are_had_or_named_for_the_next_boot() {
    let Some(mut machine) = Machine::take() else { return };
    if machine.before.pool(machine.node, G1).is_none() {
        eprintln!("skipped: the kernel has no huge pages of 1 GiB");
        return;
    }
    let start = (machine.pages(G1), machine.pages(M2));
    let report = machine.drive(&machine.want(&[(G1, start.0 + 1)]));
    if !report.findings().is_empty() {
        assert_eq!(report.findings()[0].reason, Reason::HugepagesNeedReboot);
        assert_eq!(
            report.arguments.to_string(),
            format!("hugepagesz=1G hugepages={}", start.0 + 1)
        );
        assert_eq!(machine.pages(G1), start.0);
        eprintln!("skipped: splitting, as the kernel found no free 1 GiB in one piece");
        return;
    }
    let split = machine.want(&[(G1, start.0), (M2, start.1 + 512)]);
    let steps = plan(&split, &machine.kernel.observe().unwrap()).steps;
    assert_eq!(steps, [Step::Demote { node: machine.node, from: G1, into: M2, pages: 1 }]);
    assert_eq!(machine.drive(&split).findings(), []);
    assert_eq!((machine.pages(G1), machine.pages(M2)), (start.0, start.1 + 512));
}

/// Runs the test `name` again in a mount namespace of its own, where mounts vanish with it.
/// True in that second run.
fn alone(name: &str) -> bool {
    const INSIDE: &str = "HOLDFAST_TEST_INSIDE_MOUNT_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return false;
    }
    let itself = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(itself).args([
        "--exact",
        name,
        "--nocapture",
    ]);
    match command.env(INSIDE, "1").status() {
        Ok(status) => assert!(status.success(), "{name} failed in its mount namespace"),
        Err(error) => eprintln!("skipped: unshare(1) cannot be run: {error}"),
    }
    false
}

#[test]
fn a_hugetlbfs_is_mounted_replaced_and_its_pages_in_use_are_safe() {
    if !alone("a_hugetlbfs_is_mounted_replaced_and_its_pages_in_use_are_safe") {
        return;
    }
    let Some(mut machine) = Machine::take() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge pages");
    let mount = |limit| Mount { path: path.clone(), size: M2, limit, mode: 0o750, uid: 0, gid: 0 };
    let start = machine.pages(M2);
    let mut want = machine.want(&[(M2, start + 4)]);
    want.mounts = vec![mount(None)];
    assert_eq!(machine.drive(&want).findings(), []);
    assert_eq!(verify(&want, &machine.kernel.observe().unwrap()), []);
    assert!(!machine.drive(&want).changed());

    in_use(&mut machine, &path, start);

    want.mounts = vec![mount(Some(Bytes::mib(9)))];
    assert_eq!(verify(&want, &machine.kernel.observe().unwrap())[0].reason, Reason::HugepagesMount);
    assert_eq!(machine.drive(&want).findings(), []);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().rfind(|line| line.contains("huge\\040pages")).unwrap();
    assert!(line.contains("hugetlbfs") && line.contains("size=8388608"), "{line}");

    // While somebody works in it, a mount is not replaced.
    let file = File::create(path.join("busy")).unwrap();
    want.mounts = vec![mount(None)];
    let report = machine.drive(&want);
    assert_eq!(report.findings()[0].reason, Reason::HugepagesMount);
    assert!(report.findings()[0].message.contains("busy"), "{:?}", report.findings());
    drop(file);
    std::fs::remove_file(path.join("busy")).unwrap();
    assert_eq!(machine.drive(&want).findings(), []);
}

/// A file on the mount takes two pages; the pool cannot shrink below them.
fn in_use(machine: &mut Machine, mount: &Path, start: u64) {
    let file = File::create(mount.join("held")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 4 << 20).unwrap();
    let used = machine.kernel.observe().unwrap().pool(machine.node, M2).unwrap().used();
    assert!(used >= 2);
    let report = machine.drive(&machine.want(&[(M2, used - 1)]));
    assert_eq!(report.findings()[0].reason, Reason::HugepagesInUse);
    assert_eq!(machine.pages(M2), start + 4);
    drop(file);
    std::fs::remove_file(mount.join("held")).unwrap();
}
