use super::*;
use proptest::prelude::*;

const PACE: Pace = Pace {
    pause_first: Duration::from_secs(1),
    pause_most: Duration::from_secs(60),
    check_every: Duration::from_secs(30),
    progress_every: Duration::ZERO,
    note_again: Duration::ZERO,
};

fn images(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("r.lab/{number}:v1")).collect()
}

fn target(name: &str) -> Descriptor {
    Descriptor { media_type: "m".into(), digest: format!("sha256:{name}"), size: 1 }
}

fn problem(retryable: bool) -> Problem {
    let reason = if retryable { Reason::ReleaseRegistry } else { Reason::ReleaseImageMissing };
    Problem { reason, message: "m".into(), retryable }
}

/// A runtime that remembers, whose registry fails as it is told.
#[derive(Default)]
struct World {
    store: BTreeSet<String>,
    leased: BTreeSet<String>,
    under_way: Vec<Action>,
    pulls_most: usize,
    looks_most: usize,
}

impl World {
    /// Does one thing that is under way; `fails` lets it fail, `lose` takes an image away before.
    fn step(&mut self, which: usize, fails: Option<bool>, lose: bool) -> Option<Event> {
        if self.under_way.is_empty() {
            return None;
        }
        let action = self.under_way.remove(which % self.under_way.len());
        if lose {
            let first = self.store.pop_first();
            self.leased.retain(|name| Some(name) != first.as_ref());
        }
        Some(match action {
            Action::Look(image) => {
                let target = self.store.contains(&image).then(|| target(&image));
                Event::Found { image, target }
            }
            Action::Pull(image) => match fails {
                Some(retryable) => Event::Failed { image, problem: problem(retryable) },
                None => {
                    self.store.insert(image.clone());
                    Event::Pulled { target: target(&image), image }
                }
            },
            Action::Pin(want) | Action::Check(want) => {
                let lost: BTreeSet<_> =
                    want.keys().filter(|name| !self.store.contains(*name)).cloned().collect();
                match (lost.is_empty(), fails) {
                    (_, Some(_)) => Event::NotKept(problem(true)),
                    (false, None) => Event::Lost(lost),
                    (true, None) => {
                        self.leased = want.into_keys().collect();
                        Event::Kept
                    }
                }
            }
        })
    }

    fn take(&mut self, actions: Vec<Action>) {
        self.under_way.extend(actions);
        let pulls = self.under_way.iter().filter(|one| matches!(one, Action::Pull(_))).count();
        let looks = self.under_way.iter().filter(|one| matches!(one, Action::Look(_))).count();
        self.pulls_most = self.pulls_most.max(pulls);
        self.looks_most = self.looks_most.max(looks);
    }
}

proptest! {
    /// Whatever fails, in whatever order: never more looks and pulls at once than allowed, never said to be
    /// held what is not leased; and once nothing fails any more, everything is held.
    #[test]
    fn it_comes_to_hold_everything(
        count in 0usize..20,
        faults in proptest::collection::vec((any::<usize>(), proptest::option::weighted(0.4, Just(true)), proptest::bool::weighted(0.2), 0u64..90, 0.0..1.0f64), 0..80),
    ) {
        let mut now = Instant::now();
        let wanted = images(count);
        let (mut machine, mut world) = (PrePull::new("0f", &wanted, PACE), World::default());
        for (which, fails, lose, seconds, jitter) in faults {
            now += Duration::from_secs(seconds);
            world.take(machine.next(now));
            if let Some(event) = world.step(which, fails, lose) {
                let kept = event == Event::Kept;
                machine.on(event, now, jitter);
                if kept {
                    prop_assert!(machine.is_held());
                    prop_assert_eq!(&world.leased, &wanted);
                }
            }
        }
        for _ in 0..200 {
            world.take(machine.next(now));
            match world.step(0, None, false) {
                Some(event) => machine.on(event, now, 0.5),
                None if machine.is_held() && world.leased == wanted => break,
                None => now = machine.wake_at().unwrap(),
            }
        }
        prop_assert!(machine.is_held());
        prop_assert_eq!(world.leased, wanted);
        prop_assert!(world.pulls_most <= PULLS_AT_ONCE);
        prop_assert!(world.looks_most <= LOOKS_AT_ONCE);
        prop_assert_eq!(machine.problem(), None);
        prop_assert_eq!(machine.totals().images_done, count);
    }

    #[test]
    fn pauses_grow_to_a_minute(failures in 1u32..100, jitter in 0.0..1.0f64) {
        let length = PACE.pause(failures, jitter);
        prop_assert!(length >= PACE.pause_first / 2 && length <= PACE.pause_most);
        prop_assert!(PACE.pause(failures + 1, jitter) >= length);
    }
}

