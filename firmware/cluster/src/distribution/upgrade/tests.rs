use super::*;
use proptest::prelude::*;

fn version(name: &str) -> Version {
    Version { version: name.into(), sha256: "a".repeat(64) }
}

/// Carries steps out on a node on which the version becomes ready, or never does. Where the manager
/// dies in between is tried on the task itself (`task/tests/killed.rs`).
fn run(want: &Version, have: &mut Versions, is_good: bool) -> Vec<Step> {
    let (mut fetched, mut done, mut patience) = (false, Vec::new(), Duration::ZERO);
    for _ in 0..20 {
        let ready = !have.on_trial || is_good;
        let now = Situation {
            fetched,
            ready,
            settling: false,
            fallback: true,
            on_trial_for: patience,
            window: Duration::from_secs(600),
            hopeless: false,
            restart: false,
            held: false,
            elsewhere: false,
        };
        match plan(Some(want), have, &now) {
            Some(step) => {
                match &step {
                    Step::Fetch(_) => fetched = true,
                    Step::Drain(_) => have.service = Service::Out,
                    Step::Switch(to) => have.switched(to.clone(), String::new(), true),
                    Step::Commit => have.committed(),
                    Step::SwitchBack => have.switched_back("it ended".into()),
                    Step::Uncordon => have.service = Service::In,
                    Step::StepAside | Step::Restart => panic!("nothing has to be restarted"),
                }
                done.push(step);
            }
            None => patience += Duration::from_secs(300),
        }
    }
    done
}

#[test]
fn a_good_version_is_kept() {
    let mut have = Versions { current: Some(version("1")), ..Versions::default() };
    let steps = run(&version("2"), &mut have, true);
    let two = version("2");
    assert_eq!(
        steps,
        [
            Step::Fetch(two.clone()),
            Step::Drain(two.clone()),
            Step::Switch(two.clone()),
            Step::Commit,
            Step::Uncordon
        ]
    );
    assert_eq!((have.current, have.previous), (Some(two), Some(version("1"))));
}

#[test]
fn a_bad_version_is_left_and_not_tried_again() {
    let mut have = Versions { current: Some(version("1")), ..Versions::default() };
    let steps = run(&version("2"), &mut have, false);
    assert_eq!(steps[3..], [Step::SwitchBack, Step::Uncordon]);
    assert_eq!(have.current, Some(version("1")));
    assert!(have.has_failed(&version("2")) && have.service == Service::In && !have.on_trial);
    assert_eq!(run(&version("2"), &mut have, true), []);
    assert_eq!(run(&version("3"), &mut have, true).len(), 5);
}

#[test]
fn one_that_may_be_ready_in_a_moment_is_waited_for_and_drained() {
    let want = version("2");
    let have = Versions { current: Some(version("1")), ..Versions::default() };
    let settling = Situation { fetched: true, settling: true, ..Situation::default() };
    assert_eq!(plan(Some(&want), &have, &settling), None);
    let ready = Situation { ready: true, settling: false, ..settling };
    assert_eq!(plan(Some(&want), &have, &ready), Some(Step::Drain(want.clone())));
    let hopeless = Situation { settling: false, ..settling };
    assert_eq!(plan(Some(&want), &have, &hopeless), Some(Step::Switch(want.clone())));
    // What failed on another node mends none here; whether it still counts is asked with a drain.
    let elsewhere = Situation { elsewhere: true, ..hopeless };
    assert_eq!(plan(Some(&want), &have, &elsewhere), None);
    let asks = Situation { ready: true, ..elsewhere };
    assert_eq!(plan(Some(&want), &have, &asks), Some(Step::Drain(want)));
}

#[test]
fn a_version_that_ends_again_and_again_is_left_before_its_time() {
    let mut have = Versions { current: Some(version("1")), ..Versions::default() };
    have.switched(version("2"), String::new(), true);
    let now =
        Situation { fallback: true, window: Duration::from_secs(600), ..Situation::default() };
    let hopeless = Situation { hopeless: true, ..now };
    assert_eq!(plan(None, &have, &now), None);
    assert_eq!(plan(None, &have, &hopeless), Some(Step::SwitchBack));
    assert_eq!(plan(None, &have, &Situation { fallback: false, ..hopeless }), None);
}

