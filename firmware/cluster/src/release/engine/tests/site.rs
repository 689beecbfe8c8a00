//! Several nodes, one site: who takes over knows what the others did.

use super::*;
use crate::release::model::Strayed;

/// Another node of the same site, which has seen nothing so far.
pub(super) fn beside(first: &Site) -> Site {
    Site { fake: Arc::clone(&first.fake), ..Site::new() }
}

impl Site {
    /// This is node `n` from now on, until another one is.
    pub(super) fn leads(&mut self, n: usize) -> &mut Self {
        self.fake.is_node(n);
        self.engine().0.has_recalled = false;
        self
    }
}

#[test]
fn another_node_that_takes_over_carries_on_from_what_the_site_remembers() {
    for steps in 0.. {
        let mut first = Site::with(ONE);
        let two = kept("two", TWO);
        first.want(&two);
        if first.run_steps(steps, Fault::After).is_none() {
            break;
        }
        // A node that has never seen this site, and that does not have the first release's text.
        let mut second = Site::new();
        second.fake = Arc::clone(&first.fake);
        second.want(&two);
        second.run();
        second.assert_has(Some((&two, TWO)));
    }
}

#[test]
fn a_node_that_does_not_lead_pulls_and_follows() {
    let mut site = Site::new();
    site.fake.conduct().is_led_by_another = true;
    let one = kept("one", ONE);
    site.want(&one);
    let (engine, handle) = site.engine();
    engine.take_wanted();
    block_on(engine.turn());
    assert_eq!(handle.state().reason, Some(Reason::ReleaseOtherManager));
    assert!(site.fake.ours().is_empty());
    assert!(site.fake.world().pinned.contains(&one.release.digest));
    site.fake.world().announced = Some(one.release.digest.clone());
    site.fake.world().pinned.insert("older".into());
    let (engine, handle) = site.engine();
    block_on(engine.turn());
    assert_eq!(handle.state().phase, ReleasePhase::Committed);
    assert_eq!(site.fake.world().pinned.len(), 1);
}

/// The mark is on the Nodes that were there when the release came into force.
#[test]
fn a_node_that_joins_later_is_told_what_is_in_force() {
    let mut site = Site::with(ONE);
    let one = kept("one", ONE);
    site.fake.world().announced = None;
    let (engine, _) = site.engine();
    let pause = block_on(engine.turn()).unwrap();
    assert_eq!(site.fake.world().announced, Some(one.release.digest));
    assert!(pause < crate::nodes::leader::TTL / 2, "the next one waits {pause:?}");
}

#[test]
fn what_failed_on_one_node_is_refused_by_the_next() {
    let mut first = Site::with(ONE);
    let two = kept("two", TWO);
    first.fake.conduct().crashing.insert("new=b".into());
    first.want(&two);
    first.run();
    assert_eq!(first.state().phase, ReleasePhase::RolledBack);
    let mut second = beside(&first);
    let before = first.fake.world().clone();
    second.leads(1).want(&two);
    second.run();
    assert_eq!(second.state().reason, Some(Reason::ReleaseRefused));
    assert_eq!(*first.fake.world(), before, "nothing was tried");
    let mut forced = two.clone();
    forced.release.force = 1;
    first.fake.conduct().crashing.clear();
    second.want(&forced);
    second.run();
    second.assert_has(Some((&forced, TWO)));
    // What came into force there did not fail, whatever is remembered here.
    first.leads(0).want(&forced);
    first.run();
    assert_eq!(first.state().failed, []);
    first.assert_has(Some((&forced, TWO)));
}

