use super::*;
use proptest::prelude::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn edge(name: &str, domain: &str, rtt_ms: u64) -> Candidate {
    let rtt = Some(MS(rtt_ms));
    Candidate { name: name.into(), domain: domain.into(), rtt, health: Health::Alive }
}

fn dead(candidate: Candidate) -> Candidate {
    Candidate { rtt: None, health: Health::Dead, ..candidate }
}

fn three() -> Vec<Candidate> {
    vec![edge("a", "east", 10), edge("b", "east", 12), edge("c", "west", 40)]
}

/// Decides once a second for `secs` and counts changes after the first decision.
fn run(selector: &mut Selector, candidates: &[Candidate], now: &mut Instant, secs: u64) -> usize {
    let mut changes = 0;
    let mut before = selector.decide(2, candidates, *now).edges;
    for _ in 0..secs {
        *now += MS(1000);
        let after = selector.decide(2, candidates, *now).edges;
        changes += usize::from(before != after);
        before = after;
    }
    changes
}

#[test]
fn the_nearest_in_different_domains() {
    let choice = Selector::default().decide(2, &three(), Instant::now());
    assert_eq!(choice, Choice { edges: vec!["a".into(), "c".into()], shared_domain: None });
}

#[test]
fn one_domain_shared_rather_than_one_tunnel_less() {
    let mut candidates = three();
    candidates[2] = dead(edge("c", "west", 40));
    let choice = Selector::default().decide(2, &candidates, Instant::now());
    assert_eq!(choice.edges, ["a", "b"]);
    assert_eq!(choice.shared_domain.as_deref(), Some("east"));
}

#[test]
fn a_dead_one_is_replaced_at_once_and_the_living_one_stays() {
    let (mut selector, mut now) = (Selector::default(), Instant::now());
    let mut candidates = three();
    candidates.push(edge("d", "north", 90));
    run(&mut selector, &candidates, &mut now, 1);
    candidates[2] = dead(edge("c", "west", 40));
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "d"], "another domain first");
    candidates[3] = dead(edge("d", "north", 90));
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "b"]);
    // It returns: the spread is worth a move, but not in a hurry.
    candidates[2] = edge("c", "west", 40);
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "b"]);
    now += HOLD;
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "c"]);
}

#[test]
fn without_a_living_substitute_a_dead_one_is_kept() {
    let (mut selector, now) = (Selector::default(), Instant::now());
    let candidates: Vec<_> = three().into_iter().map(dead).collect();
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "c"]);
    let candidates =
        [dead(edge("a", "east", 10)), dead(edge("c", "west", 10)), edge("d", "west", 9)];
    assert_eq!(selector.decide(2, &candidates, now).edges, ["d", "a"]);
}

#[test]
fn nearer_by_the_margin_for_the_hold_time_and_not_a_moment_less() {
    let (mut selector, mut now) = (Selector::default(), Instant::now());
    let mut candidates = vec![edge("a", "east", 100), edge("c", "west", 40)];
    run(&mut selector, &candidates, &mut now, 1);
    candidates.push(edge("b", "east", 80));
    assert_eq!(
        run(&mut selector, &candidates, &mut now, 60),
        0,
        "20 ms of 100 is the margin itself"
    );
    candidates[2] = edge("b", "east", 79);
    assert_eq!(run(&mut selector, &candidates, &mut now, 9), 0);
    candidates[2] = edge("b", "east", 90);
    assert_eq!(run(&mut selector, &candidates, &mut now, 2), 0, "the time starts again");
    candidates[2] = edge("b", "east", 79);
    selector.decide(2, &candidates, now);
    assert_eq!(selector.wake_at(), Some(now + HOLD));
    assert_eq!(run(&mut selector, &candidates, &mut now, 11), 1);
    assert_eq!(selector.decide(2, &candidates, now).edges, ["c", "b"]);
}

#[test]
fn the_order_of_the_held_has_the_same_patience() {
    let (mut selector, mut now) = (Selector::default(), Instant::now());
    let mut candidates = vec![edge("a", "east", 10), edge("b", "west", 30)];
    assert_eq!(selector.decide(2, &candidates, now).edges, ["a", "b"]);
    candidates[0] = edge("a", "east", 36);
    assert_eq!(run(&mut selector, &candidates, &mut now, 60), 0, "6 ms of 36 are no reason");
    candidates[0] = dead(edge("a", "east", 36));
    assert_eq!(run(&mut selector, &candidates, &mut now, 60), 0, "silence is for failover");
    candidates[0] = edge("a", "east", 40);
    assert_eq!(run(&mut selector, &candidates, &mut now, 11), 1);
    assert_eq!(selector.decide(2, &candidates, now).edges, ["b", "a"]);
}

#[test]
fn among_near_edges_five_milliseconds_count() {
    let (mut selector, mut now) = (Selector::default(), Instant::now());
    let mut candidates = vec![edge("a", "east", 6), edge("c", "west", 3)];
    run(&mut selector, &candidates, &mut now, 1);
    candidates.push(edge("b", "east", 1));
    assert_eq!(run(&mut selector, &candidates, &mut now, 60), 0, "a fifth of 6 ms is noise");
}

