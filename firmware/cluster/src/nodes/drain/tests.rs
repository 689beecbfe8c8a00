use super::*;
use crate::nodes::model::Selector;
use proptest::prelude::*;

fn pod(name: &str) -> PodView {
    PodView {
        pod: PodRef { namespace: "a".into(), name: name.into(), uid: name.into() },
        controller: Some("ReplicaSet".into()),
        ..PodView::default()
    }
}

/// Guards every pod of the namespace.
fn budget(name: &str, allowed: i64) -> BudgetView {
    BudgetView {
        namespace: "a".into(),
        name: name.into(),
        selector: Some(Selector::default()),
        allowed,
    }
}

fn ready(name: &str) -> NodeView {
    NodeView { name: name.into(), readiness: Readiness::Ready, ..NodeView::default() }
}

fn names(plan: &DrainPlan) -> Vec<&str> {
    plan.evict.iter().map(|leaving| leaving.pod.name.as_str()).collect()
}

/// A node whose pods need some looks to end, with budgets that count.
#[derive(Debug, Clone)]
struct World {
    seen: Seen,
    looks_to_end: u32,
    ending: BTreeMap<PodRef, u32>,
    evictions: Vec<(PodRef, Instant)>,
    uncordoned: bool,
}

impl World {
    fn new(seen: Seen) -> Self {
        World {
            seen,
            looks_to_end: 2,
            ending: BTreeMap::new(),
            evictions: Vec::new(),
            uncordoned: false,
        }
    }

    fn evict(&mut self, pod: &PodRef, now: Instant) -> Evicted {
        self.evictions.push((pod.clone(), now));
        let Some(at) = self.seen.pods.iter().position(|one| one.pod == *pod) else {
            return Evicted::Leaving;
        };
        let view = self.seen.pods[at].clone();
        for budget in self.seen.budgets.iter_mut().filter(|budget| budget.guards(&view)) {
            if budget.allowed <= 0 {
                return Evicted::Refused { message: "needs 1 healthy".into() };
            }
            budget.allowed -= 1;
        }
        self.seen.pods[at].terminating = true;
        self.ending.insert(pod.clone(), self.looks_to_end);
        Evicted::Leaving
    }

    fn pass(&mut self) {
        for left in self.ending.values_mut() {
            *left = left.saturating_sub(1);
        }
        let ending = &self.ending;
        self.seen.pods.retain(|pod| ending.get(&pod.pod) != Some(&0));
    }

    /// Runs the machine to its end; how it ended, and how long it took.
    fn run(&mut self, drain: &mut Drain, start: Instant) -> (Outcome, Duration) {
        let mut now = start;
        for _ in 0..10_000 {
            match drain.look(&self.seen, now) {
                Next::Cordon => {
                    let node = self.seen.node.as_mut().unwrap();
                    (node.unschedulable, node.cordoned_by_us) = (true, true);
                }
                Next::Uncordon => {
                    let node = self.seen.node.as_mut().unwrap();
                    assert!(node.cordoned_by_us, "another's cordon is not ours to end");
                    (node.unschedulable, node.cordoned_by_us) = (false, false);
                    self.uncordoned = true;
                }
                Next::Evict(pods) => {
                    for pod in pods {
                        let answer = self.evict(&pod, now);
                        drain.evicted(&pod, answer, now);
                    }
                    now += Duration::from_millis(10);
                }
                Next::LookAt(at) => {
                    assert!(at > now, "it turns without end");
                    now = at;
                    self.pass();
                }
                Next::End(outcome) => return (outcome, now - start),
            }
        }
        panic!("it does not end");
    }
}