/// Refused before anything was applied: nothing else would tell the others.
#[test]
fn what_was_refused_on_one_node_is_neither_tried_nor_pulled_by_another() {
    let mut first = Site::with(ONE);
    let two = kept("two", TWO);
    first.fake.conduct().no_image = true;
    first.want(&two);
    first.run();
    assert_eq!(first.state().phase, ReleasePhase::Refused);
    first.fake.conduct().no_image = false;
    let pulls = first.fake.pulls();
    let mut second = beside(&first);
    second.leads(1).want(&two);
    second.run();
    assert_eq!(second.state().reason, Some(Reason::ReleaseRefused), "{:?}", second.state());
    let mut third = beside(&first);
    first.fake.conduct().is_led_by_another = true;
    third.leads(1).want(&two);
    third.engine().0.take_wanted();
    block_on(third.engine().0.turn());
    assert_eq!(third.state().phase, ReleasePhase::Refused, "{:?}", third.state());
    assert_eq!(first.fake.pulls(), pulls);
    third.assert_has(Some((&kept("one", ONE), ONE)));
}

/// A node with the kubelet's rights does not get to know what the site remembers.
#[test]
fn a_node_that_follows_asks_for_a_missing_image_less_and_less_often() {
    let mut site = Site::new();
    site.fake.conduct().is_led_by_another = true;
    site.fake.conduct().no_image = true;
    let mut two = kept("two", TWO);
    site.want(&two);
    site.engine().0.take_wanted();
    let follow = |site: &mut Site, secs| {
        for _ in 0..secs / SOON.as_secs() {
            block_on(site.engine().0.turn());
            let state = site.state();
            assert_eq!(state.reason, Some(Reason::ReleaseImageMissing), "{state:?}");
            site.engine().0.clock.ahead += SOON;
        }
        site.fake.pulls()
    };
    assert_eq!(follow(&mut site, 5), 1);
    assert_eq!(follow(&mut site, 75), 5, "after 5, 15, 35 and 75 seconds");
    let pulls = follow(&mut site, 600);
    assert!((14..=15).contains(&pulls), "once a minute, and never not at all: {pulls}");
    two.release.force = 1;
    site.want(&two);
    site.engine().0.take_wanted();
    assert_eq!(follow(&mut site, 5), pulls + 1, "somebody asks for it");
}

/// The site keeps the text of what is in force.
#[test]
fn a_node_that_never_saw_the_last_good_release_puts_it_back() {
    for steps in 0.. {
        let mut first = Site::with(ONE);
        let two = kept("two", TWO);
        first.fake.conduct().crashing.insert("new=b".into());
        first.want(&two);
        if first.run_steps(steps, Fault::After).is_none() {
            assert!(steps > 10);
            break;
        }
        let mut second = beside(&first);
        second.leads(1).want(&two);
        second.run();
        second.assert_has(Some((&kept("one", ONE), ONE)));
        assert_eq!(second.state().failed.len(), 1);
    }
}

#[test]
fn without_the_text_of_the_last_good_release_nobody_says_that_it_is_back() {
    let first = Site::with(ONE);
    let text = first.fake.world().text.take();
    let two = kept("two", TWO);
    first.fake.conduct().crashing.insert("new=b".into());
    let mut second = beside(&first);
    second.leads(1).want(&two);
    second.run_to_pause();
    let state = second.state();
    let told = (ReleasePhase::RollingBack, Some(Reason::ReleaseRollbackFailed));
    assert_eq!((state.phase, state.reason), told, "{state:?}");
    // Another node brought it.
    first.fake.world().text = text;
    block_on(second.engine().0.rest());
    second.run();
    second.assert_has(Some((&kept("one", ONE), ONE)));
}

/// The mark on the Node says what is in force, and its text is on the site.
#[test]
fn a_damaged_record_does_not_hide_what_is_in_force() {
    for is_gone in [false, true] {
        let first = Site::with(ONE);
        let two = kept("two", TWO);
        first.fake.conduct().crashing.insert("new=b".into());
        first.fake.conduct().unreadable = !is_gone;
        if is_gone {
            first.fake.world().record = None;
        }
        let mut second = beside(&first);
        second.leads(1).want(&two);
        second.run();
        assert_eq!(second.state().phase, ReleasePhase::RolledBack, "{:?}", second.state());
        second.assert_has(Some((&kept("one", ONE), ONE)));
    }
}

