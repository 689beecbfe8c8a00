use super::super::model::{Local, Remote};
use super::*;
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn policy(keep: usize) -> Policy {
    Policy {
        interval: Duration::from_secs(12 * 3600),
        jitter: Duration::from_secs(600),
        keep,
        drill: Some(Duration::from_secs(168 * 3600)),
    }
}

fn local(stamp: u64, taken: i64, good: bool) -> Local {
    let name = format!("{}-n-1", Stamp(stamp).base_name());
    Local { name, stamp: Stamp(stamp), taken: at(taken), bytes: 1, good }
}

fn remote(stamp: u64) -> Remote {
    let name = format!("{}-n-1.tar.gz.age", Stamp(stamp).base_name());
    Remote { name, stamp: Stamp(stamp), stored: at(0), bytes: 1 }
}

/// What the steps make of the world. Everything succeeds.
fn apply(have: &mut Have, steps: &[Step], now: Timestamp) {
    for step in steps {
        match step {
            Step::Take { stamp, .. } => {
                have.local.push(Local { taken: now, ..local(stamp.0, 0, true) });
                have.take_failures = None;
            }
            Step::Upload(name) => {
                let stamp = Stamp::of_name(name).unwrap();
                have.remote.as_mut().unwrap().push(remote(stamp.0));
            }
            Step::DeleteLocal(name) => have.local.retain(|one| one.name != *name),
            Step::DeleteRemote(name) => {
                have.remote.as_mut().unwrap().retain(|one| one.name != *name);
            }
            Step::Drill(name) => {
                let stamp = Stamp::of_name(name).unwrap();
                have.drilled = Some(Drilled { at: now, stamp, skipped: false });
            }
        }
    }
}

fn newest_stamp(have: &Have) -> Option<Stamp> {
    let remote = have.remote.iter().flatten().map(|one| one.stamp);
    have.local.iter().map(|one| one.stamp).chain(remote).max()
}

fn takes(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Take { .. }))
}

/// So many of `before` are kept, when `keep` newest ones are to be: those, and one or two more that
/// keep a day.
fn is_kept(after: usize, before: usize, keep: usize) -> bool {
    (before.min(keep)..=keep + 2).contains(&after)
}

fn some_have() -> impl Strategy<Value = Have> {
    let moment = || 0i64..4_000_000_000;
    let one = (0u64..4_000_000_000, moment(), any::<bool>());
    let failures = || {
        proptest::option::of(
            (moment(), 1u32..40).prop_map(|(second, count)| Failures { at: at(second), count }),
        )
    };
    let drilled = proptest::option::of((moment(), 0u64..4_000_000_000, any::<bool>()).prop_map(
        |(second, stamp, skipped)| Drilled { at: at(second), stamp: Stamp(stamp), skipped },
    ));
    let stored = proptest::collection::btree_set(0u64..4_000_000_000, 0..12);
    (
        proptest::collection::vec(one, 0..12),
        proptest::option::of(stored),
        failures(),
        failures(),
        drilled,
    )
        .prop_map(|(ones, stored, take_failures, store_failures, drilled)| {
            let mut local: Vec<_> =
                ones.into_iter().map(|(stamp, taken, good)| local(stamp, taken, good)).collect();
            local.sort_by_key(|one| one.stamp);
            local.dedup_by_key(|one| one.stamp);
            let remote = stored.map(|stamps| stamps.into_iter().map(remote).collect());
            Have { local, remote, take_failures, store_failures, drilled }
        })
}

