use super::*;
use crate::drive::{Clock, drive};
use crate::fake::{Machine, Watch};
use crate::model::{Bytes, PageSize, Pool};
use crate::plan::plan;
use crate::{Finding, Kernel, KernelArguments, apply, verify};
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

const M2: PageSize = PageSize::M2;
const G1: PageSize = PageSize::G1;

fn want(pools: &[(u32, PageSize, u64)]) -> Want {
    let mut want = Want { floor: Bytes::gib(1), ..Want::default() };
    for (node, size, pages) in pools {
        want.pools.entry(NodeId(*node)).or_default().insert(*size, *pages);
    }
    want
}

struct Run {
    dir: tempfile::TempDir,
    watch: Watch,
}

impl Run {
    fn new() -> Self {
        // In memory where possible: thousands of records are synced to it.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Run { dir, watch: Watch::new() }
    }

    fn of(&mut self, machine: &mut Machine, want: &Want) -> Report {
        drive(machine, want, Patience::default(), &Root::new(self.dir.path()), &mut self.watch)
            .unwrap()
    }
}

fn run(machine: &mut Machine, want: &Want) -> Report {
    Run::new().of(machine, want)
}

fn codes(findings: &[Finding]) -> Vec<Reason> {
    findings.iter().map(|finding| finding.reason).collect()
}

// --- laws ---

