use super::*;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{
    ComponentState, DrillResult, KubernetesRole, PodCounts, PodProblem, ReleaseRef, ReleaseState,
    SnapshotInfo, SnapshotsState,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Labels = Vec<(String, String)>;

/// A reader of the format, strict: every sample follows its metric's HELP and TYPE, no series
/// comes twice.
fn parse(page: &str) -> BTreeMap<(String, Labels), f64> {
    let mut samples = BTreeMap::new();
    let mut metrics = BTreeSet::new();
    let (mut helped, mut current) = (String::new(), String::new());
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next().unwrap().to_owned();
            assert!(metrics.insert(helped.clone()), "{helped} is described twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped);
            assert!(["gauge", "counter"].contains(&kind));
            assert_eq!(kind == "counter", name.ends_with("_total"));
            current = name.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    samples
}

fn sample(line: &str) -> (String, Labels, &str) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    while let Some(inner) = rest.strip_prefix(['{', ',']) {
        let (label, text) = inner.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut characters = text.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    plain @ ('\\' | '"') => plain,
                    other => panic!("\\{other} in {line}"),
                }),
                (place, '"') => break place,
                (_, plain) => value.push(plain),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &text[end + 1..];
    }
    (name.to_owned(), labels, rest.strip_prefix('}').unwrap_or(rest).trim())
}

fn state(name: &str, ok: bool) -> ComponentState {
    ComponentState { name: name.into(), ok, message: String::new() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn site() -> KubernetesState {
    let snapshot = |taken, place: &str| SnapshotInfo {
        name: format!("s-{taken}"),
        taken: at(taken),
        bytes: 1,
        place: place.into(),
        portable: true,
    };
    KubernetesState {
        phase: KubernetesPhase::Ready,
        version: "v1.33.1+k3s1".into(),
        components: vec![state("apiserver", true), state("etcd", false)],
        conditions: vec![state("Ready", true), state("DiskPressure", false)],
        pods: PodCounts { deployed: 7, in_progress: 1, ..PodCounts::default() },
        release: ReleaseState {
            wanted: ReleaseRef {
                name: "edge".into(),
                version: "7".into(),
                ..ReleaseRef::default()
            },
            phase: ReleasePhase::Committed,
            ..ReleaseState::default()
        },
        snapshots: SnapshotsState {
            snapshots: vec![
                snapshot("2026-01-01T00:00:00Z", "local"),
                snapshot("2026-01-01T12:00:00Z", "local"),
                snapshot("2026-01-01T00:00:00Z", "s3"),
            ],
            drill: Some(DrillResult {
                snapshot: "s".into(),
                at: at("2026-01-01T12:30:00Z"),
                took_ms: 8_500,
                ok: true,
                message: String::new(),
            }),
            ..SnapshotsState::default()
        },
        ready_after_ms: Some(7_250),
        release_ms: [("Applying".to_owned(), 1_500)].into(),
        starts: 2,
        ends: 1,
        ..KubernetesState::default()
    }
}

#[test]
fn a_site_is_told_in_the_agreed_names() {
    let samples = parse(&render(&site(), at("2026-01-01T13:00:00Z")));
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        *samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name} {samples:?}"))
    };
    assert_eq!(value("holdfast_node_not_true_condition", &[("condition", "Ready")]), 0.0);
    assert_eq!(value("holdfast_node_not_true_condition", &[("condition", "DiskPressure")]), 1.0);
    assert_eq!(value("holdfast_component_not_true_status", &[("component", "etcd")]), 1.0);
    assert_eq!(value("holdfast_kubernetes_phase", &[("phase", "Ready")]), 1.0);
    assert_eq!(value("holdfast_kubernetes_phase", &[("phase", "Backoff")]), 0.0);
    assert_eq!(value("holdfast_kubernetes_ready_seconds", &[]), 7.25);
    assert_eq!(value("holdfast_kubernetes_starts_total", &[]), 2.0);
    assert_eq!(value("holdfast_kubernetes_ends_total", &[]), 1.0);
    let committed = [("release", "edge"), ("version", "7"), ("phase", "Committed")];
    assert_eq!(value("holdfast_release_phase", &committed), 1.0);
    assert_eq!(value("holdfast_release_phase_duration_seconds", &[("phase", "Applying")]), 1.5);
    assert_eq!(value("holdfast_pods", &[("state", "deployed")]), 7.0);
    assert_eq!(value("holdfast_snapshot_age_seconds", &[("place", "local")]), 3600.0);
    assert_eq!(value("holdfast_snapshot_age_seconds", &[("place", "s3")]), 46_800.0);
    assert_eq!(value("holdfast_snapshot_drill_ok", &[]), 1.0);
    assert_eq!(value("holdfast_snapshot_drill_age_seconds", &[]), 1800.0);
    assert_eq!(value("holdfast_kubernetes_starts_total", &[]), 2.0);
}

