use super::*;
use crate::release::fake::{Fake, kept};
use crate::release::model::Good;
use crate::release::plan::StepKind;
use crate::release::target::Check;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseState};
use holdfast_api::paths::Root;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

mod killed;
mod lead;
mod look;
mod site;

type Objects<'a> = &'a [(&'a str, &'a str, &'a str)];

const ONE: Objects<'_> = &[
    ("Namespace", "space", "a"),
    ("ConfigMap", "config", "a"),
    ("Deployment", "web", "a"),
    ("Deployment", "old", "a"),
];
const TWO: Objects<'_> = &[
    ("Namespace", "space", "a"),
    ("CustomResourceDefinition", "gadgets", "b"),
    ("ConfigMap", "config", "b"),
    ("Gadget", "gadget", "b"),
    ("Deployment", "web", "b"),
    ("DaemonSet", "new", "b"),
];

/// A node and its site; the node's manager can be killed.
struct Site {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    engine: Option<(ReleaseEngine<Fake>, Releases)>,
    ahead: Duration,
    kinds: BTreeSet<StepKind>,
}

/// Where the manager is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The step is noted and was not begun.
    Before,
    /// The step was carried out and that is not noted.
    After,
}

impl Site {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        fake.put_foreign("ConfigMap", "theirs");
        Site { dir: folder(), fake, engine: None, ahead: Duration::ZERO, kinds: BTreeSet::new() }
    }

    /// A site that has the release.
    fn with(objects: Objects<'_>) -> Self {
        let mut site = Site::new();
        site.want(&kept("one", objects));
        site.run();
        assert_eq!(site.state().phase, ReleasePhase::Committed);
        site
    }

    fn engine(&mut self) -> &mut (ReleaseEngine<Fake>, Releases) {
        let paths = ClusterPaths::new(&Root::new(self.dir.path()));
        let ahead = self.ahead;
        self.engine.get_or_insert_with(|| {
            let (mut engine, handle) = ReleaseEngine::open(&paths, Arc::clone(&self.fake));
            let none = Duration::ZERO;
            engine.pace = Pace { first: none, longest: none, ..Pace::default() };
            engine.clock.ahead = ahead;
            (engine, handle)
        })
    }

    fn kill(&mut self) {
        self.engine = None;
    }

    fn want(&mut self, release: &Kept) {
        self.engine().1.want(Some(release.clone()));
    }

    fn state(&mut self) -> ReleaseState {
        self.engine().1.state()
    }

    /// Runs until nothing is left to do; pauses are skipped.
    fn run(&mut self) {
        assert!(self.run_steps(usize::MAX, Fault::After).is_none(), "it ended");
        block_on(self.engine().0.rest());
    }

    /// Runs until it pauses, or has nothing left to do.
    fn run_to_pause(&mut self) {
        for _ in 0..200 {
            let (engine, _) = self.engine();
            engine.take_wanted();
            block_on(engine.recall()).unwrap();
            let Some(step) = engine.prepare().unwrap() else { return };
            self.carry_out(&step);
        }
        panic!("it does not pause: {:?}", self.state());
    }

    fn carry_out(&mut self, step: &Step) {
        let (engine, _) = self.engine();
        let outcome = block_on(engine.execute(step)).expect("this node leads");
        engine.conclude(step, outcome);
    }

    /// Runs so many steps, then kills the manager at the next one; that step, unless the end came
    /// before.
    fn run_steps(&mut self, steps: usize, fault: Fault) -> Option<Step> {
        let mut left = steps;
        for _ in 0..2000 {
            let (engine, _) = self.engine();
            engine.take_wanted();
            block_on(engine.recall()).unwrap_or_default();
            let Some(step) = engine.prepare().unwrap() else {
                if !engine.machine.is_busy() {
                    return None;
                }
                let now = engine.clock.now();
                let until = engine.machine.wake_at().unwrap_or(now);
                engine.clock.ahead += until.saturating_duration_since(now);
                self.ahead = self.engine().0.clock.ahead;
                continue;
            };
            self.kinds.insert(step.kind());
            if left == 0 && fault == Fault::Before {
                self.kill();
                return Some(step);
            }
            let (engine, _) = self.engine();
            let outcome = block_on(engine.execute(&step)).expect("this node leads");
            if left == 0 {
                self.kill();
                return Some(step);
            }
            left -= 1;
            engine.conclude(&step, outcome);
        }
        panic!("it does not end: {:?}", self.state());
    }

    /// Nothing is on the way, and the site has what the release has and nothing more of ours.
    fn assert_has(&mut self, release: Option<(&Kept, Objects<'_>)>) {
        let want: BTreeMap<String, String> = release
            .iter()
            .flat_map(|(_, objects)| objects.iter())
            .map(|(_, name, content)| ((*name).to_owned(), (*content).to_owned()))
            .collect();
        assert_eq!(self.fake.ours(), want);
        let digest = release.map(|(kept, _)| kept.release.digest.clone());
        let record = self.engine().0.machine.record().clone();
        let digest_of = |good: Option<Good>| good.map(|good| good.release.digest);
        assert_eq!(digest_of(record.good), digest);
        assert_eq!((record.attempt, record.touched), (None, false));
        assert!(record.leftovers.is_empty());
        let world = self.fake.world().clone();
        let site = world.record.unwrap_or_default();
        assert_eq!((digest_of(site.good), site.attempt.as_str()), (digest.clone(), ""));
        assert!(site.leftovers.is_empty());
        assert!(world.pinned.iter().all(|pinned| Some(pinned) == digest.as_ref()));
        assert_eq!(self.fake.theirs().len(), 1);
    }
}

