use super::*;
use crate::release::fake::{Fake, kept, parsed};
use holdfast_api::kubernetes::ReleaseRef;
use jiff::Timestamp;

type Objects<'a> = &'a [(&'a str, &'a str, &'a str)];

const PATIENCE: Duration = Duration::from_secs(20);
const ONE: Objects<'_> = &[("ConfigMap", "config", "a"), ("DaemonSet", "way", "a")];
const TWO: Objects<'_> = &[("ConfigMap", "config", "b"), ("DaemonSet", "way", "b")];

/// Of `two`, where `one` is in force.
fn between(one: Objects<'_>, two: Objects<'_>, failed: &[FailedRelease]) -> Known {
    let one = parsed(&kept("one", one));
    let good = Good { release: one.reference.clone(), objects: one.inventory() };
    let two = parsed(&kept("two", two));
    known(two, Some(good), Some(Arc::new(one)), &Inventory::default(), None, failed)
}

fn interrupting(trial: &Trial) -> Vec<&str> {
    let steps = trial.steps.iter().filter(|step| step.interrupts);
    steps.map(|step| step.text.as_str()).collect()
}

fn reasons(trial: &Trial) -> Vec<Reason> {
    trial.problems.iter().map(|problem| problem.reason).collect()
}

#[tokio::test]
async fn a_plan_asks_about_every_object_names_the_nodes_and_changes_nothing() {
    let fake = Fake::default();
    fake.conduct().refused_dry.insert("config".into());
    fake.conduct().unmet.insert(Check::Tunnels);
    let before = fake.world().clone();
    let trial = between(ONE, TWO, &[]).ask(&fake, true, PATIENCE).await;
    assert_eq!(*fake.world(), before, "no snapshot, no record, nothing");
    assert_eq!(reasons(&trial), [Reason::ReleaseInvalid, Reason::ReleasePreflight]);
    assert_eq!(trial.problems[0].message, "all.yaml, document 1: spec.typo: no such field");
    let pull = trial.steps.iter().find(|step| step.text.starts_with("pull ")).unwrap();
    assert!(pull.text.ends_with("; node-2 lacks docker.io/library/b:latest"), "{}", pull.text);
    assert_eq!(interrupting(&trial), ["apply DaemonSet default/way"]);
}

/// Here and on an agent, which asks nobody.
#[tokio::test]
async fn a_plan_refuses_what_the_release_would_be_refused_for() {
    let fake = Fake::default();
    let bad: Objects<'_> = &[("Deployment", "web", "App:v1"), ("DaemonSet", "way", "a")];
    let trial = between(ONE, bad, &[]).ask(&fake, true, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::ReleaseInvalid]);
    assert!(trial.problems[0].message.contains("\"App:v1\" is not"), "{:?}", trial.problems);
    let trial = between(ONE, bad, &[]).ask(&fake, false, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::ReleaseInvalid, Reason::ReleaseOtherManager]);
    let trial = between(ONE, &[], &[]).ask(&fake, true, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::ReleaseInvalid], "everything would be removed");
}

#[tokio::test]
async fn traffic_is_interrupted_where_its_pods_are_replaced_and_nowhere_else() {
    let fake = Fake::default();
    let ask = async |two| between(ONE, two, &[]).ask(&fake, true, PATIENCE).await;
    let same = ask(&[("ConfigMap", "config", "b"), ("DaemonSet", "way", "a")]).await;
    assert_eq!(interrupting(&same), [""; 0]);
    let gone = ask(&[("ConfigMap", "config", "b")]).await;
    assert_eq!(interrupting(&gone), ["remove DaemonSet default/way"]);
}

#[tokio::test]
async fn what_nobody_answers_is_said_to_be_unknown() {
    let fake = Fake::default();
    fake.conduct().away = usize::MAX;
    let trial = between(ONE, TWO, &[]).ask(&fake, true, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::KubernetesApiUnavailable; 2]);
    assert!(trial.problems[1].message.ends_with("were not tried"), "{:?}", trial.problems);
    assert!(!trial.steps.is_empty());
}

/// It has no journal of what is in force, and may not read the site's.
#[tokio::test]
async fn an_agent_knows_what_is_in_force_and_says_what_it_does_not_know() {
    let fake = Fake::default();
    let two = parsed(&kept("two", TWO));
    let digest = two.reference.digest.clone();
    let known = known(two, None, None, &Inventory::default(), None, &[]);
    let trial = known.ask(&fake, false, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::ReleaseOtherManager]);
    assert!(!trial.steps.is_empty());
    fake.world().announced = Some(digest);
    assert_eq!(known.ask(&fake, false, PATIENCE).await, Trial::default());
}

#[tokio::test]
async fn a_version_that_failed_is_said_to_be_refused() {
    let failed = FailedRelease {
        release: ReleaseRef { digest: kept("two", TWO).release.digest, ..ReleaseRef::default() },
        reason: Reason::PodCrashing,
        message: "it ends".into(),
        at: Timestamp::UNIX_EPOCH,
    };
    let trial = between(ONE, TWO, &[failed]).ask(&Fake::default(), true, PATIENCE).await;
    assert_eq!(reasons(&trial), [Reason::ReleaseRefused]);
}
