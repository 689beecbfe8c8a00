//! A site that was away may have become another one.

use super::*;

/// What the engine does between two moments at which it would wait; how long it would.
fn turns(site: &mut Site) -> Duration {
    for _ in 0..200 {
        let (engine, _) = site.engine();
        engine.take_wanted();
        engine.led = None;
        if let Some(pause) = block_on(engine.turn()).filter(|pause| !pause.is_zero()) {
            return pause;
        }
    }
    panic!("it does not pause: {:?}", site.state());
}

/// Committed, and whether nobody knows that it is still so.
fn told(site: &mut Site) -> (ReleasePhase, Option<Reason>) {
    let state = site.state();
    (state.phase, state.reason)
}

const AWAY: (ReleasePhase, Option<Reason>) =
    (ReleasePhase::Committed, Some(Reason::KubernetesApiUnavailable));
const IN_FORCE: (ReleasePhase, Option<Reason>) = (ReleasePhase::Committed, None);

/// A snapshot from before the release was restored; or from before one of its objects was made.
#[test]
fn what_a_restored_datastore_lacks_is_applied_as_soon_as_it_answers() {
    for remembers in [false, true] {
        let mut site = Site::with(ONE);
        turns(&mut site);
        assert_eq!(told(&mut site), IN_FORCE);
        site.fake.conduct().away = 1;
        assert_eq!(turns(&mut site), SOON);
        assert_eq!(told(&mut site), AWAY);
        site.fake.world().objects.retain(|key, _| key.name == "theirs");
        if !remembers {
            site.fake.world().record = None;
            site.fake.world().announced = None;
        }
        turns(&mut site);
        assert_eq!(told(&mut site), IN_FORCE);
        site.assert_has(Some((&kept("one", ONE), ONE)));
    }
}

/// A power cut in the middle of a restore ends the manager, too.
#[test]
fn a_manager_that_begins_looks_before_it_says_that_a_release_is_in_force() {
    let mut site = Site::with(ONE);
    site.kill();
    site.fake.world().objects.retain(|key, _| key.name != "web");
    site.want(&kept("one", ONE));
    site.engine().0.take_wanted();
    assert_eq!(told(&mut site), AWAY);
    turns(&mut site);
    assert_eq!(told(&mut site), IN_FORCE);
    site.assert_has(Some((&kept("one", ONE), ONE)));
}

/// A silence in the middle of the look is one, too.
#[test]
fn a_look_that_nobody_answers_is_made_again() {
    let mut site = Site::with(ONE);
    site.engine().0.looked = None;
    site.fake.conduct().unmet.insert(Check::ApiServer);
    assert_eq!(turns(&mut site), SOON);
    assert_eq!(told(&mut site).1, Some(Reason::ReleasePreflight));
    site.fake.conduct().unmet.clear();
    turns(&mut site);
    assert_eq!(told(&mut site), IN_FORCE);
}

/// So quick that no question fell into it.
#[test]
fn a_restore_that_nobody_noticed_is_followed_by_a_look() {
    let mut site = Site::with(ONE);
    turns(&mut site);
    site.engine().1.restoring(true);
    turns(&mut site);
    assert_eq!(told(&mut site), AWAY);
    site.fake.world().objects.retain(|key, _| key.name == "theirs");
    site.fake.world().record = None;
    site.engine().1.restoring(false);
    assert_eq!(told(&mut site), AWAY, "until it was made");
    turns(&mut site);
    assert_eq!(told(&mut site), IN_FORCE);
    site.assert_has(Some((&kept("one", ONE), ONE)));
}
