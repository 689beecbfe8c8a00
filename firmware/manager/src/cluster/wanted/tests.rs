use super::*;
use crate::settings::{KubernetesStart, Settings};
use holdfast_api::kubernetes::{KubernetesRole, Secret, release_digest};
use holdfast_api::paths::Root;
use holdfast_api::resources::NodeConfigSpec;
use std::cell::Cell;
use std::collections::BTreeMap;
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
    let look = Look { pools: &|| Ok(Have::default()), content: &|_| Some(content("x")), ..NOWHERE };
    Wanted::new(inputs, &look, None, before)
}

/// A disk with nothing on it.
const NOWHERE: Look<'static> = Look {
    pools: &|| Ok(Have::default()),
    content: &|_| None,
    disk: &|| Disk { was_node: false, is_member: false, is_restoring: false },
    usable: &|| None,
};

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

    let look = Look { pools: &unreadable, content: &|_| None, ..NOWHERE };
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
    let look = Look { pools: &pools, content: &|_| None, ..NOWHERE };
    for inputs in [asked(None), off(asked(Some(intent()))), Inputs::for_tests()] {
        Wanted::new(&inputs, &look, None, &Wanted::default());
        assert_eq!(looked.get(), 0);
    }
    Wanted::new(&asked(Some(intent())), &look, None, &Wanted::default());
    assert_eq!(looked.get(), 1);
}

#[test]
fn the_content_is_read_once_and_its_absence_is_told() {
    let fetching = Look { pools: &|| Ok(Have::default()), content: &|_| None, ..NOWHERE };
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

/// A node with a root of its own; `kubernetes` as the controller says it now.
fn below(root: &Root, kubernetes: KubernetesIntent) -> Inputs {
    Inputs { root: root.clone(), ..asked(Some(kubernetes)) }
}

/// An agent that nobody can use: it is told of no server.
fn unusable() -> KubernetesIntent {
    KubernetesIntent { role: KubernetesRole::Agent, server: None, ..intent() }
}

#[test]
fn what_could_be_used_last_is_started_after_a_reboot() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    // What the huge pages of this machine are is not the point.
    let at = |inputs: &Inputs, before: &Wanted| {
        let look = Look { usable: &|| Usable::load(&root), ..NOWHERE };
        let wanted = Wanted::new(inputs, &look, None, before);
        Usable::keep(&root, &wanted);
        wanted
    };
    let good = at(&below(&root, intent()), &Wanted::default());
    let file = root.state_dir().join("cluster/wanted.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let bad = at(&below(&root, unusable()), &Wanted::default());
    assert_eq!(bad.wish, good.wish, "as before the reboot");
    assert_eq!(bad.problem.as_ref().map(|p| p.reason), Some(Reason::KubernetesConfigRefused));
    let again = at(&below(&root, unusable()), &Wanted::default());
    assert_eq!(again.wish, good.wish, "what cannot be used is not kept in its place");

    at(&Inputs { root: root.clone(), ..asked(None) }, &again);
    assert!(!file.exists(), "nobody asks for it any more, and the token is gone");
    assert_eq!(at(&below(&root, unusable()), &Wanted::default()).wish, Wish::Unknown);
}

#[test]
fn pools_that_cannot_be_read_are_those_of_before() {
    let pages = BTreeMap::from([(hw_profiles::PageSize::M2, 64)]);
    let last = Usable { node: "node-1".into(), intent: intent(), hugepages: pages.clone() };
    let look = Look { pools: &unreadable, usable: &|| Some(last.clone()), ..NOWHERE };
    let wanted = Wanted::new(&asked(Some(intent())), &look, None, &Wanted::default());
    let Wish::Run(wants) = &wanted.wish else { panic!("{wanted:?}") };
    assert_eq!(wants.hugepages, pages);
    assert!(wanted.problem.is_some() && !wanted.is_usable);
}

#[test]
fn a_node_of_a_cluster_does_not_begin_another_one_beside_other_servers() {
    let address = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
    let first = |servers: &[u8]| KubernetesIntent {
        node_ip: Some(address(1)),
        servers: servers.iter().map(|n| address(*n)).collect(),
        ..intent()
    };
    let told = |intent: KubernetesIntent, was_node, is_member| {
        let look = Look { disk: &|| Disk { was_node, is_member, ..Disk::default() }, ..NOWHERE };
        let wanted = Wanted::new(&asked(Some(intent)), &look, None, &Wanted::default());
        (wanted.runs(), wanted.problem.map(|problem| problem.reason))
    };
    let waits = Some(Reason::ReleaseUnavailable);
    assert_eq!(told(first(&[1, 2]), true, false), (false, Some(Reason::KubernetesSecondCluster)));
    assert_eq!(told(first(&[1, 2]), true, true), (true, waits), "it has the datastore");
    assert_eq!(told(first(&[1, 2]), false, false), (true, waits), "it is new");
    assert_eq!(told(first(&[1]), true, false), (true, waits), "the one that had it is gone");
    let joins = KubernetesIntent {
        role: KubernetesRole::Server,
        server: Some("https://10.0.0.2:6443".into()),
        ..first(&[1, 2])
    };
    assert_eq!(told(joins.clone(), true, false), (true, waits));

    // An agent that refuses goes on as one.
    let lost = Disk { was_node: true, ..Disk::default() };
    let look = Look { disk: &|| lost, ..NOWHERE };
    let agent = KubernetesIntent { role: KubernetesRole::Agent, ..joins };
    let before = Wanted::new(&asked(Some(agent)), &look, None, &Wanted::default());
    let now = Wanted::new(&asked(Some(first(&[1, 2]))), &look, None, &before);
    assert_eq!((&now.wish, now.server()), (&before.wish, None));

    // One that began it and lost it does not begin it again, and a restore is not in its own way.
    let had = Wanted::new(&asked(Some(first(&[1, 2]))), &NOWHERE, None, &Wanted::default());
    assert!(had.runs());
    let again = |disk: Disk| {
        let look = Look { disk: &|| disk, ..NOWHERE };
        Wanted::new(&asked(Some(first(&[1, 2]))), &look, None, &had)
    };
    assert_eq!(again(lost).wish, Wish::Unknown);
    assert!(again(lost).problem.is_some());
    assert_eq!(again(Disk { is_restoring: true, ..lost }).wish, had.wish);
}
