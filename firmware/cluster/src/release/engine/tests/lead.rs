//! Who leads changes between any two steps, and a node hears of it late.

use super::site::beside;
use super::*;
use std::io;
use std::sync::Mutex;

impl Site {
    /// Turns as they come, each of which asks who leads, until nothing is left to do; pauses are
    /// skipped.
    fn run_turns(&mut self) {
        for _ in 0..500 {
            let (engine, _) = self.engine();
            engine.take_wanted();
            engine.led = None;
            let Some(pause) = block_on(engine.turn()) else { continue };
            if !engine.machine.is_busy() {
                return;
            }
            engine.clock.ahead += pause;
            self.ahead = self.engine().0.clock.ahead;
        }
        panic!("it does not end: {:?}", self.state());
    }

    /// Goes on until a step of this kind is the next one; pauses are skipped.
    fn up_to(&mut self, kind: StepKind) {
        for _ in 0..500 {
            let (engine, _) = self.engine();
            engine.take_wanted();
            block_on(engine.recall()).unwrap();
            let step = engine.prepare().unwrap();
            if step.as_ref().is_some_and(|step| step.kind() == kind) {
                return;
            }
            if let Some(step) = step {
                self.carry_out(&step);
                continue;
            }
            let now = engine.clock.now();
            let until = engine.machine.wake_at().expect("it ended");
            engine.clock.ahead += until.saturating_duration_since(now);
            self.ahead = self.engine().0.clock.ahead;
        }
        panic!("{kind:?} does not come: {:?}", self.state());
    }
}

/// It was told a moment ago that it leads. What the new leader wrote stays, and nothing failed.
#[test]
fn a_rehearsal_that_finds_another_leader_ends_there() {
    let mut first = Site::with(ONE);
    let two = kept("two", TWO);
    first.want(&two);
    first.up_to(StepKind::Rehearse);
    first.engine().0.led = Some(Instant::now());
    let mut second = beside(&first);
    second.leads(1).want(&two);
    second.up_to(StepKind::Rehearse);
    let before = first.fake.world().clone();
    assert_eq!(before.record.as_ref().unwrap().by, "node-2");
    first.fake.is_node(0);
    first.fake.conduct().is_led_by_another = true;
    for _ in 0..2 {
        block_on(first.engine().0.turn());
        assert_eq!(*first.fake.world(), before);
    }
    let state = first.state();
    assert_eq!((state.reason, state.failed), (Some(Reason::ReleaseOtherManager), vec![]));
    first.fake.conduct().is_led_by_another = false;
    second.leads(1).run();
    second.assert_has(Some((&two, TWO)));
}

/// What refuses its renewal may be what it removes; another node is not kept from the place by that.
#[test]
fn a_node_that_goes_on_without_its_place_asks_before_every_step() {
    let mut site = Site::with(ONE);
    site.fake.conduct().guard = Some("new".into());
    site.want(&kept("two", TWO));
    site.up_to(StepKind::Prune);
    assert!(site.engine().0.machine.is_going_back());
    let count = site.fake.ours().len();
    block_on(site.engine().0.turn());
    assert_eq!(site.fake.ours().len(), count - 1, "it goes on");
    let before = site.fake.world().clone();
    site.fake.conduct().is_led_by_another = true;
    block_on(site.engine().0.turn());
    assert_eq!(*site.fake.world(), before);
    assert_eq!(site.state().reason, Some(Reason::ReleaseOtherManager));
}

/// The leader waits for every node of which it does not know that it refuses.
#[test]
fn a_refusal_that_the_site_never_heard_of_keeps_no_leader_waiting() {
    let mut first = Site::with(ONE);
    let two = kept("two", TWO);
    first.fake.conduct().no_image = true;
    first.want(&two);
    assert!(first.run_steps(usize::MAX, Fault::After).is_none());
    assert_eq!(first.state().phase, ReleasePhase::Refused);
    // It ends before the site is told.
    first.kill();
    first.fake.conduct().no_image = false;
    first.fake.conduct().is_led_by_another = true;
    first.want(&two);
    first.engine().0.take_wanted();
    block_on(first.engine().0.turn());
    let state = first.state();
    let told = (ReleasePhase::PrePull, Some(Reason::ReleaseOtherManager));
    assert_eq!((state.phase, state.reason), told, "{state:?}");
    assert!(first.fake.world().pinned.contains(&two.release.digest));
    first.fake.conduct().is_led_by_another = false;
    let mut second = beside(&first);
    second.leads(1).want(&two);
    second.run();
    second.assert_has(Some((&two, TWO)));
    first.fake.conduct().is_led_by_another = true;
    first.fake.is_node(0);
    block_on(first.engine().0.turn());
    assert_eq!(first.state().phase, ReleasePhase::Committed, "{:?}", first.state());
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_others_cannot_be_told_is_told_once() {
    let mut site = Site::with(ONE);
    site.fake.conduct().no_image = true;
    site.want(&kept("two", TWO));
    assert!(site.run_steps(usize::MAX, Fault::After).is_none());
    site.fake.conduct().guard = Some("web".into());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..3 {
            block_on(site.engine().0.rest());
        }
    });
    let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(told.matches("other nodes may try what failed").count(), 1, "{told}");
    site.fake.conduct().guard = None;
    block_on(site.engine().0.rest());
    assert_eq!(site.fake.world().record.as_ref().unwrap().failed.len(), 1);
}

/// It refuses everything of ours, the lead among it, until it is gone.
#[test]
fn a_release_that_refuses_the_lead_is_taken_back() {
    let mut site = Site::with(ONE);
    site.fake.conduct().guard = Some("new".into());
    site.want(&kept("two", TWO));
    site.run_turns();
    let state = site.state();
    assert_eq!(state.phase, ReleasePhase::RolledBack, "{state:?}");
    assert_eq!(state.reason, Some(Reason::KubernetesAdmissionRefused));
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

/// Somebody else's webhook is no fault of a release that was not begun.
#[test]
fn a_release_waits_where_the_lead_is_refused() {
    let mut site = Site::with(ONE);
    site.fake.conduct().guard = Some("web".into());
    let two = kept("two", TWO);
    site.want(&two);
    site.run_turns();
    let state = site.state();
    assert_eq!(state.reason, Some(Reason::KubernetesAdmissionRefused), "{state:?}");
    assert_eq!(state.failed, []);
    site.fake.conduct().guard = None;
    site.run_turns();
    site.assert_has(Some((&two, TWO)));
}
