use super::*;
use proptest::prelude::*;

fn node(name: &str, readiness: Readiness, server: bool) -> NodeView {
    NodeView {
        name: name.into(),
        uid: format!("uid-{name}"),
        readiness,
        server,
        ..NodeView::default()
    }
}

fn wanted(names: &[&str], retired: &[&str]) -> Wanted {
    Wanted {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        retired: retired.iter().map(|name| ((*name).to_owned(), format!("uid-{name}"))).collect(),
    }
}

fn deleted(plan: &Plan) -> Vec<&str> {
    let nodes = plan.steps.iter().filter_map(|step| match step {
        Step::DeleteNode { node, .. } => Some(node.as_str()),
        Step::BreakLock { .. } | Step::DeletePods { .. } => None,
    });
    nodes.collect()
}

use Readiness::{NotReady, Ready, Unknown};

proptest! {
    /// Carrying out plans again and again never takes the datastore its majority, never removes
    /// this node, nor one that the site names and nobody retired, nor one that is alive.
    #[test]
    fn removal_keeps_the_datastore(
        nodes in prop::collection::vec((prop::sample::select(vec![Ready, NotReady, Unknown]), any::<bool>(), any::<bool>(), any::<bool>()), 1..8),
        waited in 0u64..1200,
    ) {
        let start = Instant::now();
        let mut all = Vec::new();
        let mut want = Wanted { names: ["somebody".to_owned()].into(), ..Wanted::default() };
        for (at, (readiness, server, named, retired)) in nodes.iter().enumerate() {
            let name = format!("n{at}");
            if *named {
                want.names.insert(name.clone());
            }
            if *retired {
                want.retired.insert((name.clone(), format!("uid-{name}")));
            }
            all.push(node(&name, *readiness, *server));
        }
        let mut silence = Silence::default();
        silence.note(&all, start);
        let now = start + Duration::from_secs(waited);
        for _ in 0..10 {
            let quorum = |nodes: &[NodeView]| { let (healthy, members) = health(nodes); healthy >= majority(members) };
            let before = quorum(&all);
            let plan = plan(&want, &all, &[], &silence, "n0", now);
            let gone = deleted(&plan);
            prop_assert!(!gone.contains(&"n0"));
            prop_assert!(all.iter().filter(|node| node.server && gone.contains(&node.name.as_str())).count() <= 1);
            for node in all.iter().filter(|node| gone.contains(&node.name.as_str())) {
                let retired = want.retired.iter().any(|(name, _)| *name == node.name);
                prop_assert!(retired || !want.names.contains(&node.name));
                prop_assert!(retired || (node.readiness != Ready && waited >= GRACE.as_secs()));
                prop_assert!(!node.server || before);
            }
            let servers = gone.iter().any(|name| all.iter().any(|node| node.server && node.name == *name));
            let left: Vec<NodeView> = all.iter().filter(|node| !gone.contains(&node.name.as_str())).cloned().collect();
            prop_assert!(!servers || quorum(&left));
            if gone.is_empty() {
                break;
            }
            all = left;
        }
        // What is left to go is held back with a reason: planning is at rest.
        prop_assert!(deleted(&plan(&want, &all, &[], &silence, "n0", now)).is_empty());
    }
}

#[test]
fn a_node_that_is_not_named_goes_after_it_was_silent_long_enough() {
    let start = Instant::now();
    let nodes = [node("s1", Ready, true), node("w1", Unknown, false), node("w2", Ready, false)];
    let mut silence = Silence::default();
    silence.note(&nodes, start);
    let plan_at = |silence: &Silence, secs| {
        plan(&wanted(&["s1"], &[]), &nodes, &[], silence, "s1", start + Duration::from_secs(secs))
    };
    let early = plan_at(&silence, 599);
    assert_eq!(early.steps, []);
    assert_eq!(early.held[0].why, Why::Grace { until: start + GRACE });
    assert_eq!(early.held[1].why, Why::Alive);
    assert_eq!(deleted(&plan_at(&silence, 600)), ["w1"]);
    // It came back for a moment in between.
    silence.note(&[node("w1", Ready, false)], start + Duration::from_secs(300));
    silence.note(&nodes, start + Duration::from_secs(310));
    assert_eq!(deleted(&plan_at(&silence, 600)), [] as [&str; 0]);
}

#[test]
fn a_retired_node_goes_at_once_with_its_lock_and_its_successor_stays() {
    let now = Instant::now();
    let nodes = [node("s1", Ready, true), node("w1", Unknown, false)];
    let locks = [("default".to_owned(), "w1".to_owned())];
    let want = wanted(&["s1", "w1"], &["w1"]);
    let plan_of = |nodes: &[NodeView]| plan(&want, nodes, &locks, &Silence::default(), "s1", now);
    let shown: Vec<_> = plan_of(&nodes).steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "break the reboot lock default of node w1",
            "delete node w1",
            "delete the pods of node w1"
        ]
    );
    let successor = NodeView { uid: "other".into(), ..node("w1", Ready, false) };
    assert_eq!(plan_of(&[nodes[0].clone(), successor]), Plan::default());
}

#[test]
fn an_unknown_list_of_nodes_removes_nothing_and_a_lock_of_nobody_is_broken() {
    let nodes = [node("s1", Ready, true), node("w1", Unknown, false)];
    let locks = [("default".to_owned(), "gone".to_owned())];
    let mut silence = Silence::default();
    let start = Instant::now();
    silence.note(&nodes, start);
    let plan = plan(&wanted(&[], &[]), &nodes, &locks, &silence, "s1", start + GRACE * 2);
    assert_eq!(plan.held, []);
    assert_eq!(plan.steps, [Step::BreakLock { group: "default".into(), node: "gone".into() }]);
}

#[test]
fn a_server_goes_only_while_a_majority_is_left() {
    let plan_of = |states: [Readiness; 3], retire: &[&str]| {
        let nodes: Vec<_> = states
            .into_iter()
            .enumerate()
            .map(|(at, state)| node(&format!("s{}", at + 1), state, true))
            .collect();
        plan(
            &wanted(&["s1", "s2", "s3"], retire),
            &nodes,
            &[],
            &Silence::default(),
            "s1",
            Instant::now(),
        )
    };
    assert_eq!(deleted(&plan_of([Ready, Ready, Unknown], &["s3"])), ["s3"]);
    let quorum = |healthy| Why::Quorum { healthy, members: 3 };
    assert_eq!(plan_of([Ready, Unknown, Unknown], &["s3"]).held[0].why, quorum(1));
    // Healthy itself, and the other one is not: one of two would be left.
    assert_eq!(plan_of([Ready, Unknown, Ready], &["s3"]).held[0].why, quorum(2));
    let both = plan_of([Ready, Ready, Ready], &["s2", "s3"]);
    assert_eq!(deleted(&both), ["s2"]);
    assert_eq!(both.held[0].why, Why::OneAtATime);
    assert_eq!(plan_of([Ready, Ready, Ready], &["s1"]).held[0].why, Why::Myself);
}

#[test]
fn a_reboot_waits_while_another_server_is_away() {
    let three = |third| [node("s1", Ready, true), node("s2", Ready, true), node("s3", third, true)];
    assert!(survives_reboot_of(&three(Ready)[0], &three(Ready)));
    assert!(!survives_reboot_of(&three(Unknown)[0], &three(Unknown)));
    assert!(survives_reboot_of(&three(Unknown)[2], &three(Unknown)));
    let agent = node("w1", Ready, false);
    assert!(survives_reboot_of(&agent, &three(Unknown)));
    assert!(survives_reboot_of(&three(Ready)[0], &three(Ready)[..1]));
}
