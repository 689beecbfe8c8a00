//! Killed at every step: the manager's process and, while it works, the API server.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod faults_lab;

use faults_lab::manager::{Death, Manager, arm, deaths, disarm, is_decided};
use faults_lab::releases::{Shop, image};
use faults_lab::{Lab, PATIENCE};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseState};
use holdfast_api::paths::Root;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::journal::{Journal, Kept, Record};
use holdfast_cluster::release::model::Release;
use holdfast_cluster::release::parse::parse;
use holdfast_cluster::release::plan::{self, Have, Step, StepKind};
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_poll::until;
use std::collections::BTreeSet;
use std::time::Duration;

/// What the journal of the manager says.
fn record(lab: &Lab) -> Record {
    Journal::new(&ClusterPaths::new(&Root::new(lab.seat()))).load()
}

fn read(kept: &Kept) -> Release {
    let timeout = Duration::from_secs(u64::from(kept.timeout_secs));
    parse(&kept.release, &kept.manifests, timeout).unwrap()
}

/// Brings a release by managers each of which is killed at the first point that none was killed
/// at before, until one has nothing to be killed at.
fn bring_by_dying(lab: &Lab, kept: &Kept) -> (ReleaseState, Vec<Death>) {
    arm(&lab.seat());
    for died in 0.. {
        let mut manager = Manager::start(&lab.surroundings());
        manager.want(kept);
        let decided = manager.reach_or_die("it is decided", |state| is_decided(state, kept));
        let known = deaths(&lab.seat()).len();
        let Some(state) = decided else {
            assert_eq!(known, died + 1, "each dies at another point");
            continue;
        };
        // What it tells it notes a moment later.
        until("the end is noted", PATIENCE, || match record(lab) {
            Record { attempt: None, touched: false, leftovers, .. } if leftovers.is_empty() => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
        manager.kill();
        lab.passed(&format!("{} is {:?} after {known} deaths", kept.release.version, state.phase));
        return (state, disarm(&lab.seat()));
    }
    unreachable!("every plan ends")
}

/// Both points of each of these steps.
fn points(steps: &[Step], back: bool) -> BTreeSet<Death> {
    let point = |edge: &str, step: &Step| Death {
        edge: edge.into(),
        kind: format!("{:?}", step.kind()),
        step: step.to_string(),
        back,
    };
    steps.iter().flat_map(|step| [point("begins", step), point("over", step)]).collect()
}

/// What the site runs, and nothing else of ours.
fn assert_has(lab: &Lab, version: &str, tag: &str, config: &str) {
    let web = ".spec.template.spec.containers[0]";
    let told = lab.get("deployment/web", &format!("{web}.image}} {{{web}.env[0].value")).unwrap();
    assert_eq!(told, format!("{} {version}", image(tag)));
    assert_eq!(lab.get("deployment/web", ".status.availableReplicas").unwrap(), "1");
    let names = lab.kubectl(&[
        "get",
        "configmap",
        "-n",
        "shop",
        "-l",
        "holdfast.dev/managed-by=shop",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    let names: BTreeSet<String> = names.unwrap().split(" ").map(str::to_owned).collect();
    assert_eq!(names, [config, "same"].map(str::to_owned).into());
}

#[test]
fn killed_at_every_step_it_ends_where_it_would_have() {
    let Some(kubernetes) = kubernetes("faults_killed") else { return };
    let mut lab = Lab::start(&kubernetes, &["v1", "v2"], Vec::new());
    let one = Shop::default().release();
    let mut manager = Manager::start(&lab.surroundings());
    let state = manager.bring("the first release", &one);
    assert_eq!(state.phase, ReleasePhase::Committed, "{state:#?}");
    manager.kill();
    lab.passed("the first release is in force");

    let mut died = BTreeSet::new();
    let two = Shop { version: "two", image: "v2", config: "fresh", ..Shop::default() }.release();
    let have = record(&lab);
    let have =
        Have { good: have.good.as_ref(), leftovers: Some(&have.leftovers), strayed: have.strayed };
    let forward = plan::forward(&read(&two), have);
    let (state, deaths) = bring_by_dying(&lab, &two);
    assert_eq!((state.phase, state.failed), (ReleasePhase::Committed, vec![]));
    died.extend(deaths);
    let missed: Vec<_> = points(&forward, false).difference(&died).cloned().collect();
    assert_eq!(missed, [], "steps that nobody died at");
    assert_has(&lab, "two", "v2", "fresh");

    let crash = ", {name: CRASH_AFTER, value: 1ms}";
    let bad =
        Shop { version: "bad", variables: crash, config: "never", timeout: 8, ..Shop::default() };
    let bad = bad.release();
    let (state, deaths) = bring_by_dying(&lab, &bad);
    // Killed between the last step and its note, it only knows that the version failed.
    assert!(matches!(state.phase, ReleasePhase::RolledBack | ReleasePhase::Refused), "{state:#?}");
    assert_eq!(state.good.as_ref(), Some(&two.release));
    let failed: Vec<_> = state.failed.iter().map(|one| (&one.release, one.reason)).collect();
    assert_eq!(failed, [(&bad.release, Reason::PodCrashing)]);
    died.extend(deaths);
    let (good, tried) = (read(&two), read(&bad));
    let leftovers = tried.inventory().without(&good.inventory());
    let back = plan::back(Some(&good), &good.inventory(), &leftovers);
    let missed: Vec<_> = points(&back, true).difference(&died).cloned().collect();
    assert_eq!(missed, [], "steps back that nobody died at");
    assert_has(&lab, "two", "v2", "fresh");

    // Of the type, not of these releases.
    for kind in StepKind::ALL {
        for edge in ["begins", "over"] {
            let has =
                died.iter().any(|death| death.kind == format!("{kind:?}") && death.edge == edge);
            assert!(has, "nobody died where {kind:?} {edge}: add a release that takes such a step");
        }
    }

    api_server_killed(&mut lab, &two);
    lab.stop();
}

/// The manager lives, asks with growing pauses, and finishes when it is answered again.
fn api_server_killed(lab: &mut Lab, two: &Kept) {
    let three = Shop { version: "three", config: "third", ..Shop::default() }.release();
    let mut manager = Manager::start(&lab.surroundings());
    manager.bring("what is in force", two);
    manager.want(&three);
    manager.reach("it applies", |state| {
        state.wanted == three.release && state.phase == ReleasePhase::Applying
    });
    lab.kill_api_server();
    lab.passed("the API server is killed");
    let away = Some(Reason::KubernetesApiUnavailable);
    let state = manager.reach("it waits for the API server", |state| state.reason == away);
    assert_eq!(state.good.as_ref(), Some(&two.release), "{state:#?}");
    lab.start_node();
    lab.passed("the node is there again");
    let state = manager.reach("it is decided", |state| is_decided(state, &three));
    assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
    lab.passed("it is in force");
    assert_has(lab, "three", "v1", "third");
}