/// What the failed release shares with the one in force must not go with it.
#[test]
fn nothing_is_removed_where_nobody_knows_what_was_in_force() {
    let mut first = Site::with(ONE);
    let (two, three) = (kept("two", TWO), kept("three", &TWO[..3]));
    first.fake.conduct().crashing.insert("new=b".into());
    first.fake.conduct().unreadable = true;
    first.fake.world().text = None;
    let mut second = beside(&first);
    second.leads(1).want(&two);
    second.run_to_pause();
    let state = second.state();
    let told = (ReleasePhase::RollingBack, Some(Reason::ReleaseRecordUnreadable));
    assert_eq!((state.phase, state.reason), told, "{state:?}");
    assert!(first.fake.ours().len() >= ONE.len(), "{:?}", first.fake.ours());
    // It stays so for whoever takes over without a journal of its own, and after a restart.
    second.kill();
    second.want(&two);
    second.run_to_pause();
    let mut third = beside(&first);
    third.leads(0).want(&two);
    third.run_to_pause();
    assert!(first.fake.ours().len() >= ONE.len(), "{:?}", first.fake.ours());
    // Who has the journal knows.
    first.leads(0).run();
    first.assert_has(Some((&kept("one", ONE), ONE)));
    first.fake.conduct().crashing.clear();
    second.leads(1).want(&three);
    second.run();
    assert_eq!(second.state().phase, ReleasePhase::Committed, "{:?}", second.state());
}