proptest! {
    /// Done twice at the same moment, the second time there is nothing to do.
    #[test]
    fn what_was_planned_and_done_is_not_planned_again(
        mut have in some_have(), keep in 1usize..8, second in 0i64..4_000_000_000,
    ) {
        let (policy, now) = (policy(keep), at(second));
        for _ in 0..3 {
            let plan = plan(&policy, &have, None, now);
            apply(&mut have, &plan.steps, now);
        }
        prop_assert_eq!(plan(&policy, &have, None, now).steps, vec![]);
    }

    /// Whatever there is and whatever the clock says: as many good ones as are to be kept stay,
    /// the newest good one among them, here and there. What cannot be ours is not touched.
    #[test]
    fn the_newest_good_ones_are_never_deleted(
        have in some_have(), keep in 1usize..8, second in 0i64..4_000_000_000,
    ) {
        let plan = plan(&policy(keep), &have, None, at(second));
        let mut after = have.clone();
        let deletes: Vec<Step> = plan
            .steps
            .into_iter()
            .filter(|step| matches!(step, Step::DeleteLocal(_) | Step::DeleteRemote(_)))
            .collect();
        apply(&mut after, &deletes, at(second));
        let newest = |have: &Have| {
            let mut all: Vec<_> = good(have).collect();
            all.sort();
            all.into_iter().rev().take(keep).collect::<Vec<_>>()
        };
        prop_assert!(is_kept(good(&after).count(), good(&have).count(), keep));
        prop_assert_eq!(newest(&after), newest(&have));
        prop_assert_eq!(after.newest_good(), have.newest_good());
        if let (Some(before), Some(after)) = (&have.remote, &after.remote) {
            let ours: Vec<&Remote> = have.believable(at(second)).collect();
            let is_ours = |one: &&Remote| ours.contains(one);
            prop_assert!(before.iter().all(|one| is_ours(&one) || after.contains(one)));
            let after: Vec<&Remote> = after.iter().filter(is_ours).collect();
            prop_assert!(is_kept(after.len(), ours.len(), keep));
            let newest = |all: &[&Remote]| all.iter().map(|one| one.stamp).max();
            prop_assert_eq!(newest(&after), newest(&ours));
        }
    }

    /// A clock that jumps, anywhere and as often as it likes: snapshots go on, in order, and what
    /// is to be kept is kept.
    #[test]
    fn a_jumping_clock_neither_stops_snapshots_nor_deletes_them(
        jumps in proptest::collection::vec(0i64..8_000_000_000, 1..40), keep in 1usize..6,
    ) {
        let policy = policy(keep);
        let mut have = Have { remote: Some(Vec::new()), ..Have::default() };
        let mut newest = None;
        let mut taken = 0;
        for second in jumps {
            let now = at(second);
            for _ in 0..3 {
                let plan = plan(&policy, &have, None, now);
                prop_assert!(plan.wake > now);
                prop_assert!(plan.next_take <= later(now, policy.interval), "{}", plan.next_take);
                taken += usize::from(takes(&plan));
                apply(&mut have, &plan.steps, now);
            }
            let kept = good(&have).count();
            prop_assert!(is_kept(kept, taken, keep), "{kept} of {taken}");
            prop_assert!(newest_stamp(&have) >= newest, "stamps go forward");
            newest = newest_stamp(&have);
            // Without a further jump the next one comes in time.
            let next = plan(&policy, &have, None, now).next_take;
            prop_assert!(takes(&plan(&policy, &have, None, next.max(now))));
        }
    }

    /// However fast snapshots follow each other: once there was one of a day before the newest,
    /// there always is one, here and there, and it is not much older than that either.
    #[test]
    fn many_releases_do_not_push_out_what_was_before_them(
        gaps in proptest::collection::vec(1u64..20_000, 1..120), keep in 1usize..6,
    ) {
        let mut have = Have { remote: Some(Vec::new()), ..Have::default() };
        let mut stamp = 1_000_000;
        for gap in gaps {
            stamp += gap;
            let now = at(i64::try_from(stamp).unwrap());
            have.local.push(local(stamp, now.as_second(), true));
            for _ in 0..2 {
                let mut steps = plan(&policy(keep), &have, None, now).steps;
                steps.retain(|step| !matches!(step, Step::Take { .. } | Step::Drill(_)));
                apply(&mut have, &steps, now);
            }
            let remote = have.remote.iter().flatten().map(|one| one.stamp.0).collect();
            for stamps in [good(&have).map(|stamp| stamp.0).collect::<Vec<_>>(), remote] {
                prop_assert!(stamps.len() <= keep + 2, "{stamps:?}");
                let age = stamps.iter().map(|one| stamp - one).filter(|age| *age >= DAY).min();
                let since_the_first = stamp - 1_000_000;
                prop_assert!(since_the_first < DAY + 20_000 || age.is_some(), "{stamps:?}");
                prop_assert!(age.is_none_or(|age| age < 2 * DAY + 40_000), "{stamps:?}");
            }
        }
    }

    /// Attempts that fail are repeated, never more than an hour later, and never at once.
    #[test]
    fn failures_slow_down_and_never_stop(count in 1u32..1000, second in 0i64..4_000_000_000) {
        let failures = Failures { at: at(second), count };
        let have = Have { take_failures: Some(failures), ..Have::default() };
        prop_assert!(!takes(&plan(&policy(5), &have, None, at(second))));
        prop_assert!(takes(&plan(&policy(5), &have, None, at(second + 3600))));
        let asked = plan(&policy(5), &have, Some(&Why::Asked), at(second));
        prop_assert!(takes(&asked), "what is asked for does not wait");
    }
}

