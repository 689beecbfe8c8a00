use super::*;
use crate::settings::{KubernetesStart, Settings};
use holdfast_api::kubernetes::{KubernetesRole, Secret, release_digest};
use holdfast_api::resources::NodeConfigSpec;
use std::cell::Cell;
use std::io;

fn content(text: &str) -> ReleaseSpec {
    let manifests = [("a.yaml".to_owned(), text.to_owned())].into();
    ReleaseSpec { version: "1".into(), manifests, timeout_secs: 7 }
}

fn intent() -> KubernetesIntent {
    let digest = release_digest(&content("x").manifests);
    KubernetesIntent {
        token: Secret("secret".into()),
        release: Some(ReleaseRef { name: "web".into(), digest, ..ReleaseRef::default() }),
        ..KubernetesIntent::default()
    }
}

fn asked(kubernetes: Option<KubernetesIntent>) -> Inputs {
    let spec = NodeConfigSpec {
        node: "node-1".into(),
        site: "site-1".into(),
        kubernetes,
        ..NodeConfigSpec::default()
    };
    Inputs { desired: Some(Arc::new(spec)), ..Inputs::for_tests() }
}

fn off(inputs: Inputs) -> Inputs {
    let mut settings = Settings::clone(&inputs.settings);
    settings.kubernetes.start = KubernetesStart::Off;
    Inputs { settings: Arc::new(settings), ..inputs }
}

fn unreadable() -> Result<Have, ObserveError> {
    let source = io::Error::from_raw_os_error(5);
    Err(ObserveError::Read { path: "/sys/devices/system/node".into(), source })
}

fn of(inputs: &Inputs, before: &Wanted) -> Wanted {
    let look = Look { pools: &|| Ok(Have::default()), content: &|_| Some(content("x")) };
    Wanted::new(inputs, &look, None, before)
}

/// A node that runs.
fn running() -> Wanted {
    let wanted = of(&asked(Some(intent())), &Wanted::default());
    assert!(wanted.runs() && wanted.problem.is_none(), "{:?}", wanted.problem);
    wanted
}

#[test]
fn without_a_desired_state_nothing_is_touched() {
    let lost = Inputs { admitted: true, ..Inputs::for_tests() };
    assert_eq!(of(&lost, &Wanted::default()).wish, Wish::Unknown, "after a start");
    assert_eq!(of(&lost, &running()), running(), "while it runs");
}

#[test]
fn it_is_taken_away_only_when_the_desired_state_does_without() {
    assert_eq!(of(&asked(None), &running()).wish, Wish::Off);
}

#[test]
fn a_local_off_leaves_alone_what_runs_and_says_so() {
    let wanted = of(&off(asked(Some(intent()))), &running());
    assert_eq!(wanted.wish, Wish::Unknown);
    assert_eq!(wanted.problem.as_ref().map(|p| p.reason), Some(Reason::ConfigInvalid));
    assert_eq!((wanted.release.as_ref(), wanted.server()), (None, None));
    assert_eq!(of(&off(asked(None)), &running()).problem, None, "nobody asks, nobody misses it");
}

#[test]
fn what_cannot_be_had_leaves_what_runs() {
    let before = running();
    let bad = KubernetesIntent { role: KubernetesRole::Agent, server: None, ..intent() };
    let wanted = of(&asked(Some(bad)), &before);
    assert_eq!(wanted.wish, before.wish);
    assert!(wanted.problem.is_some());

    let look = Look { pools: &unreadable, content: &|_| None };
    let wanted = Wanted::new(&asked(Some(intent())), &look, None, &before);
    assert_eq!(wanted.wish, before.wish, "pools that cannot be read are no empty pools");
    assert!(wanted.problem.is_some());
    let wanted = Wanted::new(&asked(Some(intent())), &look, None, &Wanted::default());
    assert_eq!(wanted.wish, Wish::Unknown, "nor is it started with none");
}

#[test]
fn huge_pages_are_looked_at_only_when_it_shall_run() {
    let looked = Cell::new(0);
    let pools = || {
        looked.set(looked.get() + 1);
        Ok(Have::default())
    };
    let look = Look { pools: &pools, content: &|_| None };
    for inputs in [asked(None), off(asked(Some(intent()))), Inputs::for_tests()] {
        Wanted::new(&inputs, &look, None, &Wanted::default());
        assert_eq!(looked.get(), 0);
    }
    Wanted::new(&asked(Some(intent())), &look, None, &Wanted::default());
    assert_eq!(looked.get(), 1);
}

#[test]
fn the_content_is_read_once_and_its_absence_is_told() {
    let fetching = Look { pools: &|| Ok(Have::default()), content: &|_| None };
    let inputs = asked(Some(intent()));
    let waits = Wanted::new(&inputs, &fetching, None, &Wanted::default());
    assert_eq!(waits.problem.as_ref().map(|p| p.reason), Some(Reason::ReleaseUnavailable));
    assert_eq!(waits.release.as_ref().and_then(WantedRelease::kept), None);
    let why = Problem::new(Reason::ControllerUnreachable, "no route");
    let told = Wanted::new(&inputs, &fetching, Some(&why), &waits);
    assert_eq!(told.problem, Some(why));

    let there = of(&inputs, &waits);
    assert_eq!(there.problem, None);
    let again = Wanted::new(&inputs, &fetching, None, &there);
    let (one, two) = (there.release.unwrap(), again.release.unwrap());
    assert!(Arc::ptr_eq(one.content.as_ref().unwrap(), two.content.as_ref().unwrap()));
    let kept = two.kept().unwrap();
    assert_eq!((kept.release.name.as_str(), kept.timeout_secs), ("web", 7));

    let mut other = intent();
    other.release.as_mut().unwrap().digest = "another".into();
    let other = Wanted::new(&asked(Some(other)), &fetching, None, &there_again(&inputs));
    assert_eq!(other.release.unwrap().content, None, "the content of another release is not its");
}

fn there_again(inputs: &Inputs) -> Wanted {
    of(inputs, &Wanted::default())
}
