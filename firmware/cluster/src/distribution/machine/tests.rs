use super::*;
use proptest::prelude::*;

/// A machine with a process and a clock, as the service has them.
struct World {
    machine: Machine,
    now: Instant,
    process: bool,
    told: bool,
    starts: u32,
}

impl World {
    fn new() -> Self {
        World {
            machine: Machine::default(),
            now: Instant::now(),
            process: false,
            told: false,
            starts: 0,
        }
    }

    fn on(&mut self, event: Event) -> Option<Action> {
        if matches!(event, Event::Exited { .. }) {
            assert!(self.process, "nothing that could end");
            self.process = false;
        }
        let action = self.machine.on(event, self.now);
        match action {
            Some(Action::Start) => {
                assert!(!self.process, "a second copy");
                (self.process, self.told) = (true, false);
                self.starts += 1;
            }
            Some(Action::Stop) => {
                assert!(self.process && !self.told, "told twice, or nobody there");
                self.told = true;
            }
            Some(Action::Kill) => assert!(self.process && self.told, "killed without being asked"),
            None => {}
        }
        assert_eq!(self.machine.runs(), self.process, "{:?}", self.machine.state());
        action
    }

    fn pass(&mut self, time: Duration) -> Option<Action> {
        self.now += time;
        self.on(Event::Tick)
    }
}

fn events() -> impl Strategy<Value = Vec<(u8, u64, f64)>> {
    proptest::collection::vec((0..8u8, 0..100_000u64, 0.0..=1.0f64), 0..120)
}

proptest! {
    /// Whatever happens in whatever order: never two processes, never a signal to nobody; and at
    /// the end what is wanted comes up, and what is not wanted ends.
    #[test]
    fn one_process_and_the_last_wish_counts(events in events(), wanted in any::<bool>()) {
        let mut world = World::new();
        for (kind, milliseconds, jitter) in events {
            world.now += Duration::from_millis(milliseconds);
            match kind {
                0 => world.on(Event::Wanted),
                1 => world.on(Event::Unwanted),
                2 => world.on(Event::Restart),
                3 if world.process => world.on(Event::Exited { jitter }),
                4 if world.process => world.on(Event::Probe { ready: jitter < 0.5 }),
                5 if world.process => world.on(Event::Doomed),
                6 if !world.process => {
                    world.process = true;
                    world.told = false;
                    world.on(Event::Adopted)
                }
                _ => world.on(Event::Tick),
            };
        }
        world.on(if wanted { Event::Wanted } else { Event::Unwanted });
        if world.process && world.told {
            world.on(Event::Exited { jitter: 0.5 });
        }
        if let Some(wake) = world.machine.wake_at() {
            prop_assert!(wake <= world.now + LAST_PAUSE);
            world.now = world.now.max(wake);
            world.on(Event::Tick);
        }
        prop_assert_eq!(world.process, wanted);
        prop_assert_eq!(world.machine.phase() == KubernetesPhase::Off, !wanted);
    }

    /// Pauses grow to their bound and never pass it, for any luck.
    #[test]
    fn pauses_are_bounded(jitters in proptest::collection::vec(0.0..=1.0f64, 1..40)) {
        let mut world = World::new();
        world.on(Event::Wanted);
        let mut longest = Duration::ZERO;
        for (index, jitter) in jitters.into_iter().enumerate() {
            world.on(Event::Exited { jitter });
            let pause = world.machine.wake_at().unwrap() - world.now;
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
            if index >= 6 {
                prop_assert!(pause >= LAST_PAUSE / 2);
            }
            prop_assert!(pause * 2 >= longest, "{pause:?} after {longest:?}");
            longest = longest.max(pause);
            prop_assert_eq!(world.pass(pause), Some(Action::Start));
        }
    }
}

#[test]
fn a_good_stretch_forgives_and_a_short_one_does_not() {
    let failures_after = |stretch: Duration| {
        let mut world = World::new();
        world.on(Event::Wanted);
        for _ in 0..3 {
            world.on(Event::Exited { jitter: 0.0 });
            world.pass(LAST_PAUSE);
        }
        world.on(Event::Probe { ready: true });
        world.now += stretch;
        world.on(Event::Exited { jitter: 0.0 });
        match world.machine.state() {
            State::Backoff { failures, .. } => failures,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failures_after(GOOD_STRETCH - Duration::from_secs(1)), 4);
    assert_eq!(failures_after(GOOD_STRETCH), 1);
}

#[test]
fn one_lost_probe_is_forgiven() {
    let mut world = World::new();
    world.on(Event::Wanted);
    world.on(Event::Probe { ready: true });
    world.on(Event::Probe { ready: false });
    world.on(Event::Probe { ready: true });
    world.on(Event::Probe { ready: false });
    assert_eq!(world.machine.phase(), KubernetesPhase::Ready);
    world.on(Event::Probe { ready: false });
    assert_eq!(world.machine.phase(), KubernetesPhase::NotReady);
    world.on(Event::Probe { ready: true });
    assert_eq!(world.machine.phase(), KubernetesPhase::Ready);
}

#[test]
fn one_that_does_not_end_is_killed_again_and_again() {
    let mut world = World::new();
    world.on(Event::Wanted);
    assert_eq!(world.on(Event::Unwanted), Some(Action::Stop));
    assert_eq!(world.pass(GRACE - Duration::from_millis(1)), None);
    assert_eq!(world.pass(Duration::from_millis(1)), Some(Action::Kill));
    assert_eq!(world.pass(Duration::from_secs(1)), None);
    assert_eq!(world.pass(KILL_AGAIN), Some(Action::Kill));
    world.on(Event::Exited { jitter: 0.0 });
    assert_eq!(world.machine.state(), State::Off);
}

#[test]
fn a_doomed_start_ends_and_waits() {
    let mut world = World::new();
    world.on(Event::Wanted);
    assert_eq!(world.on(Event::Doomed), Some(Action::Stop));
    assert_eq!(world.on(Event::Exited { jitter: 0.0 }), None);
    assert_eq!(
        world.machine.state(),
        State::Backoff { until: world.now + FIRST_PAUSE, failures: 1 }
    );
    assert_eq!(world.pass(FIRST_PAUSE), Some(Action::Start));
    assert_eq!(world.starts, 2);
}

#[test]
fn what_was_ready_once_is_not_doomed_by_what_it_logged() {
    let mut world = World::new();
    world.on(Event::Wanted);
    world.on(Event::Probe { ready: true });
    for _ in 0..MISSES {
        world.on(Event::Probe { ready: false });
    }
    assert!(matches!(world.machine.state(), State::NotReady { .. }));
    assert_eq!(world.on(Event::Doomed), None);
    assert!(world.process);
}

#[test]
fn a_found_process_is_not_started_again() {
    let mut world = World::new();
    world.process = true;
    assert_eq!(world.on(Event::Adopted), None);
    assert_eq!(world.on(Event::Wanted), None);
    world.on(Event::Probe { ready: true });
    assert_eq!((world.machine.phase(), world.starts), (KubernetesPhase::Ready, 0));
}
