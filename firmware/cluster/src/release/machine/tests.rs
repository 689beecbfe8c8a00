use super::*;
use crate::release::fake::{kept, parsed};
use crate::release::plan::StepKind;
use holdfast_api::Reason;
use jiff::Timestamp;
use proptest::prelude::*;

fn release(name: &str) -> Arc<Release> {
    Arc::new(parsed(&kept(name, &[("ConfigMap", name, name), ("Deployment", "web", name)])))
}

struct Bench {
    machine: Machine,
    moment: Moment,
}

impl Bench {
    fn new(wanted: &Arc<Release>) -> Self {
        let mut machine = Machine::new(Record::default(), None, None);
        machine.want(Some(Wanted::Release(Arc::clone(wanted))));
        let moment = Moment { now: Instant::now(), wall: Timestamp::UNIX_EPOCH, jitter: 0 };
        Bench { machine, moment }
    }

    fn next(&mut self) -> Option<Step> {
        self.machine.next(&self.moment)
    }

    fn on(&mut self, outcome: Result<(), Failure>) {
        self.machine.on(outcome, &self.moment);
    }

    /// Goes on well up to a step of this kind, which is returned.
    fn up_to(&mut self, kind: StepKind) -> Step {
        loop {
            let step = self.next().unwrap();
            if step.kind() == kind {
                return step;
            }
            self.on(Ok(()));
        }
    }

    fn finish(&mut self) {
        while self.next().is_some() {
            self.on(Ok(()));
        }
    }
}

fn away() -> Failure {
    Failure::always(Reason::KubernetesApiUnavailable, "nobody answers")
}

#[test]
fn what_is_away_is_asked_for_with_growing_pauses_and_without_end() {
    let mut bench = Bench::new(&release("a"));
    bench.up_to(StepKind::Apply);
    let mut last = Duration::ZERO;
    for _ in 0..40 {
        bench.on(Err(away()));
        let pause = bench.machine.wake_at().unwrap() - bench.moment.now;
        assert!(pause >= last && pause <= LONGEST_PAUSE, "{pause:?} after {last:?}");
        last = pause;
        assert_eq!(bench.next(), None);
        bench.moment.now += pause;
        assert_eq!(bench.next().unwrap().kind(), StepKind::Apply);
    }
    assert_eq!(last, LONGEST_PAUSE);
    bench.on(Ok(()));
    bench.finish();
    assert_eq!(bench.machine.state().phase, ReleasePhase::Committed);
}

#[test]
fn what_may_pass_is_asked_for_as_long_as_the_object_may_take() {
    for kind in [StepKind::DryRun, StepKind::Apply] {
        asked_for_as_long_as_the_object_may_take(kind);
    }
}

fn asked_for_as_long_as_the_object_may_take(kind: StepKind) {
    let mut bench = Bench::new(&release("a"));
    bench.up_to(kind);
    let failure = Failure::soon(Reason::ReleaseWebhookRefused, "its webhook does not answer");
    let began = bench.moment.now;
    while bench.machine.trying().is_some() {
        bench.on(Err(failure.clone()));
        if let Some(until) = bench.machine.wake_at() {
            bench.moment.now = until;
        }
        bench.next();
    }
    assert_eq!(bench.moment.now - began, DEFAULT_TIMEOUT);
    let failed = bench.machine.state().failed;
    assert_eq!(failed[0].reason, Reason::ReleaseWebhookRefused);
}

#[test]
fn jitter_only_shortens_and_by_half_at_most() {
    let mut pauses = Vec::new();
    for jitter in [0, 500, 1000] {
        let mut bench = Bench::new(&release("a"));
        bench.moment.jitter = jitter;
        bench.next();
        bench.on(Err(away()));
        pauses.push(bench.machine.wake_at().unwrap() - bench.moment.now);
    }
    assert_eq!(pauses, [1000, 750, 500].map(Duration::from_millis));
}

#[test]
fn only_the_last_failures_are_remembered() {
    let mut bench = Bench::new(&release("r0"));
    for n in 0..MAX_FAILED + 3 {
        bench.machine.want(Some(Wanted::Release(release(&format!("r{n}")))));
        bench.up_to(StepKind::DryRun);
        bench.on(Err(Failure::never(Reason::ReleaseInvalid, "a typo")));
        assert_eq!(bench.next(), None);
    }
    let failed = bench.machine.state().failed;
    assert_eq!(failed.len(), MAX_FAILED);
    assert_eq!(failed.last().unwrap().release.name, format!("r{}", MAX_FAILED + 2));
}