fn pods() -> impl Strategy<Value = Vec<PodView>> {
    let flags = prop::array::uniform4(prop::bool::weighted(0.2));
    let kind = prop::sample::select(vec![None, Some("ReplicaSet"), Some("DaemonSet"), Some("Job")]);
    let one = (flags, kind, 0i64..3);
    prop::collection::vec(one, 0..8).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(at, ([mirror, completed, terminating, empty_dir], kind, priority))| PodView {
                mirror,
                completed,
                terminating,
                empty_dir,
                priority,
                controller: kind.map(str::to_owned),
                ..pod(&format!("p{at}"))
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_pod_is_sorted_once_and_only_those_go_that_may(
        pods in pods(), allowed in prop::collection::vec(0i64..4, 0..3),
    ) {
        let budgets: Vec<_> =
            allowed.iter().enumerate().map(|(at, allowed)| budget(&at.to_string(), *allowed)).collect();
        let plan = plan(&pods, &budgets);
        let mut sorted: Vec<_> = plan
            .evict
            .iter()
            .map(|leaving| leaving.pod.clone())
            .chain(plan.skip.iter().map(|(pod, _)| pod.clone()))
            .collect();
        sorted.sort();
        let mut all: Vec<_> = pods.iter().map(|pod| pod.pod.clone()).collect();
        all.sort();
        prop_assert_eq!(sorted, all);
        for leaving in &plan.evict {
            let pod = pods.iter().find(|pod| pod.pod == leaving.pod).unwrap();
            prop_assert!(!pod.mirror && !pod.completed && !pod.terminating);
            prop_assert_ne!(pod.controller.as_deref(), Some("DaemonSet"));
        }
        let free = plan.evict.iter().filter(|leaving| !leaving.blocked).count();
        let least = allowed.iter().min();
        prop_assert!(least.is_none_or(|least| free <= usize::try_from(*least).unwrap()));
    }

    /// It ends by its deadline; done means that nothing is left that goes; after a failure the
    /// node takes pods again, unless it was an operator who had cordoned it.
    #[test]
    fn it_ends_in_time_and_leaves_the_cordon_as_it_should(
        pods in pods(),
        allowed in prop::collection::vec(0i64..4, 0..3),
        looks in 1u32..40,
        operators in any::<bool>(),
        elsewhere in prop::bool::weighted(0.8),
    ) {
        let settings = DrainSettings { deadline: Duration::from_secs(30), ..DrainSettings::default() };
        let budgets =
            allowed.iter().enumerate().map(|(at, allowed)| budget(&at.to_string(), *allowed)).collect();
        let node = NodeView { unschedulable: operators, ..ready("n") };
        let mut world = World::new(Seen { node: Some(node), wanted: true, elsewhere, pods, budgets });
        world.looks_to_end = looks;
        for pod in world.seen.pods.iter().filter(|pod| pod.terminating) {
            world.ending.insert(pod.pod.clone(), looks);
        }
        let start = Instant::now();
        let mut drain = Drain::begin(settings, start);
        let (outcome, took) = world.run(&mut drain, start);
        prop_assert!(took <= settings.deadline);
        let node = world.seen.node.clone().unwrap();
        match outcome {
            Outcome::Done => {
                prop_assert!(node.unschedulable);
                let left = plan(&world.seen.pods, &world.seen.budgets).left();
                prop_assert!(left == 0 || !elsewhere);
            }
            Outcome::TimedOut { left, .. } => {
                prop_assert!(!left.is_empty());
                prop_assert_eq!(node.unschedulable, operators);
                prop_assert_eq!(world.uncordoned, !operators);
            }
            Outcome::Vanished | Outcome::Withdrawn => prop_assert!(false, "it was there"),
        }
        prop_assert_eq!(node.cordoned_by_us, node.unschedulable && !operators);
        if !elsewhere {
            prop_assert!(world.evictions.is_empty());
        }
        for pair in world.evictions.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            prop_assert!(pair[1].1 - pair[0].1 >= settings.retry);
        }
    }
}

#[test]
fn free_pods_go_first_and_the_least_important_of_them_before_others() {
    let pods = [
        PodView { priority: 9, ..pod("high") },
        PodView { priority: 0, controller: None, empty_dir: true, ..pod("low") },
        PodView { priority: 5, ..pod("middle") },
    ];
    let free = plan(&pods, &[]);
    assert_eq!(names(&free), ["low", "middle", "high"]);
    assert_eq!(
        free.evict[0].to_string(),
        "evict a/low, which nobody makes anew, with the files of its emptyDir"
    );
    let tight = plan(&pods, &[budget("one", 1)]);
    assert_eq!(tight.evict.iter().filter(|leaving| leaving.blocked).count(), 2);
    assert_eq!(tight.evict[1].to_string(), "evict a/middle, when a/one lets it go");
}

