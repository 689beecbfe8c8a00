//! One release through everything that it may wait for: disks that are full, a registry that dies
//! in the middle of a layer. It is refused by none of them, and the last good one stays.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod faults_lab;
mod images_lab;

use faults_lab::disk::{NodeDisk, StateDisk};
use faults_lab::manager::{Manager, Surroundings, is_decided};
use faults_lab::releases::Shop;
use faults_lab::{Lab, process_of};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseState};
use holdfast_cluster::release::journal::Kept;
use holdfast_lab_kubernetes::asked::kubernetes;
use images_lab::{WAY, Way};

const DATA: &str = "/var/lib/rancher/k3s";
const MIB: u64 = 1 << 20;

/// It waits where it should, for a reason that says why, and what was good is in force.
fn waits(
    lab: &Lab,
    manager: &mut Manager,
    one: &Kept,
    two: &Kept,
    phase: ReleasePhase,
    why: Reason,
) {
    let is_it = |state: &ReleaseState| {
        state.wanted == two.release && state.phase == phase && state.reason == Some(why)
    };
    let state = manager.reach(&format!("{phase:?} waits: {why}"), is_it);
    assert_eq!(state.good.as_ref(), Some(&one.release), "{state:#?}");
    assert_eq!(state.failed, [], "{state:#?}");
    assert_eq!(
        lab.get("deployment/web", ".spec.template.spec.containers[0].env[0].value").unwrap(),
        "one"
    );
    assert_eq!(lab.get("deployment/web", ".status.availableReplicas").unwrap(), "1");
    lab.passed(&format!("{phase:?} waits: {why}: {}", state.message));
}

#[test]
fn a_release_waits_for_room_and_loses_nothing() {
    let Some(kubernetes) = kubernetes("faults_disk") else { return };
    let app = format!("{WAY}/app:big");
    let big = images_lab::image(&kubernetes, &app, 30);
    let lab = Lab::start(&kubernetes, &["v1"], vec![big]);
    let way = Way::open(lab.node());
    let surroundings = Surroundings { snapshots: true, ..lab.surroundings() };
    let state_disk = StateDisk::under(&lab.seat());
    let mut manager = Manager::start(&surroundings);
    let one = Shop::default().release();
    let state = manager.bring("the first release", &one);
    assert_eq!(state.phase, ReleasePhase::Committed, "{state:#?}");
    lab.passed("the first release is in force");

    // Where Kubernetes keeps its snapshots, where containerd keeps layers, and our own state.
    let init = lab.node().pid().unwrap().try_into().unwrap();
    let snapshots = NodeDisk::over(init, &format!("{DATA}/server/db/snapshots"), 8);
    let containerd = process_of(lab.node(), "containerd");
    let content = format!("{DATA}/agent/containerd/io.containerd.content.v1.content");
    let content = NodeDisk::over(containerd, &content, 12);
    state_disk.fill();
    let two = Shop { version: "two", image: &app, config: "fresh", timeout: 40, ..Shop::default() };
    let two = two.release();
    manager.want(&two);
    waits(&lab, &mut manager, &one, &two, ReleasePhase::Waiting, Reason::StateDiskFull);
    state_disk.free();
    waits(&lab, &mut manager, &one, &two, ReleasePhase::Preflight, Reason::SnapshotFailed);
    snapshots.grow();
    waits(&lab, &mut manager, &one, &two, ReleasePhase::PrePull, Reason::KubernetesDiskFull);
    way.cut_after(4 * MIB);
    content.grow();
    waits(&lab, &mut manager, &one, &two, ReleasePhase::PrePull, Reason::ReleaseRegistry);

    // That all is pulled cannot be noted, and what cannot be noted is not begun. Killed meanwhile,
    // another one waits for the same.
    state_disk.fill();
    way.mend();
    waits(&lab, &mut manager, &one, &two, ReleasePhase::Applying, Reason::StateDiskFull);
    manager.kill();
    let mut manager = Manager::start(&surroundings);
    manager.want(&two);
    let state =
        manager.reach("another one waits", |state| state.reason == Some(Reason::StateDiskFull));
    assert_eq!(state.good.as_ref(), Some(&one.release), "{state:#?}");
    lab.passed("another one waits");
    state_disk.free();
    let state = manager.reach("it is decided", |state| is_decided(state, &two));
    assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
    assert_eq!(lab.get("deployment/web", ".spec.template.spec.containers[0].image").unwrap(), app);
    lab.passed("it is in force");
    manager.kill();
    drop(way);
    lab.stop();
}