/// Whatever images, webhooks and names say, the site's record stays one that a ConfigMap takes.
#[test]
fn what_is_remembered_has_a_bound_whatever_the_words() {
    for words in ["\"", "\u{80}", "\\", "\n", "é", "a "] {
        let mut bench = Bench::new(&release("r0"));
        for n in 0..MAX_FAILED {
            bench.machine.want(Some(Wanted::Release(release(&format!("r{n}")))));
            bench.up_to(StepKind::Apply);
            let said = format!("a.yaml: {}: why", words.repeat(300_000));
            bench.on(Err(Failure::never(Reason::ReleaseApplyRefused, said)));
            let told = serde_json::to_string(&bench.machine.state()).unwrap();
            assert!(told.len() < 64 << 10, "{words:?}: {} bytes are told", told.len());
            bench.finish();
        }
        let record = serde_json::to_string(&bench.machine.site_record(&Step::Record)).unwrap();
        assert!(record.len() < 64 << 10, "{words:?}: {} bytes", record.len());
        let failed = &bench.machine.record().failed;
        assert_eq!(failed.len(), MAX_FAILED);
        assert!(failed.iter().all(|one| one.message.starts_with("a.yaml: ")), "{failed:?}");
        assert!(failed.iter().all(|one| one.message.ends_with(": why")), "{failed:?}");
    }
}

#[test]
fn a_rollback_that_fails_is_made_again_and_lets_a_newer_release_pass() {
    let mut bench = Bench::new(&release("a"));
    bench.finish();
    bench.machine.want(Some(Wanted::Release(release("b"))));
    bench.up_to(StepKind::Wait);
    bench.on(Err(Failure::never(Reason::PodCrashing, "it crashes")));
    for round in 1..5u32 {
        bench.up_to(StepKind::Apply);
        bench.on(Err(Failure::never(Reason::ReleaseApplyRefused, "no")));
        while bench.next().is_some() {
            bench.on(Ok(()));
        }
        let state = bench.machine.state();
        assert_eq!(state.phase, ReleasePhase::RollingBack);
        assert_eq!(state.reason, Some(Reason::ReleaseRollbackFailed));
        let pause = bench.machine.wake_at().unwrap() - bench.moment.now;
        assert_eq!(pause, Duration::from_secs(5 << (round - 1)));
        bench.moment.now += pause;
    }
    assert!(bench.machine.want(Some(Wanted::Release(release("c")))));
    bench.finish();
    let state = bench.machine.state();
    assert_eq!(state.phase, ReleasePhase::Committed);
    assert_eq!(state.good.unwrap().name, "c");
    assert!(bench.machine.record().leftovers.is_empty() && !bench.machine.is_torn());
}

#[test]
fn what_must_stay_keeps_nothing_from_being_in_force() {
    let stays = || Failure::never(Reason::ReleaseLeftover, "Namespace x stays: it holds a claim");
    let mut bench = Bench::new(&release("a"));
    bench.finish();
    bench.machine.want(Some(Wanted::Release(release("b"))));
    bench.up_to(StepKind::Wait);
    bench.on(Err(Failure::never(Reason::PodCrashing, "it crashes")));
    bench.up_to(StepKind::Prune);
    bench.on(Err(stays()));
    bench.finish();
    let state = bench.machine.state();
    assert_eq!((state.phase, state.reason), (ReleasePhase::RolledBack, Some(Reason::PodCrashing)));
    assert_eq!(bench.machine.record().leftovers.iter().count(), 1);

    bench.machine.want(Some(Wanted::Release(release("c"))));
    bench.up_to(StepKind::Prune);
    bench.on(Err(stays()));
    bench.finish();
    let state = bench.machine.state();
    assert_eq!(
        (state.phase, state.reason),
        (ReleasePhase::Committed, Some(Reason::ReleaseLeftover))
    );
    assert!(state.message.contains("still there"), "{}", state.message);
    bench.machine.want(Some(Wanted::Release(release("d"))));
    bench.finish();
    assert_eq!(bench.machine.state().reason, None);
    assert!(bench.machine.record().leftovers.is_empty());
}

#[test]
fn the_last_good_release_asked_for_in_the_middle_is_put_back_without_blame() {
    let (a, b) = (release("a"), release("b"));
    let mut bench = Bench::new(&a);
    bench.finish();
    bench.machine.want(Some(Wanted::Release(b)));
    bench.up_to(StepKind::Wait);
    assert!(bench.machine.want(Some(Wanted::Release(a))));
    assert!(bench.machine.is_going_back());
    bench.finish();
    let state = bench.machine.state();
    assert_eq!((state.phase, state.failed), (ReleasePhase::Committed, vec![]));
}