#[test]
fn a_budget_that_never_lets_go_is_named_while_it_lasts_and_at_the_end() {
    let mut world = World::new(Seen {
        node: Some(ready("n")),
        wanted: true,
        elsewhere: true,
        pods: vec![pod("web"), PodView { controller: Some("DaemonSet".into()), ..pod("dp") }],
        budgets: vec![budget("strict", 0)],
    });
    let start = Instant::now();
    let mut drain = Drain::begin(DrainSettings::default(), start);
    let (outcome, took) = world.run(&mut drain, start);
    assert_eq!(took, Duration::from_secs(300));
    assert_eq!(outcome.reason(), Some(Reason::NodeDrainTimeout));
    assert_eq!(
        outcome.to_string(),
        "not drained in time; left: a/web; budget a/strict does not let pod a/web go: needs 1 healthy"
    );
    // 5 s, 10 s, then every 20 s: a handful of requests, not three hundred.
    assert!((15..=17).contains(&world.evictions.len()), "{}", world.evictions.len());
}

#[test]
fn a_budget_that_recovers_lets_the_drain_end_well() {
    let start = Instant::now();
    let mut world = World::new(Seen {
        node: Some(ready("n")),
        wanted: true,
        elsewhere: true,
        pods: vec![pod("a"), pod("b")],
        budgets: vec![budget("one", 1)],
    });
    let mut drain = Drain::begin(DrainSettings::default(), start);
    assert_eq!(drain.look(&world.seen, start), Next::Cordon);
    world.seen.node.as_mut().unwrap().unschedulable = true;
    let Next::Evict(pods) = drain.look(&world.seen, start) else { panic!() };
    for pod in &pods {
        let answer = world.evict(pod, start);
        drain.evicted(pod, answer, start);
    }
    assert_eq!(drain.blocked().unwrap().pod.name, "b");
    world.seen.budgets[0].allowed = 1;
    let (outcome, took) = world.run(&mut drain, start);
    assert_eq!(outcome, Outcome::Done);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_node_that_vanishes_in_the_middle_ends_it() {
    let start = Instant::now();
    let gone = |change: fn(&mut Seen)| {
        let mut seen = Seen {
            node: Some(NodeView { unschedulable: true, cordoned_by_us: true, ..ready("n") }),
            wanted: true,
            elsewhere: true,
            pods: vec![pod("a")],
            budgets: vec![],
        };
        let mut drain = Drain::begin(DrainSettings::default(), start);
        assert!(matches!(drain.look(&seen, start), Next::Evict(_)));
        change(&mut seen);
        drain.look(&seen, start)
    };
    assert_eq!(gone(|seen| seen.node = None), Next::End(Outcome::Vanished));
    assert_eq!(
        gone(|seen| seen.node.as_mut().unwrap().readiness = Readiness::Unknown),
        Next::End(Outcome::Vanished)
    );
    assert_eq!(
        gone(|seen| seen.node.as_mut().unwrap().deleting = true),
        Next::End(Outcome::Vanished)
    );
    // A kubelet that speaks and is not well still ends its pods.
    assert!(matches!(
        gone(|seen| seen.node.as_mut().unwrap().readiness = Readiness::NotReady),
        Next::Evict(_)
    ));
}

#[test]
fn a_lock_that_is_taken_away_ends_it_and_the_cordon() {
    let start = Instant::now();
    let mut world = World::new(Seen {
        node: Some(ready("n")),
        wanted: true,
        elsewhere: true,
        pods: vec![pod("a")],
        budgets: vec![budget("strict", 0)],
    });
    let mut drain = Drain::begin(DrainSettings::default(), start);
    assert_eq!(drain.look(&world.seen, start), Next::Cordon);
    (world.seen.node.as_mut().unwrap().unschedulable, world.seen.wanted) = (true, false);
    world.seen.node.as_mut().unwrap().cordoned_by_us = true;
    let (outcome, _) = world.run(&mut drain, start);
    assert_eq!(outcome, Outcome::Withdrawn);
    assert!(world.uncordoned && world.evictions.is_empty());
}