#[test]
fn what_cannot_be_had_rests_until_it_is_asked_for_again() {
    let now = Instant::now();
    let mut machine = PrePull::new("0f", &images(1), PACE);
    let name = "r.lab/0:v1".to_owned();
    assert_eq!(machine.next(now), [Action::Look(name.clone())]);
    machine.on(Event::Found { image: name.clone(), target: None }, now, 0.0);
    assert_eq!(machine.next(now), [Action::Pull(name.clone())]);
    machine.on(Event::Failed { image: name.clone(), problem: problem(false) }, now, 0.0);
    assert_eq!(machine.problem().map(|problem| problem.reason), Some(Reason::ReleaseImageMissing));
    assert_eq!((machine.next(now + PACE.pause_most), machine.wake_at()), (Vec::new(), None));
    machine.ask_again();
    assert_eq!(machine.next(now), [Action::Look(name)]);
}

#[test]
fn sizes_of_several_images_that_no_disk_has_are_no_harm() {
    let now = Instant::now();
    let mut machine = PrePull::new("0f", &images(2), PACE);
    machine.next(now);
    for image in images(2) {
        machine.on(Event::Found { image: image.clone(), target: None }, now, 0.0);
        machine.next(now);
        let far = Progress { image, done_bytes: u64::MAX, total_bytes: u64::MAX };
        machine.on(Event::Moved(far), now, 0.0);
    }
    assert_eq!(machine.totals().total_bytes, u64::MAX);
    assert!(machine.totals().to_string().starts_with("0/2 images, "));
}

#[test]
fn a_pull_that_moves_is_tried_again_soon() {
    let now = Instant::now();
    let mut machine = PrePull::new("0f", &images(1), PACE);
    let name = "r.lab/0:v1".to_owned();
    machine.next(now);
    machine.on(Event::Found { image: name.clone(), target: None }, now, 1.0);
    let mut at = now;
    for done_bytes in 1..=8 {
        machine.next(at);
        let moved = Progress { image: name.clone(), done_bytes, total_bytes: 10 };
        machine.on(Event::Moved(moved), at, 1.0);
        machine.on(Event::Failed { image: name.clone(), problem: problem(true) }, at, 1.0);
        assert_eq!(machine.wake_at(), Some(at + PACE.pause_first));
        at += PACE.pause_first;
    }
    assert_eq!((machine.totals().done_bytes, machine.totals().total_bytes), (8, 10));
}

#[test]
fn a_runtime_that_restarts_takes_nothing_from_what_is_held() {
    let now = Instant::now();
    let mut machine = PrePull::new("0f", &BTreeSet::new(), PACE);
    assert_eq!(machine.next(now), [Action::Pin(BTreeMap::new())]);
    machine.on(Event::Kept, now, 0.0);
    let later = machine.wake_at().unwrap();
    assert_eq!(machine.next(later), [Action::Check(BTreeMap::new())]);
    machine.on(Event::NotKept(problem(true)), later, 0.0);
    assert!(machine.is_held());
    assert_eq!(machine.wake_at(), Some(later + PACE.check_every));
}