/// In memory where there is such a place: some ten thousand records are synced here.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The fake never waits.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever an object fails, and however, the last good release is in force at the end.
    #[test]
    fn a_failing_object_ends_with_the_last_good_release(at in 0..TWO.len(), how in 0..3) {
        let (kind, name, content) = TWO[at];
        // `space` is the same in both, so it cannot be applied in the last good one either.
        prop_assume!(name != "space" || how == 0);
        let mut site = Site::with(ONE);
        let mark = format!("{name}={content}");
        {
            let mut conduct = site.fake.conduct();
            match how {
                0 => conduct.refused_dry.insert(name.to_owned()),
                1 => conduct.refused.insert(mark),
                _ => conduct.crashing.insert(mark),
            };
        }
        let two = kept("two", TWO);
        site.want(&two);
        site.run();
        let waits = matches!(kind, "Deployment" | "DaemonSet" | "CustomResourceDefinition");
        if how == 2 && !waits {
            site.assert_has(Some((&two, TWO)));
        } else {
            site.assert_has(Some((&kept("one", ONE), ONE)));
        }
    }
}

#[test]
fn what_is_in_force_has_no_plan() {
    let mut site = Site::with(ONE);
    let one = kept("one", ONE);
    assert_eq!(site.engine().1.plan(&one).unwrap().steps(), []);
    assert!(!site.engine().1.plan(&kept("two", TWO)).unwrap().steps().is_empty());
    let world = site.fake.world().clone();
    site.kill();
    site.want(&one);
    site.run();
    assert_eq!(*site.fake.world(), world);
}

#[test]
fn a_version_that_failed_is_refused_until_forced() {
    let mut site = Site::with(ONE);
    site.fake.conduct().crashing.insert("new=b".into());
    let mut two = kept("two", TWO);
    site.want(&two);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::RolledBack);
    assert_eq!(site.state().reason, Some(Reason::PodCrashing));
    site.kill();
    site.fake.conduct().crashing.clear();
    site.want(&two);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Refused);
    assert_eq!(site.state().reason, Some(Reason::ReleaseRefused));
    site.assert_has(Some((&kept("one", ONE), ONE)));
    two.release.force = 1;
    site.want(&two);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Committed);
    assert_eq!(site.state().failed, []);
    site.assert_has(Some((&two, TWO)));
}