fn refused() -> Failure {
    Failure::soon(Reason::KubernetesAdmissionRefused, "a webhook refuses the record")
}

/// What the commit of `b` over `a` is refused for, until the machine does something else.
fn refuse_commit(bench: &mut Bench) {
    bench.up_to(StepKind::Commit);
    for _ in 0..20 {
        bench.on(Err(refused()));
        let Some(until) = bench.machine.wake_at() else { return };
        bench.moment.now = until;
        assert_eq!(bench.next().map(|step| step.kind()), Some(StepKind::Commit));
    }
}

#[test]
fn a_commit_that_is_refused_is_taken_back_when_nothing_was_removed() {
    let mut bench = Bench::new(&release("a"));
    refuse_commit(&mut bench);
    assert!(bench.machine.is_going_back());
    let state = bench.machine.state();
    assert_eq!(state.failed[0].reason, Reason::KubernetesAdmissionRefused);
    bench.finish();
    assert_eq!(bench.machine.state().phase, ReleasePhase::RolledBack);
}

#[test]
fn a_commit_that_is_refused_after_removals_lets_a_newer_release_pass() {
    let mut bench = Bench::new(&release("a"));
    bench.finish();
    bench.machine.want(Some(Wanted::Release(release("b"))));
    refuse_commit(&mut bench);
    assert!(!bench.machine.is_going_back());
    assert!(bench.machine.want(Some(Wanted::Release(release("c")))));
    bench.finish();
    let state = bench.machine.state();
    assert_eq!((state.phase, state.good.unwrap().name), (ReleasePhase::Committed, "c".into()));
}

/// What is in force again and cannot be written down is put back again, or left for a newer one.
#[test]
fn a_rollback_that_cannot_be_written_down_lets_a_newer_release_pass() {
    let mut bench = Bench::new(&release("a"));
    bench.finish();
    bench.machine.want(Some(Wanted::Release(release("b"))));
    bench.up_to(StepKind::Wait);
    bench.on(Err(Failure::never(Reason::PodCrashing, "it crashes")));
    bench.up_to(StepKind::Settle);
    bench.on(Err(Failure::never(Reason::KubernetesAdmissionRefused, "no")));
    assert_eq!(bench.next(), None);
    assert_eq!(bench.machine.state().reason, Some(Reason::ReleaseRollbackFailed));
    assert!(bench.machine.want(Some(Wanted::Release(release("c")))));
    bench.finish();
    assert_eq!(bench.machine.state().phase, ReleasePhase::Committed);
}

/// What is waited for on the way back is told, with why it goes back.
#[test]
fn a_rollback_tells_what_it_waits_for() {
    let mut bench = Bench::new(&release("a"));
    bench.up_to(StepKind::Wait);
    bench.on(Err(Failure::never(Reason::PodCrashing, "it crashes")));
    bench.next();
    assert_eq!(bench.machine.state().reason, Some(Reason::PodCrashing));
    bench.on(Err(away()));
    let state = bench.machine.state();
    assert_eq!(state.reason, Some(Reason::KubernetesApiUnavailable));
    assert!(state.message.contains("nobody answers") && state.message.contains("it crashes"));
}

/// Who asks for a pause gets it, but no longer one than ours.
#[test]
fn a_server_that_wants_to_be_left_alone_is() {
    for (asked, want) in [(30, 30), (3600, 60)] {
        let mut bench = Bench::new(&release("a"));
        bench.moment.jitter = 1000;
        bench.up_to(StepKind::Apply);
        bench.on(Err(away().after(Some(Duration::from_secs(asked)))));
        let pause = bench.machine.wake_at().unwrap() - bench.moment.now;
        assert_eq!(pause, Duration::from_secs(want));
    }
}

/// The time that an object may take begins when somebody answers.
#[test]
fn silence_does_not_count_as_the_time_of_an_object() {
    let mut bench = Bench::new(&release("a"));
    bench.up_to(StepKind::Apply);
    bench.on(Err(away()));
    bench.moment.now += DEFAULT_TIMEOUT * 2;
    bench.next();
    bench.on(Err(Failure::soon(Reason::ReleaseWebhookRefused, "it does not answer")));
    assert!(!bench.machine.is_going_back());
    assert!(bench.machine.wake_at().is_some());
}

