use super::*;
use crate::release::fake::{kept, parsed};
use crate::release::model::{Key, Strategy};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

const KINDS: [&str; 7] = [
    "ConfigMap",
    "Namespace",
    "Deployment",
    "Gadget",
    "CustomResourceDefinition",
    "DaemonSet",
    "Service",
];

/// Some of ten objects, whose kinds stay the same from release to release.
fn any_release() -> impl proptest::strategy::Strategy<Value = Release> {
    proptest::collection::btree_map(0usize..10, 0u8..3, 0..10).prop_map(|objects| {
        let names: Vec<_> = objects
            .iter()
            .map(|(n, content)| (KINDS[n % KINDS.len()], format!("n{n}"), format!("c{content}")))
            .collect();
        let objects: Vec<_> =
            names.iter().map(|(kind, name, content)| (*kind, &**name, &**content)).collect();
        parsed(&kept("any", &objects))
    })
}

fn good(release: &Release) -> Good {
    Good { release: release.reference.clone(), objects: release.inventory() }
}

fn at(steps: &[Step], wanted: &Step) -> Option<usize> {
    steps.iter().position(|step| step == wanted)
}

proptest! {
    #[test]
    fn what_is_applied_has_no_plan(release in any_release()) {
        let good = good(&release);
        let have = Have { good: Some(&good), ..Have::default() };
        prop_assert_eq!(forward(&release, have), []);
        for strayed in [Strayed::Objects, Strayed::Site] {
            let steps = forward(&release, Have { strayed: Some(strayed), ..have });
            prop_assert!(!steps.is_empty());
            let has = |step: Step| steps.contains(&step);
            prop_assert_eq!(has(Step::Preflight(Check::Snapshot)), strayed == Strayed::Site);
            prop_assert!(has(Step::Preflight(Check::ApiServer)));
        }
    }

    #[test]
    fn everything_is_applied_once_and_nothing_of_it_removed(old in any_release(), new in any_release()) {
        let good = good(&old);
        let steps = forward(&new, Have { good: Some(&good), ..Have::default() });
        prop_assume!(!steps.is_empty());
        let inventory = new.inventory();
        for item in &new.items {
            let apply = Step::Apply(item.object.id.clone());
            prop_assert_eq!(steps.iter().filter(|step| **step == apply).count(), 1);
        }
        let mut removed = Vec::new();
        for step in &steps {
            if let Step::Prune(id) = step {
                prop_assert!(!inventory.has(id) && good.objects.has(id));
                removed.push(id.clone());
            }
        }
        prop_assert_eq!(removed.len(), good.objects.without(&inventory).len());
        prop_assert!(removed.iter().map(|id| removal(class(id))).is_sorted());
    }

    #[test]
    fn checks_and_images_come_before_the_record_and_the_record_before_any_change(new in any_release()) {
        let steps = forward(&new, Have::default());
        let record = at(&steps, &Step::Record).unwrap();
        for (n, step) in steps.iter().enumerate() {
            match step.kind() {
                StepKind::Preflight | StepKind::DryRun | StepKind::PrePull => {
                    prop_assert!(n < record);
                }
                StepKind::Record => prop_assert_eq!(n, record),
                StepKind::Apply | StepKind::Wait | StepKind::Verify | StepKind::Rehearse
                | StepKind::Prune | StepKind::Commit => prop_assert!(n > record),
                StepKind::Settle => prop_assert!(false, "a rollback's step"),
            }
        }
        prop_assert_eq!(steps.last(), Some(&Step::Commit));
    }

    /// What can refuse a commit is applied, and nothing is gone for good, when it is rehearsed.
    #[test]
    fn a_commit_is_rehearsed_between_the_last_change_and_the_first_removal(
        old in any_release(), new in any_release(),
    ) {
        let good = good(&old);
        let steps = forward(&new, Have { good: Some(&good), ..Have::default() });
        prop_assume!(!steps.is_empty());
        let rehearsal = at(&steps, &Step::Rehearse).unwrap();
        let is = |kind| move |step: &Step| step.kind() == kind;
        prop_assert!(steps.iter().rposition(is(StepKind::Apply)).is_none_or(|n| n < rehearsal));
        prop_assert!(steps.iter().position(is(StepKind::Prune)).is_none_or(|n| n > rehearsal));
    }

    /// A definition is established before what it defines.
    #[test]
    fn definitions_are_waited_for_first(new in any_release()) {
        let steps = forward(&new, Have::default());
        let waits = steps.iter().rposition(|step| {
            matches!(step, Step::Wait(id, _) if id.kind == "CustomResourceDefinition")
        });
        let custom = steps.iter().position(|step| {
            matches!(step, Step::Apply(id) if group(&id.api_version) == "x.example")
        });
        if let (Some(waits), Some(custom)) = (waits, custom) {
            prop_assert!(waits < custom);
        }
    }

    /// Back from anywhere: what is not good is removed, then what is good is applied, nothing else;
    /// and the site knows of it before.
    #[test]
    fn the_way_back_removes_what_is_left_over(old in any_release(), new in any_release()) {
        let kept = old.inventory();
        let steps = back(Some(&old), &kept, &new.inventory());
        prop_assert_eq!(&steps[0], &Step::Record);
        let kinds = steps.iter().map(Step::kind);
        let applied = kinds.clone().position(|kind| kind == StepKind::Apply);
        let removed = kinds.clone().rposition(|kind| kind == StepKind::Prune);
        prop_assert!(applied.is_none() || removed < applied);
        for step in &steps {
            match step {
                Step::Apply(id) => prop_assert!(kept.has(id)),
                Step::Prune(id) => prop_assert!(!kept.has(id) && new.inventory().has(id)),
                _ => {}
            }
        }
        prop_assert_eq!(steps.last(), Some(&Step::Settle));
    }
}

