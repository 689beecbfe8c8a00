//! Output for people, compared with files; `HOLDFAST_BLESS=1` writes them anew.

use super::super::tests::{PLAIN, golden, now, read, without_colours};
use super::super::wait::Verdict;
use super::{releases, section, snapshots, status, words};
use crate::output::Paint;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState, ReleasePhase, SnapshotsState};
use jiff::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

const ALL: [&str; 4] = ["ready", "applying", "rolled-back", "backoff"];

fn state(name: &str) -> KubernetesState {
    read(&format!("kube-{name}.json"))
}

/// Everything that is said of `state` in any place.
fn everything(state: &KubernetesState, now: Timestamp, paint: Paint) -> String {
    status::render(state, now, paint)
        + &section(state, now, paint)
        + &releases::render(state, now, paint)
        + &snapshots::render(&state.snapshots, now, paint)
}

#[test]
fn status_reads_well() {
    for name in ALL {
        golden(&format!("kube-status-{name}.txt"), &status::render(&state(name), now(), PLAIN));
    }
    let off = status::render(&KubernetesState::default(), now(), PLAIN);
    assert_eq!(off, "Off  The site does not ask for Kubernetes on this node.\n");
}

#[test]
fn releases_read_well() {
    for name in ["ready", "applying", "rolled-back"] {
        let text = releases::render(&state(name), now(), PLAIN);
        golden(&format!("kube-releases-{name}.txt"), &text);
    }
}

#[test]
fn snapshots_read_well() {
    for name in ["ready", "rolled-back"] {
        let text = snapshots::render(&state(name).snapshots, now(), PLAIN);
        golden(&format!("kube-snapshots-{name}.txt"), &text);
    }
    let none = snapshots::render(&SnapshotsState::default(), now(), PLAIN);
    assert_eq!(none, "There is no snapshot yet.\n\nNone is due.\nNo drill yet.\n");
}

/// Names of pods and messages of registries must not steer the terminal.
#[test]
fn output_has_no_control_characters_but_our_colours() {
    for name in ALL {
        let state = state(name);
        let plain = everything(&state, now(), PLAIN);
        assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{name}");
        assert_eq!(without_colours(&everything(&state, now(), Paint(true))), plain, "{name}");
        let told = status::progress(&state);
        assert!(told.chars().all(|c| !c.is_control()), "one line: {told:?}");
    }
}

#[test]
fn the_step_under_way_is_counted_from_one_and_never_beyond_the_last() {
    let mut release = state("applying").release;
    for (done, want) in [(0, "step 1 of 31"), (30, "step 31 of 31"), (31, "step 31 of 31")] {
        release.done = done;
        assert!(words::step(&release).starts_with(want), "{done}");
    }
    release.phase = ReleasePhase::Committed;
    assert!(!words::step(&release).contains("31"));
}

#[test]
fn a_wait_ends_with_readiness_and_the_release_or_when_it_was_given_up() {
    let verdict = |change: &dyn Fn(&mut KubernetesState)| {
        let mut state = state("ready");
        change(&mut state);
        match status::judge(&state, Duration::from_secs(7)) {
            Verdict::Reached => Ok(()),
            Verdict::NotYet(failure) => Err((false, failure)),
            Verdict::Hopeless(failure) => Err((true, failure)),
        }
    };
    assert!(verdict(&|_| {}).is_ok());
    // None is wanted: readiness is all.
    assert!(verdict(&|s| s.release = Default::default()).is_ok());

    let (over, failure) = verdict(&|s| {
        s.phase = KubernetesPhase::Starting;
        s.reason = Some(Reason::KubernetesDiskFull);
    })
    .unwrap_err();
    assert_eq!((over, failure.reason()), (false, Some(Reason::KubernetesDiskFull)));
    assert_eq!(failure.to_string(), "Kubernetes is Starting after 7 s");

    // The API server was away, and what is there was not looked at since.
    let (over, failure) =
        verdict(&|s| s.release.reason = Some(Reason::KubernetesApiUnavailable)).unwrap_err();
    assert_eq!((over, failure.reason()), (false, Some(Reason::KubernetesApiUnavailable)));
    assert!(failure.to_string().contains("it is not known whether"), "{failure}");

    // The one in force is not the one that is wanted: the phase is an old one.
    let (over, failure) = verdict(&|s| s.release.wanted.digest = "other".into()).unwrap_err();
    assert_eq!((over, failure.reason(), failure.exit_code()), (false, None, 124));

    for (phase, reason, want) in [
        (ReleasePhase::RolledBack, Some(Reason::PodImagePull), Reason::PodImagePull),
        (ReleasePhase::RolledBack, None, Reason::ReleaseRolledBack),
        (ReleasePhase::Refused, None, Reason::ReleaseRefused),
    ] {
        let (over, failure) = verdict(&|s| {
            s.release.phase = phase;
            s.release.reason = reason;
        })
        .unwrap_err();
        assert_eq!((over, failure.reason()), (true, Some(want)));
    }
}

proptest! {
    /// Clocks jump, numbers are of another machine: something is said of everything.
    #[test]
    fn any_state_is_told(
        name in prop::sample::select(ALL.to_vec()),
        at in -2_000_000_000_i64..4_000_000_000,
        numbers: (u32, u32, u32, u32, u64),
        text: String,
    ) {
        let mut state = state(name);
        state.release.done = numbers.0;
        state.release.steps = numbers.1;
        state.release.wanted.force = numbers.2;
        state.release.message = text.clone();
        state.pods.failed = numbers.3;
        state.ready_after_ms = Some(numbers.4);
        state.version = text;
        let now = Timestamp::from_second(at).unwrap();
        let told = everything(&state, now, PLAIN);
        prop_assert!(told.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