#[test]
fn nothing_is_drained_where_nothing_runs() {
    let now = Situation { fetched: true, ..Situation::default() };
    let want = version("1");
    assert_eq!(plan(Some(&want), &Versions::default(), &now), Some(Step::Switch(want.clone())));
    let mut first = Versions::default();
    first.switched(want.clone(), String::new(), false);
    assert_eq!(plan(Some(&want), &first, &now), None);
}

#[test]
fn a_version_that_failed_is_tried_again_from_another_address() {
    let artifact = |url: &str| DistributionArtifact {
        version: "2".into(),
        url: url.into(),
        sha256: "a".repeat(64),
    };
    let mut have = Versions { current: Some(version("1")), ..Versions::default() };
    have.switched(version("2"), "https://a.example/k3s".into(), true);
    have.switched_back("it ended".into());
    assert!(!have.forgive(&artifact("https://a.example/k3s")));
    assert!(have.has_failed(&version("2")));
    assert!(have.forgive(&artifact("https://a.example/k3s#2")));
    assert!(!have.has_failed(&version("2")));
}

#[test]
fn a_server_goes_minor_version_by_minor_version() {
    for (from, to, skips_one) in [
        ("v1.33.9+k3s1", "v1.34.0+k3s1", false),
        ("v1.33.9+k3s1", "v1.33.1+k3s1", false),
        ("v1.33.9+k3s1", "v1.35.0+k3s1", true),
        ("v1.34.1+k3s1", "v1.33.0+k3s1", false),
        ("v1.33.9+k3s1", "v2.0.0", true),
        ("", "v1.35.0+k3s1", false),
        ("v1.33.9+k3s1", "latest", false),
    ] {
        assert_eq!(skips(from, to), skips_one, "{from} {to}");
    }
}

/// Restarts a node that is ready, killed where `die` says: after that many steps, each written
/// down before it is carried out.
fn restarts(have: &mut Versions, want: Option<&Version>, die: usize) -> Vec<Step> {
    let (mut due, mut done) = (true, Vec::new());
    let ready = Situation { ready: true, fetched: true, ..Situation::default() };
    for turn in 0..10 {
        if turn == die {
            have.restarted_manager();
        }
        let Some(step) = plan(want, have, &Situation { restart: due, ..ready }) else { break };
        match &step {
            Step::StepAside => (have.service, have.for_restart) = (Service::Out, true),
            Step::Restart => due = false,
            Step::Uncordon => (have.service, have.for_restart) = (Service::In, false),
            Step::Drain(_) => (have.service, have.for_restart) = (Service::Out, false),
            Step::Switch(to) => {
                due = false;
                have.switched(to.clone(), String::new(), true);
            }
            Step::Commit => have.committed(),
            Step::Fetch(_) | Step::SwitchBack => panic!("{step}"),
        }
        done.push(step);
    }
    done
}

#[test]
fn a_restart_waits_for_its_turn_and_gives_it_back_wherever_the_manager_dies() {
    for die in 0..5 {
        let mut have = Versions::default();
        let steps = restarts(&mut have, None, die);
        let count = |step: &Step| steps.iter().filter(|one| *one == step).count();
        assert_eq!(count(&Step::Restart), 1, "{die}: {steps:?}");
        assert!(count(&Step::StepAside) <= 2, "{die}: {steps:?}");
        assert_eq!(steps.last(), Some(&Step::Uncordon), "{die}");
        assert_eq!((have.service, have.for_restart), (Service::In, false), "{die}");
    }
}