/// A machine in some state, and some wish for it.
fn cases() -> impl Strategy<Value = (Machine, Want)> {
    let mib = |most: u64| (0..=most).prop_map(Bytes::mib);
    let node =
        (0..3000u64, 0..5u64, 0..300u64, 0..2u64, mib(3000), mib(2000), mib(2000), mib(2000));
    let wish =
        proptest::option::of((proptest::option::of(0..3500u64), proptest::option::of(0..6u64)));
    let nodes = proptest::collection::vec((node, wish), 1..3);
    let flags = (any::<bool>(), proptest::bool::weighted(0.1));
    (nodes, flags, 0..8u64).prop_map(|(nodes, (boot_only, stubborn), floor)| {
        let mut machine = Machine::nodes(u32::try_from(nodes.len()).unwrap());
        let mut want = Want { floor: Bytes::gib(floor), ..Want::default() };
        for (
            at,
            ((small, large, small_used, large_used, others, caches, scattered, pinned), wish),
        ) in nodes.into_iter().enumerate()
        {
            let node = u32::try_from(at).unwrap();
            machine = machine.pool(node, M2, small).in_use(node, M2, small_used.min(small));
            let room = 7u64.saturating_sub(small / 512 + 1);
            let large = large.min(room);
            machine = machine.pool(node, G1, large).in_use(node, G1, large_used.min(large));
            // What is there fits into the machine.
            let mut left = Bytes::gib(8).less(machine.have.nodes[&NodeId(node)].huge());
            let mut part = |asked: Bytes| {
                let part = asked.min(left);
                left = left.less(part);
                part
            };
            (machine.others[at], machine.caches[at]) = (part(others), part(caches));
            (machine.scattered[at], machine.pinned[at]) = (part(scattered), part(pinned));
            if let Some((small, large)) = wish {
                let pools = [(M2, small), (G1, large)];
                let pools = pools.into_iter().filter_map(|(size, pages)| Some((size, pages?)));
                want.pools.insert(NodeId(node), pools.collect());
            }
        }
        (machine.gigantic_at_boot_only, machine.stubborn) = (boot_only, stubborn);
        machine.floor = want.floor;
        (machine, want)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Each node has all that is wanted of it, or what it had; a machine that has all needs
    /// nothing more; and the floor is never broken on the way.
    #[test]
    fn all_or_nothing_per_node((machine, want) in cases()) {
        let before = machine.have();
        let mut machine = machine;
        let report = run(&mut machine, &want);
        prop_assert!(!machine.floor_broken, "{:?}", machine.log);
        for (node, outcome) in &report.nodes {
            let now = |size: &PageSize| machine.have.pool(*node, *size).map_or(0, Pool::persistent);
            let then = |size: &PageSize| before.pool(*node, *size).map_or(0, Pool::persistent);
            let pools = &want.pools[node];
            match outcome {
                NodeOutcome::Unchanged | NodeOutcome::Changed => {
                    prop_assert!(pools.iter().all(|(size, pages)| now(size) == *pages));
                }
                NodeOutcome::Refused(_) | NodeOutcome::Failed { restored: true, .. } => {
                    prop_assert!(pools.keys().all(|size| now(size) == then(size)), "{report:?} {:?}", machine.log);
                }
                // Only where putting back is impossible: a kernel that makes no gigantic pages or
                // gives none back,
                // or earlier pools that broke the floor themselves.
                NodeOutcome::Failed { restored: false, .. } => prop_assert!(
                    machine.gigantic_at_boot_only || machine.stubborn || before.huge().plus(want.floor) > before.memory.total,
                    "{report:?} {:?}",
                    machine.log
                ),
            }
        }
        prop_assert_eq!(report.nodes.len(), want.pools.len());
        if report.findings().is_empty() {
            prop_assert_eq!(plan(&want, &machine.have()), Default::default());
            let again = run(&mut machine, &want);
            prop_assert!(!again.changed());
        }
    }

    /// A failed node is restored when nobody else takes memory meanwhile and nothing is gigantic.
    #[test]
    fn a_failed_node_gets_its_small_pages_back((machine, want) in cases()) {
        let mut machine = machine;
        machine.stubborn = false;
        let mut want = want;
        want.pools.values_mut().for_each(|pools| pools.retain(|size, _| *size != G1));
        let report = run(&mut machine, &want);
        let lost = |outcome: &NodeOutcome| matches!(outcome, NodeOutcome::Failed { restored: false, .. });
        prop_assert!(!report.nodes.values().any(lost), "{report:?}");
    }

    /// No page that is in use or reserved is ever taken away, and sizes that nobody named stay.
    #[test]
    fn what_is_in_use_stays((machine, want) in cases()) {
        let before = machine.have();
        let mut machine = machine;
        run(&mut machine, &want);
        for (node, found) in &before.nodes {
            for (size, pool) in &found.pools {
                let now = machine.have.nodes[node].pools[size];
                prop_assert_eq!(now.used(), pool.used());
                prop_assert_eq!(now.surplus, 0);
                if !want.pools.get(node).is_some_and(|pools| pools.contains_key(size)) {
                    // Splitting what nobody named would take it away as well.
                    prop_assert_eq!(now, *pool);
                }
            }
        }
    }

    /// Killed after any step and started again, it ends at least as well as without the kill, and
    /// a node that fails then goes back to what it had before the first start.
    #[test]
    fn a_killed_run_carries_on((machine, want) in cases(), fuse in 0..12u32) {
        let mut calm = machine.clone();
        let expected = run(&mut calm, &want);
        let before = machine.have();
        let mut machine = machine;
        let mut life = Run::new();
        machine.fuse = Some(fuse);
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let killed = catch_unwind(AssertUnwindSafe(|| life.of(&mut machine, &want))).is_err();
        std::panic::set_hook(quiet);
        machine.fuse = None;
        let report = life.of(&mut machine, &want);
        prop_assert!(!machine.floor_broken);
        if expected.findings().is_empty() {
            prop_assert_eq!(report.findings(), vec![], "killed: {}, {:?}", killed, machine.log);
            prop_assert_eq!(machine.have(), calm.have());
        }
        // A run that ended has left its own state as the earlier one.
        for (node, outcome) in report.nodes.iter().filter(|_| killed) {
            if let NodeOutcome::Refused(_) | NodeOutcome::Failed { restored: true, .. } = outcome {
                let pages = |have: &Have, size: &PageSize| have.pool(*node, *size).map_or(0, Pool::persistent);
                prop_assert!(
                    want.pools[node].keys().all(|size| pages(&machine.have, size) == pages(&before, size)),
                    "{report:?} {:?}",
                    machine.log
                );
            }
        }
    }

    /// The plan tells what an obliging kernel will do: applying it leaves nothing to do.
    #[test]
    fn planning_again_after_applying_yields_nothing((machine, want) in cases()) {
        let mut machine = machine;
        let none = Bytes(0);
        for memory in [&mut machine.others, &mut machine.caches, &mut machine.scattered, &mut machine.pinned] {
            memory.fill(none);
        }
        (machine.gigantic_at_boot_only, machine.stubborn) = (false, false);
        let first = plan(&want, &machine.have());
        for step in &first.steps {
            apply(&mut machine, step).unwrap();
        }
        prop_assert!(!machine.floor_broken);
        let second = plan(&want, &machine.have());
        if first.refused.is_empty() {
            prop_assert_eq!(second.steps, vec![]);
            prop_assert_eq!(verify(&want, &machine.have()).iter().filter(|f| f.reason != Reason::HugepagesFloor).count(), 0);
        }
    }
}

// --- cases ---

#[test]
fn what_is_there_is_left_alone() {
    let mut machine = Machine::nodes(1).pool(0, M2, 64);
    let report = run(&mut machine, &want(&[(0, M2, 64)]));
    assert_eq!(report.nodes[&NodeId(0)], NodeOutcome::Unchanged);
    assert_eq!(machine.log, Vec::<String>::new());
}

#[test]
fn caches_and_fragments_are_cleared_when_the_kernel_is_short() {
    let mut machine = Machine::nodes(1);
    (machine.caches[0], machine.scattered[0]) = (Bytes::gib(3), Bytes::gib(3));
    let mut life = Run::new();
    let report = life.of(&mut machine, &want(&[(0, M2, 2048)]));
    assert_eq!(report.findings(), []);
    assert_eq!(machine.pages(0, M2), 2048);
    assert_eq!(
        machine.log,
        ["node 0 2 MiB 2048", "drop caches", "compact node 0", "node 0 2 MiB 2048"]
    );
    assert_eq!(life.watch.waited.as_millis(), 200);
}

#[test]
fn a_short_node_is_restored_and_the_other_one_keeps_what_it_got() {
    let mut machine = Machine::nodes(2).pool(1, M2, 5);
    machine.pinned[1] = Bytes::gib(7);
    let mut life = Run::new();
    let report = life.of(&mut machine, &want(&[(0, M2, 100), (1, M2, 1000)]));
    assert_eq!((machine.pages(0, M2), machine.pages(1, M2)), (100, 5));
    let cause = Cause::Short { size: M2, want: 1000, got: 512 };
    assert_eq!(report.nodes[&NodeId(1)], NodeOutcome::Failed { cause, restored: true });
    assert_eq!(codes(&report.findings()), [Reason::HugepagesShort]);
    assert!(report.findings()[0].message.contains("hugepagesz=2M hugepages=0:100,1:1000"));
    assert!(report.retryable() && !report.needs_reboot());
    assert_eq!(life.watch.waited.as_millis(), 200 + 400 + 800, "waiting is bounded");
}

#[test]
fn gigantic_pages_that_cannot_be_had_need_a_reboot_with_the_argument() {
    for at_boot_only in [true, false] {
        let mut machine = Machine::nodes(1);
        machine.gigantic_at_boot_only = at_boot_only;
        machine.pinned[0] = Bytes::mib(7 << 10 | 1);
        let report = run(&mut machine, &want(&[(0, M2, 8), (0, G1, 4)]));
        assert_eq!((machine.pages(0, M2), machine.pages(0, G1)), (0, 0));
        assert!(report.needs_reboot());
        assert_eq!(report.arguments.to_string(), "hugepagesz=1G hugepages=4");
        assert!(
            report.findings()[0].message.contains("hugepagesz=1G hugepages=4"),
            "{:?}",
            report.findings()
        );
    }
}

#[test]
fn a_reboot_that_was_made_in_vain_is_not_asked_for_again() {
    let mut machine = Machine::nodes(1);
    machine.pinned[0] = Bytes::mib(7 << 10 | 1);
    machine.have.arguments = KernelArguments::parse("hugepagesz=1G hugepages=4");
    let report = run(&mut machine, &want(&[(0, G1, 4)]));
    assert_eq!(codes(&report.findings()), [Reason::HugepagesShort]);
    assert!(!report.needs_reboot() && report.arguments.is_empty());
    machine.gigantic_at_boot_only = true;
    let report = run(&mut machine, &want(&[(0, G1, 4)]));
    assert_eq!(codes(&report.findings()), [Reason::HugepagesUnsupported]);
}

#[test]
fn a_size_that_the_processor_has_and_the_kernel_not_needs_a_reboot() {
    let mut machine = Machine::nodes(2);
    machine.have.boot_only = vec![G1];
    machine.have.nodes.values_mut().for_each(|node| node.pools.retain(|size, _| *size != G1));
    let want = want(&[(0, G1, 2), (1, G1, 2)]);
    let planned = plan(&want, &machine.have());
    let arguments = KernelArguments::parse("hugepagesz=1G hugepages=0:2,1:2");
    assert_eq!(planned.reboot, crate::plan::Reboot::Needed(arguments));
    let report = run(&mut machine, &want);
    assert!(report.needs_reboot() && machine.log.is_empty());
    assert_eq!(report.arguments.to_string(), "hugepagesz=1G hugepages=0:2,1:2");
    assert_eq!(codes(&verify(&want, &machine.have())), [Reason::HugepagesNeedReboot; 2]);
}

#[test]
fn large_pages_too_many_are_split_into_small_ones_that_are_missing() {
    let mut machine = Machine::nodes(1).pool(0, G1, 4);
    machine.pinned[0] = Bytes::gib(8);
    let report = run(&mut machine, &want(&[(0, M2, 600), (0, G1, 1)]));
    assert_eq!(report.findings(), []);
    assert_eq!((machine.pages(0, M2), machine.pages(0, G1)), (600, 1));
    assert_eq!(machine.log, ["node 0 demote 2", "node 0 1 GiB 1", "node 0 2 MiB 600"]);
}

#[test]
fn pages_in_use_stop_the_node_before_anything_is_touched() {
    let mut machine = Machine::nodes(1).pool(0, M2, 10).in_use(0, M2, 6);
    let report = run(&mut machine, &want(&[(0, M2, 5), (0, G1, 1)]));
    assert_eq!(machine.log, Vec::<String>::new());
    assert_eq!(codes(&report.findings()), [Reason::HugepagesInUse]);
    assert!(report.retryable());
    assert_eq!(codes(&verify(&want(&[(0, M2, 5)]), &machine.have())), [Reason::HugepagesInUse]);
    let report = run(&mut machine, &want(&[(0, M2, 6)]));
    assert_eq!((report.findings(), machine.pages(0, M2)), (vec![], 6));
}

#[test]
fn a_floor_that_would_be_broken_stops_the_node() {
    let mut machine = Machine::nodes(1);
    let report = run(&mut machine, &want(&[(0, M2, 3585)]));
    assert_eq!(codes(&report.findings()), [Reason::HugepagesFloor]);
    assert_eq!(machine.log, Vec::<String>::new());
    assert_eq!(run(&mut machine, &want(&[(0, M2, 3584)])).findings(), []);
}

#[test]
fn one_node_gives_before_the_other_takes() {
    let mut machine = Machine::nodes(2).pool(1, M2, 3584).pool(0, M2, 3000);
    machine.floor = Bytes::gib(1);
    let report = run(&mut machine, &want(&[(0, M2, 3584), (1, M2, 3000)]));
    assert_eq!(report.findings(), []);
    assert!(!machine.floor_broken);
    assert_eq!(machine.log, ["node 1 2 MiB 3000", "node 0 2 MiB 3584"]);
}

#[test]
fn nothing_is_taken_on_the_strength_of_pages_that_did_not_come_back() {
    let mut machine = Machine::nodes(1).pool(0, G1, 7);
    (machine.stubborn, machine.floor) = (true, Bytes::gib(1));
    // Not by splitting, which needs no memory.
    machine
        .have
        .nodes
        .values_mut()
        .flat_map(|n| n.pools.values_mut())
        .for_each(|p| p.demote_to = None);
    let report = run(&mut machine, &want(&[(0, M2, 512), (0, G1, 6)]));
    assert!(!machine.floor_broken, "{:?}", machine.log);
    assert_eq!(codes(&report.findings()), [Reason::HugepagesShort]);
    assert_eq!((machine.pages(0, M2), machine.pages(0, G1)), (0, 7));
}

#[test]
fn a_refused_write_is_reported_with_the_kernels_answer() {
    let mut machine = Machine::nodes(1);
    machine.forbidden = true;
    let report = run(&mut machine, &want(&[(0, M2, 8)]));
    assert_eq!(codes(&report.findings()), [Reason::HugepagesFailed]);
    let message = &report.findings()[0].message;
    assert!(
        message.contains("hugepages-2048kB/nr_hugepages") && message.contains("permission denied"),
        "{message}"
    );
}

#[test]
fn a_kernel_without_compaction_is_no_failure() {
    let machine = Machine::nodes(1);
    let have = machine.have();
    let mut converge =
        Converge::new(want(&[(0, M2, 8)]), &have, Baseline::of(&have), Patience::default());
    let clock = Watch::new();
    let (mut steps, now) = (vec![], clock.now());
    loop {
        // The kernel never moves and knows neither relief.
        match converge.next(
            &machine.observe().unwrap(),
            now + std::time::Duration::from_secs(steps.len() as u64),
        ) {
            Action::Do(step) => {
                let source = std::io::ErrorKind::NotFound.into();
                let error = ApplyError::Write { path: "x".into(), value: "1".into(), source };
                if matches!(step, Step::DropCaches | Step::Compact { .. }) {
                    converge.failed(&step, &error);
                }
                steps.push(step);
            }
            Action::WaitUntil(_) => steps.push(Step::DropCaches),
            Action::Done(report) => {
                assert_eq!(codes(&report.findings()), [Reason::HugepagesShort]);
                break;
            }
        }
    }
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::SetPool { .. })).count(), 4);
}

#[test]
fn mounts_are_made_and_their_failures_told() {
    let mount = |path: &str| Mount {
        path: path.into(),
        size: M2,
        limit: None,
        mode: 0o770,
        uid: 0,
        gid: 0,
    };
    let mut machine = Machine::nodes(1);
    let taken = crate::model::MountHave { path: "/taken".into(), hugetlb: None };
    machine.have.mounts.push(taken);
    let want = Want { mounts: vec![mount("/dev/a"), mount("/taken")], ..want(&[(0, M2, 1)]) };
    let report = run(&mut machine, &want);
    assert_eq!(report.mounts[&mount("/dev/a")], MountOutcome::Mounted);
    assert_eq!(codes(&report.findings()), [Reason::HugepagesMount]);
    assert!(report.changed() && !report.needs_reboot());
    let report = run(&mut machine, &want);
    assert_eq!(report.mounts[&mount("/dev/a")], MountOutcome::Unchanged);
}