#[test]
fn a_typo_touches_nothing() {
    let mut site = Site::with(ONE);
    let snapshots = site.fake.world().snapshots;
    site.fake.conduct().refused_dry.insert("gadget".into());
    let two = kept("two", TWO);
    site.want(&two);
    site.run();
    let state = site.state();
    assert_eq!(state.phase, ReleasePhase::Refused);
    assert_eq!(state.failed[0].reason, Reason::ReleaseInvalid);
    assert_eq!(state.failed[0].message, "all.yaml, document 4: spec.typo: no such field");
    assert_eq!(site.fake.world().snapshots, snapshots);
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

#[test]
fn a_missing_image_is_refused_before_anything_is_applied() {
    let mut site = Site::with(ONE);
    site.fake.conduct().no_image = true;
    site.want(&kept("two", TWO));
    site.run();
    let state = site.state();
    assert_eq!(
        (state.phase, state.reason),
        (ReleasePhase::Refused, Some(Reason::ReleaseImageMissing))
    );
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

/// The rule of the data plane: without its images on the node it is not touched.
#[test]
fn a_data_plane_whose_images_went_meanwhile_is_not_replaced() {
    let mut site = Site::with(ONE);
    let two = kept("two", TWO);
    site.want(&two);
    loop {
        site.engine().0.take_wanted();
        let step = site.engine().0.prepare().unwrap().unwrap();
        if matches!(&step, Step::Apply(id) if id.kind == "DaemonSet") {
            site.fake.world().pinned.clear();
            let outcome = block_on(site.engine().0.execute(&step)).expect("this node leads");
            assert_eq!(outcome.as_ref().unwrap_err().reason, Reason::ReleasePrePull);
            assert!(!site.fake.ours().contains_key("new"));
            site.engine().0.conclude(&step, outcome);
            break;
        }
        site.carry_out(&step);
    }
    site.run();
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

#[test]
fn a_foreign_object_of_the_same_name_is_not_taken_over() {
    let mut site = Site::with(ONE);
    let bad = kept("bad", &[("ConfigMap", "theirs", "ours")]);
    let theirs = site.fake.theirs();
    site.want(&bad);
    site.run();
    assert_eq!(site.state().failed[0].reason, Reason::ReleaseConflict);
    assert_eq!(site.fake.theirs(), theirs);
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

#[test]
fn manifests_that_are_not_the_digests_are_refused() {
    let mut site = Site::with(ONE);
    let mut wrong = kept("two", TWO);
    wrong.manifests.insert("more.yaml".into(), String::new());
    site.want(&wrong);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Refused);
    assert_eq!(site.state().reason, Some(Reason::ReleaseInvalid));
}

/// A folder that was forgotten, a template that came out empty: nobody asked for a site with nothing.
#[test]
fn a_release_without_an_object_removes_nothing() {
    let mut site = Site::with(ONE);
    site.want(&kept("empty", &[]));
    site.run();
    let state = site.state();
    assert_eq!((state.phase, state.reason), (ReleasePhase::Refused, Some(Reason::ReleaseInvalid)));
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

/// A registry that was away is no news once something else is waited for.
#[test]
fn what_is_said_of_a_step_has_a_reason_of_its_own() {
    let mut site = Site::with(ONE);
    site.want(&kept("two", TWO));
    let pull = loop {
        site.engine().0.take_wanted();
        let step = site.engine().0.prepare().unwrap().unwrap();
        if matches!(step, Step::PrePull(_)) {
            break step;
        }
        site.carry_out(&step);
    };
    let away = Failure::always(Reason::ReleaseRegistry, "the registry is away");
    site.engine().0.conclude(&pull, Err(away));
    assert_eq!(site.state().reason, Some(Reason::ReleaseRegistry));
    block_on(site.engine().0.execute(&pull)).unwrap().unwrap();
    let state = site.state();
    assert_eq!((state.message.as_str(), state.reason), ("pulling", None));
}

/// An aggregated API whose server is gone keeps neither a release nor a rollback from its end.
#[test]
fn a_part_of_the_api_that_is_away_is_not_waited_for_without_end() {
    let mut site = Site::with(ONE);
    site.fake.conduct().answered_by = Some(("old".into(), "nobody=x".into()));
    let two = kept("two", TWO);
    site.want(&two);
    site.run();
    let state = site.state();
    let told = (ReleasePhase::Committed, Some(Reason::ReleaseLeftover));
    assert_eq!((state.phase, state.reason), told, "{state:?}");

    // The server is a workload, which is put back after the object.
    const GADGET: Objects<'_> = &[("Gadget", "gadget", "a"), ("Deployment", "web", "a")];
    let mut site = Site::with(GADGET);
    site.fake.conduct().answered_by = Some(("gadget".into(), "web=a".into()));
    site.fake.conduct().crashing.insert("web=b".into());
    site.want(&kept("two", &[("Gadget", "gadget", "a"), ("Deployment", "web", "b")]));
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::RolledBack, "{:?}", site.state());
    site.assert_has(Some((&kept("one", GADGET), GADGET)));
}

#[test]
fn what_cannot_be_removed_does_not_undo_the_release_and_is_tried_with_the_next() {
    let mut site = Site::with(ONE);
    site.fake.conduct().undeletable.insert("old".into());
    let two = kept("two", TWO);
    site.want(&two);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Committed);
    assert!(site.fake.ours().contains_key("old"));
    site.fake.conduct().undeletable.clear();
    let three = kept("three", &TWO[..3]);
    site.want(&three);
    site.run();
    site.assert_has(Some((&three, &TWO[..3])));
}

#[test]
fn a_release_that_is_wanted_in_the_middle_takes_over_and_leaves_nothing_of_the_other() {
    let three = kept("three", &TWO[..3]);
    let mut site = Site::with(ONE);
    site.want(&kept("two", TWO));
    // Into the middle of the applies.
    while site.engine().0.machine.record().leftovers.is_empty() {
        site.engine().0.take_wanted();
        let step = site.engine().0.prepare().unwrap().unwrap();
        site.carry_out(&step);
    }
    for _ in 0..5 {
        let step = site.engine().0.prepare().unwrap().unwrap();
        site.carry_out(&step);
    }
    assert!(site.fake.ours().contains_key("gadgets"));
    // It cannot be tried itself: then the last good one is put back.
    site.fake.conduct().refused_dry.insert("config".into());
    site.want(&three);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::RolledBack);
    assert_eq!(site.state().reason, Some(Reason::ReleaseInvalid));
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

#[test]
fn a_site_that_was_reset_gets_its_release_again() {
    let mut site = Site::with(ONE);
    let one = kept("one", ONE);
    site.fake.world().objects.retain(|key, _| key.name == "theirs");
    site.fake.world().record = None;
    site.kill();
    site.want(&one);
    site.run();
    site.assert_has(Some((&one, ONE)));
}

#[test]
fn a_check_that_does_not_hold_is_waited_for() {
    let mut site = Site::with(ONE);
    site.fake.conduct().unmet.insert(Check::Tunnels);
    let two = kept("two", TWO);
    site.want(&two);
    site.run_to_pause();
    assert_eq!(site.state().phase, ReleasePhase::Preflight);
    assert_eq!(site.state().reason, Some(Reason::ReleasePreflight));
    site.fake.conduct().unmet.clear();
    site.run();
    site.assert_has(Some((&two, TWO)));
}

/// A disk that is full refuses nothing: what is wanted waits for room, and is begun when there is.
#[test]
fn a_release_whose_text_cannot_be_kept_waits_for_room() {
    let mut site = Site::with(ONE);
    let two = kept("two", TWO);
    // Stands for a disk without room: no folder can be made where a file is.
    let paths = ClusterPaths::new(&Root::new(site.dir.path()));
    let place = paths.state_dir().join("releases").join(&two.release.digest);
    holdfast_durable::write(&place, b"", 0o600).unwrap();
    site.want(&two);
    for _ in 0..3 {
        assert!(!site.engine().0.take_wanted());
        assert!(block_on(site.engine().0.turn()).is_some());
        let state = site.state();
        assert_eq!((&state.wanted, state.phase), (&two.release, ReleasePhase::Waiting));
        assert_eq!((state.reason, state.failed), (Some(Reason::StateUnwritable), vec![]));
        assert_eq!(state.good, Some(kept("one", ONE).release));
    }
    holdfast_durable::remove(&place).unwrap();
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Committed);
    site.assert_has(Some((&two, TWO)));
}

/// The driver itself, with its channels.
#[tokio::test]
async fn it_runs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let paths = ClusterPaths::new(&Root::new(dir.path()));
    let (engine, handle) = ReleaseEngine::open(&paths, Arc::clone(&fake));
    let task = tokio::spawn(engine.run());
    let mut report = handle.report();
    for (name, objects) in [("one", ONE), ("two", TWO)] {
        let wanted = kept(name, objects);
        handle.want(Some(wanted.clone()));
        let in_force = |report: &Report| report.state.good.as_ref() == Some(&wanted.release);
        tokio::time::timeout(Duration::from_secs(20), report.wait_for(in_force))
            .await
            .unwrap()
            .unwrap();
    }
    assert!(report.borrow().took_ms.contains_key("Preflight"), "{:?}", report.borrow());
    drop((handle, report));
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
}