/// The nodes that follow speak of the attempt that is wanted now; nobody hears one of another.
#[test]
fn what_is_forced_in_the_middle_is_tried_as_that() {
    let (b, mut forced) = (release("b"), Release::clone(&release("b")));
    forced.reference.force = 1;
    for kind in StepKind::ALL.iter().filter(|kind| **kind != StepKind::Settle) {
        for fails in [false, true] {
            let mut bench = Bench::new(&release("a"));
            bench.finish();
            bench.machine.want(Some(Wanted::Release(Arc::clone(&b))));
            bench.up_to(*kind);
            let cut = bench.machine.want(Some(Wanted::Release(Arc::new(forced.clone()))));
            assert_eq!(cut, !bench.machine.is_torn(), "{kind:?}");
            let step = bench.next().unwrap();
            assert!(cut || step.kind() == *kind, "{step} instead of {kind:?}");
            assert_eq!(bench.machine.trying().unwrap().reference, forced.reference, "{kind:?}");
            // What is removed stays so, and what must succeed is tried again.
            if fails && !matches!(kind, StepKind::Prune | StepKind::Commit) {
                bench.on(Err(Failure::never(Reason::Internal, "no")));
                bench.finish();
                let failed = bench.machine.state().failed;
                assert_eq!(failed[0].release, forced.reference, "{kind:?}");
            } else {
                bench.finish();
                assert_eq!(bench.machine.state().good, Some(forced.reference.clone()), "{kind:?}");
            }
        }
    }
}

#[test]
fn nothing_interrupts_pruning() {
    let mut bench = Bench::new(&release("a"));
    bench.finish();
    bench.machine.want(Some(Wanted::Release(release("b"))));
    bench.up_to(StepKind::Prune);
    assert!(!bench.machine.want(Some(Wanted::Release(release("c")))));
    bench.up_to(StepKind::Commit);
    assert_eq!(bench.machine.trying().unwrap().reference.name, "b");
}

#[test]
fn a_plan_that_is_another_one_after_an_update_of_the_manager_begins_anew() {
    let a = release("a");
    let mut bench = Bench::new(&a);
    bench.up_to(StepKind::Wait);
    let mut record = bench.machine.record().clone();
    let again = Machine::new(record.clone(), None, Some(Arc::clone(&a)));
    assert_eq!(again.state().done, bench.machine.state().done);
    record.attempt.as_mut().unwrap().plan += 1;
    let again = Machine::new(record, None, Some(a));
    assert_eq!(again.state().done, 0);
    assert!(again.is_torn());
}

/// What a step ends with.
fn outcome(which: u8) -> Result<(), Failure> {
    match which {
        0 => Err(away()),
        1 => Err(Failure::soon(Reason::ReleaseWebhookRefused, "it does not answer")),
        2 => Err(Failure::never(Reason::PodCrashing, "it crashes")),
        _ => Ok(()),
    }
}

proptest! {
    /// The wall clock is for people. However it jumps, forwards and back: steps, pauses and the
    /// time that an object may take are the same.
    #[test]
    fn a_clock_that_jumps_changes_nothing(
        turns in proptest::collection::vec((0u8..12, -4_000_000_000i64..4_000_000_000), 1..120),
    ) {
        let a = release("a");
        let mut still = Bench::new(&a);
        still.finish();
        still.machine.want(Some(Wanted::Release(release("b"))));
        let record = still.machine.record().clone();
        let mut jumping = Bench { machine: Machine::new(record, Some(a), None), moment: still.moment };
        jumping.machine.want(still.machine.wanted().cloned());
        for (which, second) in turns {
            jumping.moment.wall = Timestamp::from_second(second).unwrap();
            let step = still.next();
            prop_assert_eq!(&step, &jumping.next());
            prop_assert_eq!(still.machine.wake_at(), jumping.machine.wake_at());
            match (step, still.machine.wake_at()) {
                (Some(_), _) => {
                    still.on(outcome(which));
                    jumping.on(outcome(which));
                }
                (None, Some(until)) => {
                    still.moment.now = until;
                    jumping.moment.now = until;
                }
                (None, None) => break,
            }
        }
        let told = |bench: &Bench| {
            let mut state = bench.machine.state();
            state.failed.iter_mut().for_each(|failed| failed.at = Timestamp::UNIX_EPOCH);
            state
        };
        prop_assert_eq!(told(&still), told(&jumping));
    }
}