#[test]
fn another_version_needs_its_own_drain_and_restarts_once() {
    let mut have = Versions { current: Some(version("1")), ..Versions::default() };
    let two = version("2");
    let steps = [Step::Drain(two.clone()), Step::Switch(two.clone()), Step::Commit, Step::Uncordon];
    assert_eq!(restarts(&mut have, Some(&two), 99), steps);
    // It came while the node was aside.
    let mut have = Versions {
        current: Some(version("1")),
        service: Service::Out,
        for_restart: true,
        ..Versions::default()
    };
    let restarted = Situation { ready: true, fetched: true, ..Situation::default() };
    assert_eq!(plan(Some(&two), &have, &restarted), Some(Step::Uncordon));
    have.service = Service::In;
    assert_eq!(plan(Some(&two), &have, &restarted), Some(Step::Drain(two)));
}

/// Such as one that failed on another node, as long as the site names it.
#[test]
fn a_version_that_is_held_up_holds_no_restart_up() {
    let have = Versions { current: Some(version("1")), ..Versions::default() };
    let now = Situation { fetched: true, ready: true, restart: true, ..Situation::default() };
    let two = version("2");
    assert_eq!(plan(Some(&two), &have, &now), Some(Step::Drain(two.clone())));
    let held = Situation { held: true, ..now };
    assert_eq!(plan(Some(&two), &have, &held), Some(Step::StepAside));
    let aside = Versions { service: Service::Out, for_restart: true, ..have };
    assert_eq!(plan(Some(&two), &aside, &held), Some(Step::Restart));
}

#[test]
fn what_is_not_ready_is_restarted_at_once_and_a_trial_is_ended_first() {
    let now = Situation { restart: true, ..Situation::default() };
    assert_eq!(plan(None, &Versions::default(), &now), Some(Step::Restart));
    let trial = Versions { on_trial: true, ..Versions::default() };
    let window = Duration::from_secs(600);
    assert_eq!(plan(None, &trial, &Situation { window, ..now }), None);
}

#[test]
fn an_agent_is_ahead_by_its_minor_version_alone() {
    for (agent, server, ahead) in [
        ("v1.34.0+k3s1", "v1.33.9+k3s1", true),
        ("v1.33.9+k3s2", "v1.33.1+k3s1", false),
        ("v1.33.1+k3s1", "v1.34.0+k3s1", false),
        ("v1.10.0", "v1.9.0", true),
        ("v2.0.0", "v1.99.0", true),
        ("latest", "v1.33.1", false),
        ("v1.33", "", false),
    ] {
        assert_eq!(is_ahead(agent, server), ahead, "{agent} {server}");
    }
}

/// Whatever had become of the drain when the version was not wanted any more.
#[test]
fn a_version_that_is_not_wanted_any_more_leaves_the_node_in_service() {
    let now = Situation { fetched: true, ready: true, ..Situation::default() };
    for service in [Service::Leaving, Service::Out] {
        let have = Versions { current: Some(version("1")), service, ..Versions::default() };
        assert_eq!(plan(Some(&version("1")), &have, &now), Some(Step::Uncordon));
        assert_eq!(plan(None, &have, &now), Some(Step::Uncordon));
    }
    let have = Versions { service: Service::Leaving, ..Versions::default() };
    let again = plan(Some(&version("2")), &have, &now);
    assert_eq!(again, Some(Step::Drain(version("2"))), "how far it came is not known");
}

proptest! {
    /// Whatever was asked for in whatever order, with whatever result: in the end the node
    /// takes workloads, runs a version that is good, and never again one that failed.
    #[test]
    fn it_ends_with_a_good_version(wishes in proptest::collection::vec((0..5u8, any::<bool>()), 1..12)) {
        let mut have = Versions::default();
        let mut bad = std::collections::BTreeSet::new();
        for (name, is_good) in wishes {
            let want = version(&name.to_string());
            let before = have.current.clone();
            let was_bad = bad.contains(&name);
            let steps = run(&want, &mut have, is_good);
            prop_assert!(have.service == Service::In && !have.on_trial);
            if was_bad {
                prop_assert!(steps.is_empty());
            } else if is_good || before == Some(want.clone()) {
                prop_assert_eq!(&have.current, &Some(want));
            } else {
                bad.insert(name);
                prop_assert_eq!(&have.current, &before);
            }
        }
    }
}