#[test]
fn fewer_wanted_keeps_the_best_and_withdrawn_ones_go() {
    let (mut selector, now) = (Selector::default(), Instant::now());
    assert_eq!(selector.decide(3, &three(), now).edges, ["a", "b", "c"]);
    assert_eq!(selector.decide(2, &three(), now).edges, ["a", "c"], "spread before near");
    assert_eq!(selector.decide(1, &three(), now).edges, ["a"]);
    assert_eq!(selector.decide(1, &three()[2..], now).edges, ["c"]);
    assert_eq!(selector.decide(2, &[], now), Choice::default());
}

prop_compose! {
    fn pools()(
        edges in proptest::collection::vec((0u8..4, prop::option::of(1u64..200), 0u8..3), 0..8)
    ) -> Vec<Candidate> {
        edges.into_iter().enumerate().map(|(n, (domain, rtt, health))| Candidate {
            name: format!("re-{n}"),
            domain: format!("d{domain}"),
            rtt: rtt.map(MS),
            health: [Health::Alive, Health::Unknown, Health::Dead][usize::from(health)],
        }).collect()
    }
}

fn living_domains(pool: &[Candidate]) -> usize {
    let living = pool.iter().filter(|c| c.health == Health::Alive);
    living.map(|c| &c.domain).collect::<BTreeSet<_>>().len()
}

proptest! {
    /// The order in which candidates are listed never matters, whatever was held before.
    #[test]
    fn order_does_not_matter(first in pools(), (pool, shuffled) in pools().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())), want in 1usize..4) {
        let now = Instant::now();
        let (mut one, mut two) = (Selector::default(), Selector::default());
        prop_assert_eq!(one.decide(want, &first, now), two.decide(want, &first, now));
        prop_assert_eq!(one.decide(want, &pool, now), two.decide(want, &shuffled, now));
    }

    /// Always distinct, always as many as wanted or all there are, always candidates.
    #[test]
    fn distinct_and_complete(pools in proptest::collection::vec((pools(), 0u64..20), 1..6), want in 1usize..4) {
        let (mut selector, mut now) = (Selector::default(), Instant::now());
        for (pool, secs) in pools {
            now += MS(secs * 1000);
            let edges = selector.decide(want, &pool, now).edges;
            prop_assert_eq!(edges.len(), want.min(pool.len()));
            prop_assert_eq!(edges.iter().collect::<BTreeSet<_>>().len(), edges.len());
            prop_assert!(edges.iter().all(|name| pool.iter().any(|c| c.name == *name)));
        }
    }

    /// A fresh choice uses different domains whenever there are enough living ones, and one
    /// with a history does so after the hold time. A dead one is held only when nothing alive
    /// is left over.
    #[test]
    fn domains_are_spread_and_the_dead_replaced(before in pools(), pool in pools(), want in 1usize..4) {
        let (mut selector, mut now) = (Selector::default(), Instant::now());
        selector.decide(want, &before, now);
        let edges = selector.decide(want, &pool, now).edges;
        let held = |name: &String| pool.iter().find(|c| c.name == *name).unwrap();
        let dead = edges.iter().filter(|name| held(name).health == Health::Dead).count();
        let left = pool.iter().any(|c| c.health == Health::Alive && !edges.contains(&c.name));
        prop_assert!(dead == 0 || !left, "{:?} of {:?}", edges, pool);

        for _ in 0..want + 1 {
            selector.decide(want, &pool, now);
            now += HOLD;
        }
        let edges = selector.decide(want, &pool, now).edges;
        let living: Vec<_> = edges.iter().map(held).filter(|c| c.health == Health::Alive).collect();
        let domains: BTreeSet<_> = living.iter().map(|c| &c.domain).collect();
        prop_assert!(domains.len() >= living_domains(&pool).min(living.len()), "{:?} of {:?}", edges, pool);
    }

    /// Jitter below the margin never changes a choice.
    #[test]
    fn noise_moves_nothing(base in 1u64..150, edges in 2u64..7, seed: u64) {
        let (mut selector, mut now) = (Selector::default(), Instant::now());
        let mut random = crate::random::Random::new(seed);
        let mut first = None;
        for _ in 0..100 {
            let mut next = || base + random.next() % 5;
            let pool: Vec<_> = (0..edges).map(|n| edge(&format!("re-{n}"), &format!("d{}", n % 3), next())).collect();
            let held = selector.decide(2, &pool, now).edges;
            let first = first.get_or_insert_with(|| held.clone());
            prop_assert_eq!(&held, first, "neither the set nor its order");
            now += MS(500);
        }
    }

    /// Left alone, it settles: nothing is pending and nothing moves any more.
    #[test]
    fn it_settles(before in pools(), pool in pools(), want in 1usize..4) {
        let (mut selector, mut now) = (Selector::default(), Instant::now());
        selector.decide(want, &before, now);
        for _ in 0..8 {
            selector.decide(want, &pool, now);
            now += HOLD;
        }
        let settled = selector.decide(want, &pool, now);
        prop_assert_eq!(selector.wake_at(), None);
        now += HOLD * 10;
        prop_assert_eq!(selector.decide(want, &pool, now), settled);
    }
}