#[test]
fn an_ordinary_day() {
    let policy = policy(2);
    let have = Have {
        local: [100, 200, 250, 300].map(|at| local(at, i64::try_from(at).unwrap(), true)).into(),
        remote: Some(vec![remote(100), remote(200), remote(250)]),
        drilled: Some(Drilled { at: at(250), stamp: Stamp(200), skipped: false }),
        ..Have::default()
    };
    let plan = plan(&policy, &have, Some(&Why::Release("edge v3".into())), at(400));
    let said: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
    assert_eq!(
        said,
        [
            "take snapshot holdfast-0000000400 (before release edge v3)",
            "store holdfast-0000000300-n-1",
            "delete holdfast-0000000200-n-1 here",
        ]
    );
    assert_eq!(plan.next_take, at(300 + 12 * 3600 - 600));
}

#[test]
fn damaged_ones_go_when_a_good_one_is_there_and_not_before() {
    let damaged = Have { local: vec![local(1, 1, false), local(3, 3, false)], ..Have::default() };
    let steps = plan(&policy(5), &damaged, None, at(10)).steps;
    assert!(matches!(&steps[..], [Step::Take { stamp: Stamp(10), .. }]), "{steps:?}");
    let mut have = damaged;
    have.local.push(local(2, 2, true));
    let steps = plan(&policy(5), &have, None, at(10)).steps;
    let gone = steps.iter().filter(|step| matches!(step, Step::DeleteLocal(_))).count();
    assert_eq!(gone, 2, "{steps:?}");
}

#[test]
fn a_lost_state_does_not_push_the_storages_snapshots_out() {
    // The clock is behind, and this node knows nothing but what the storage tells.
    let mut have = Have { remote: Some(vec![remote(900), remote(901)]), ..Have::default() };
    let first = plan(&policy(2), &have, None, at(100));
    assert!(matches!(first.steps[..], [Step::Take { stamp: Stamp(902), .. }]), "{first:?}");
    apply(&mut have, &first.steps, at(100));
    let then = plan(&policy(2), &have, None, at(101));
    assert!(then.steps.contains(&Step::Upload("holdfast-0000000902-n-1".into())), "{then:?}");
    assert!(!then.steps.iter().any(|step| matches!(step, Step::DeleteRemote(_))), "{then:?}");
}

#[test]
fn a_drill_waits_for_the_snapshot_of_the_same_pass_and_a_skipped_one_comes_back_soon() {
    let mut have = Have { local: vec![local(100, 100, true)], ..Have::default() };
    let due = at(100 + 13 * 3600);
    let both = plan(&policy(5), &have, None, due);
    assert!(takes(&both) && both.steps.len() == 1, "{both:?}");
    apply(&mut have, &both.steps, due);
    let stamp = newest_stamp(&have).unwrap();
    let steps = plan(&policy(5), &have, None, due).steps;
    assert_eq!(steps, [Step::Drill(format!("{}-n-1", stamp.base_name()))]);
    have.drilled = Some(Drilled { at: due, stamp, skipped: true });
    let plan = plan(&policy(5), &have, None, due);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.wake, later(due, SKIPPED_DRILL));
}

#[test]
fn a_storage_that_failed_is_left_alone_for_a_while() {
    let have = Have {
        local: vec![local(100, 100, true)],
        remote: Some(vec![]),
        store_failures: Some(Failures { at: at(100), count: 1 }),
        drilled: Some(Drilled { at: at(100), stamp: Stamp(100), skipped: false }),
        ..Have::default()
    };
    let waits = plan(&policy(5), &have, None, at(130));
    assert_eq!((waits.steps, waits.wake), (vec![], at(160)));
    let tries = plan(&policy(5), &have, None, at(160));
    assert!(matches!(tries.steps[..], [Step::Upload(_)]), "{tries:?}");
}

#[test]
fn objects_of_somebody_else_crowd_out_nothing() {
    let day = 86400;
    let now = 1_800_000_000;
    let mut have = Have { local: vec![local(now, 0, true)], ..Have::default() };
    have.remote = Some((0..20).map(|nth| remote(9_999_999_000 + nth)).collect());
    have.remote.as_mut().unwrap().extend([now, now - day, now - 2 * day].map(remote));
    let now = at(i64::try_from(now).unwrap());
    let steps = plan(&policy(3), &have, None, now).steps;
    assert!(!steps.iter().any(|step| matches!(step, Step::DeleteRemote(_))), "{steps:?}");
    // Days apart, they are more than are ever kept.
    let foreign = (0..20).map(|nth| remote(9_999_999_999 - nth * 2 * day));
    have.remote = Some(foreign.collect());
    let steps = plan(&policy(3), &have, None, now).steps;
    assert!(steps.iter().any(|step| matches!(step, Step::Upload(_))), "{steps:?}");
}