#[test]
fn a_server_without_snapshots_says_so_and_an_agent_has_none_to_miss() {
    let mut state = site();
    state.snapshots = SnapshotsState::default();
    for (role, said) in [(KubernetesRole::Server, Some(0.0)), (KubernetesRole::Agent, None)] {
        state.role = role;
        let samples = parse(&render(&state, at("2026-01-02T00:00:00Z")));
        let mut here = samples.iter().filter(|((name, _), _)| name == "holdfast_snapshots");
        let found = here.next().map(|(_, value)| *value);
        assert_eq!(found, said, "{role:?}");
    }
}

#[test]
fn a_clock_that_jumped_back_makes_no_negative_age() {
    let samples = parse(&render(&site(), at("2025-01-01T00:00:00Z")));
    let ages = samples.iter().filter(|((name, _), _)| name.ends_with("_age_seconds"));
    assert!(ages.clone().count() >= 3 && ages.clone().all(|(_, age)| *age == 0.0));
}

#[test]
fn nothing_known_is_still_a_page() {
    let samples = parse(&render(&KubernetesState::default(), at("2026-01-01T00:00:00Z")));
    let off = ("holdfast_kubernetes_phase".to_owned(), vec![("phase".into(), "Off".into())]);
    assert_eq!(samples[&off], 1.0);
    assert!(!samples.keys().any(|(name, _)| name.contains("drill")));
}

/// A phase that is missing from the lists would leave a page on which none holds. A new one does
/// not compile here until it has its place.
#[test]
fn every_phase_is_in_the_list() {
    let place = |phase| match phase {
        KubernetesPhase::Off => 0,
        KubernetesPhase::Preparing => 1,
        KubernetesPhase::Starting => 2,
        KubernetesPhase::Ready => 3,
        KubernetesPhase::NotReady => 4,
        KubernetesPhase::Backoff => 5,
        KubernetesPhase::Restoring => 6,
    };
    let release_place = |phase| match phase {
        ReleasePhase::None => 0,
        ReleasePhase::Waiting => 1,
        ReleasePhase::Preflight => 2,
        ReleasePhase::PrePull => 3,
        ReleasePhase::Applying => 4,
        ReleasePhase::Verifying => 5,
        ReleasePhase::Pruning => 6,
        ReleasePhase::Committed => 7,
        ReleasePhase::RollingBack => 8,
        ReleasePhase::RolledBack => 9,
        ReleasePhase::Refused => 10,
    };
    assert!(PHASES.iter().enumerate().all(|(n, phase)| place(*phase) == n));
    assert!(RELEASE_PHASES.iter().enumerate().all(|(n, phase)| release_place(*phase) == n));
    let holding = |state: &KubernetesState, metric: &str| {
        let samples = parse(&render(state, Timestamp::UNIX_EPOCH));
        samples.iter().filter(|((name, _), value)| name == metric && **value == 1.0).count()
    };
    for phase in PHASES {
        let state = KubernetesState { phase, ..KubernetesState::default() };
        assert_eq!(holding(&state, "holdfast_kubernetes_phase"), 1);
    }
    for phase in RELEASE_PHASES {
        let release = ReleaseState { phase, ..ReleaseState::default() };
        let state = KubernetesState { release, ..KubernetesState::default() };
        assert_eq!(holding(&state, "holdfast_release_phase"), 1);
    }
}

proptest! {
    #[test]
    fn any_text_comes_back_from_a_label(
        names in prop::collection::vec("(\\PC|[\\\\\"\\n{},=])*", 0..5),
        version in "(\\PC|[\\\\\"\\n])*",
    ) {
        let states: Vec<_> = names.iter().map(|name| state(name, true)).collect();
        let problem = |name: &String| PodProblem {
            pod: name.clone(),
            reason: version.clone(),
            code: Reason::PodCrashing,
            message: String::new(),
        };
        let told = KubernetesState {
            version: version.clone(),
            components: states.clone(),
            conditions: states,
            pods: PodCounts { problems: names.iter().map(problem).collect(), ..PodCounts::default() },
            ..KubernetesState::default()
        };
        let samples = parse(&render(&told, Timestamp::UNIX_EPOCH));
        for name in &names {
            let labels = vec![("component".to_owned(), name.clone())];
            prop_assert!(samples.contains_key(&("holdfast_component_not_true_status".into(), labels)));
        }
        let info = samples.keys().find(|(name, _)| name == "holdfast_kubernetes_info").unwrap();
        prop_assert_eq!(&info.1[0].1, &version);
    }
}