#[test]
fn optimistic_objects_are_not_waited_for() {
    let mut release = parsed(&kept("a", &[("Deployment", "web", "a"), ("DaemonSet", "node", "a")]));
    release.items[0].strategy = Strategy::Optimistic;
    let waits: Vec<_> = forward(&release, Have::default())
        .iter()
        .filter(|step| step.kind() == StepKind::Wait)
        .map(Step::to_string)
        .collect();
    assert_eq!(waits, ["wait up to 300 s for DaemonSet default/node"]);
}

#[test]
fn nodes_are_looked_at_where_something_is_on_each() {
    let asks = |kind: &str| {
        let release = parsed(&kept("a", &[(kind, "web", "a")]));
        forward(&release, Have::default()).contains(&Step::Preflight(Check::Nodes))
    };
    assert!(asks("DaemonSet") && !asks("Deployment"));
}

/// One that has run and went by itself is neither missing nor run once more by a repair.
#[test]
fn a_job_that_passes_is_applied_once() {
    let release = parsed(&kept("a", &[("Deployment", "web", "a"), ("Job", "once", "a")]));
    let job = release.items.iter().find(|item| item.passes()).unwrap();
    let id = job.object.id.clone();
    let good = good(&release);
    let applied = |strayed| {
        let have = Have { good: Some(&good), strayed: Some(strayed), ..Have::default() };
        forward(&release, have).contains(&Step::Apply(id.clone()))
    };
    assert!(applied(Strayed::Site) && !applied(Strayed::Objects));
}

/// A controller that clears up after its resources has to be there until they are gone.
#[test]
fn custom_resources_go_before_workloads() {
    let old = [("Gadget", "gadget", "a"), ("Deployment", "controller", "a")];
    let good = good(&parsed(&kept("a", &old)));
    let steps = forward(&parsed(&kept("b", &[])), Have { good: Some(&good), ..Have::default() });
    let removed: Vec<_> = steps.iter().filter(|step| step.kind() == StepKind::Prune).collect();
    assert!(
        matches!(removed[..], [Step::Prune(first), _] if first.kind == "Gadget"),
        "{removed:?}"
    );
}

#[test]
fn what_may_refuse_a_removal_goes_first() {
    let id = |api_version: &str, kind: &str| ObjectId {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: None,
        name: "x".into(),
    };
    let gates = [
        id("apiregistration.k8s.io/v1", "APIService"),
        id("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
        id("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ];
    let steps = back(None, &Inventory::default(), &gates.iter().cloned().collect());
    let mut removed = steps.iter().filter(|step| step.kind() == StepKind::Prune);
    assert_eq!(removed.next_back(), Some(&Step::Prune(gates[0].clone())));
}

#[test]
fn an_object_that_moved_to_another_api_version_is_not_removed() {
    let new = parsed(&kept("a", &[("Deployment", "web", "a")]));
    let mut old = good(&new);
    let id = ObjectId { api_version: "apps/v1beta1".into(), ..new.items[0].object.id.clone() };
    assert_eq!(Key::of(&id), Key::of(&new.items[0].object.id));
    old.objects = [id].into_iter().collect();
    old.release.digest = "another".into();
    let steps = forward(&new, Have { good: Some(&old), ..Have::default() });
    assert!(steps.iter().all(|step| step.kind() != StepKind::Prune), "{steps:?}");
}

#[test]
fn a_plan_can_be_read() {
    let old = good(&parsed(&kept("a", &[("ConfigMap", "old", "a")])));
    let new = parsed(&kept("b", &[("Namespace", "space", "b"), ("Deployment", "web", "b:1")]));
    let steps = forward(&new, Have { good: Some(&old), ..Have::default() });
    let text: Vec<_> = steps.iter().map(Step::to_string).collect();
    assert_eq!(
        text,
        [
            "make sure that the API server is ready",
            "ask the API server whether it takes Namespace space",
            "ask the API server whether it takes Deployment default/web",
            "make sure that the disk has room",
            "make sure that certificates are valid",
            "make sure that the tunnels pass data",
            "make sure that a snapshot of the datastore is taken",
            "pull on every node docker.io/library/b:1, docker.io/library/b:latest",
            "write down what may be there from now on",
            "apply Namespace space",
            "apply Deployment default/web",
            "wait up to 300 s for Deployment default/web",
            "look at everything once more",
            "make sure that the site lets itself be written to",
            "remove ConfigMap default/old",
            "commit: mark the nodes, let go of other images",
        ]
    );
}