/// The digest of a text says nothing of its name.
#[test]
fn the_name_of_a_text_is_that_of_the_record() {
    let first = Site::with(ONE);
    first.fake.world().text.as_mut().unwrap().release.name = "no label!".into();
    first.fake.conduct().crashing.insert("new=b".into());
    let mut second = beside(&first);
    // Fetched before by somebody who believed it.
    let damaged = first.fake.world().text.clone().unwrap();
    second.engine().0.journal.keep(&damaged).unwrap();
    second.leads(1).want(&kept("two", TWO));
    second.run();
    second.assert_has(Some((&kept("one", ONE), ONE)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Two nodes take the lead from each other in the middle of a release that fails on one of
    /// them: the site ends with one release, whole, and never with something in between.
    #[test]
    fn whoever_leads_the_site_ends_with_one_release(
        turns in proptest::collection::vec((0usize..30, any::<bool>(), any::<bool>()), 1..6),
    ) {
        let mut nodes = [Site::with(ONE), Site::new()];
        nodes[1] = beside(&nodes[0]);
        let two = kept("two", TWO);
        for (n, (steps, before, crashes)) in turns.into_iter().enumerate() {
            let node = &mut nodes[n % 2];
            node.fake.conduct().crashing.clear();
            if crashes {
                node.fake.conduct().crashing.insert("new=b".into());
            }
            node.leads(n % 2).want(&two);
            node.run_steps(steps, if before { Fault::Before } else { Fault::After });
        }
        let last = &mut nodes[0];
        last.fake.conduct().crashing.clear();
        last.leads(0).want(&two);
        last.run();
        match last.state().phase {
            ReleasePhase::Committed => last.assert_has(Some((&two, TWO))),
            _ => last.assert_has(Some((&kept("one", ONE), ONE))),
        }
    }
}

#[test]
fn a_repair_spends_no_snapshot_and_one_object_does_not_keep_the_others() {
    let mut site = Site::with(ONE);
    let one = kept("one", ONE);
    let snapshots = site.fake.world().snapshots;
    site.fake.world().objects.retain(|key, _| key.name != "web");
    site.fake.conduct().unmet.insert(Check::Tunnels);
    site.fake.conduct().refused.insert("config=a".into());
    site.want(&one);
    site.engine().0.machine.stray();
    site.run_to_pause();
    assert_eq!(site.fake.ours().get("web").map(String::as_str), Some("a"));
    let state = site.state();
    assert_eq!(state.reason, Some(Reason::ReleaseApplyRefused), "{state:?}");
    assert_eq!(site.engine().0.machine.record().strayed, Some(Strayed::Objects));
    site.fake.conduct().refused.clear();
    site.run();
    site.assert_has(Some((&one, ONE)));
    assert_eq!(site.fake.world().snapshots, snapshots);
}

#[test]
fn a_job_that_went_by_itself_is_neither_missed_nor_run_again() {
    const JOB: Objects<'_> = &[("Deployment", "web", "a"), ("Job", "once", "a")];
    let mut site = Site::new();
    let release = kept("one", JOB);
    site.want(&release);
    site.run();
    assert_eq!(site.state().phase, ReleasePhase::Committed, "{:?}", site.state());
    let engine = &mut site.engine().0;
    assert_eq!(block_on(engine.lacks_objects()), Ok(false));
    engine.machine.stray();
    site.fake.world().objects.retain(|key, _| key.name != "web");
    assert_eq!(block_on(site.engine().0.lacks_objects()), Ok(true));
    site.run();
    site.assert_has(Some((&release, &JOB[..1])));
    assert_eq!(site.fake.world().ran, BTreeMap::from([("once".to_owned(), 1)]));
}

#[test]
fn what_is_on_its_way_out_is_made_again_when_it_is_gone() {
    let mut site = Site::with(ONE);
    let two = kept("two", TWO);
    // The dry run looks once.
    site.fake.conduct().leaving = Some(("config".into(), 4));
    site.want(&two);
    site.run();
    site.assert_has(Some((&two, TWO)));
    assert_eq!(site.fake.conduct().leaving, Some(("config".into(), 0)));
}

/// The leader waits for this node with what is wanted by now.
#[tokio::test]
async fn a_node_that_pulls_for_another_hears_what_is_wanted_meanwhile() {
    let dir = folder();
    let fake = Arc::new(Fake::default());
    let paths = ClusterPaths::new(&Root::new(dir.path()));
    let (one, two) = (kept("one", ONE), kept("two", TWO));
    fake.conduct().is_led_by_another = true;
    fake.conduct().endless = Some(one.release.digest.clone());
    let (engine, handle) = ReleaseEngine::open(&paths, Arc::clone(&fake));
    let task = tokio::spawn(engine.run());
    let mut report = handle.report();
    let patience = Duration::from_secs(20);
    handle.want(Some(one));
    let pulls = |report: &Report| report.state.message == "pulling";
    tokio::time::timeout(patience, report.wait_for(pulls)).await.unwrap().unwrap();
    handle.want(Some(two.clone()));
    let waits = |report: &Report| {
        report.state.wanted == two.release && report.state.phase == ReleasePhase::Waiting
    };
    tokio::time::timeout(patience, report.wait_for(waits)).await.unwrap().unwrap();
    assert!(fake.world().pinned.contains(&two.release.digest));
    task.abort();
}

/// What a node that follows read in the middle does not count when the leader came to an end.
#[test]
fn a_node_that_watched_a_release_fail_has_nothing_to_do_when_it_leads() {
    let mut first = Site::with(ONE);
    let two = kept("two", TWO);
    first.fake.conduct().crashing.insert("new=b".into());
    let mut second = beside(&first);
    second.leads(1).want(&two);
    first.leads(0).want(&two);
    for _ in 0..200 {
        first.engine().0.take_wanted();
        let step = first.engine().0.prepare().unwrap();
        first.fake.is_node(1);
        block_on(second.engine().0.recall_to_follow());
        second.engine().0.recall_at = Instant::now();
        second.engine().0.has_recalled = false;
        first.fake.is_node(0);
        let Some(step) = step else { break };
        first.carry_out(&step);
    }
    assert_eq!(first.state().phase, ReleasePhase::RolledBack);
    assert!(!second.engine().0.machine.is_torn());
    first.fake.conduct().refused.insert("config=a".into());
    second.leads(1).run();
    assert_eq!(second.state().reason, Some(Reason::ReleaseRefused), "{:?}", second.state());
    second.assert_has(Some((&kept("one", ONE), ONE)));
}
