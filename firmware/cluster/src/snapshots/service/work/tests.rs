use super::super::super::automatic::Leave;
use super::super::super::fake::Fake;
use super::super::super::restore::Source;
use super::super::{Automatic, Handle, Task, start};
use super::*;
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::{S3Target, Secret, SnapshotPolicy};
use holdfast_api::paths::Root;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The task over a [`Fake`] with a datastore of four pages.
fn begin(dir: &Path, change: impl FnOnce(&mut Settings)) -> (Arc<Fake>, Handle, Task) {
    let fake = Arc::new(Fake::below(dir));
    fake.hold(4);
    let (handle, task) = again(&fake, dir, change);
    (fake, handle, task)
}

fn again(fake: &Arc<Fake>, dir: &Path, change: impl FnOnce(&mut Settings)) -> (Handle, Task) {
    let policy = SnapshotPolicy { drill_hours: 0, ..SnapshotPolicy::default() };
    let mut settings = Settings {
        paths: ClusterPaths::new(&Root::new(dir)),
        site: "site-1".into(),
        node: "n".into(),
        single_server: true,
        policy,
    };
    change(&mut settings);
    start(settings, fake.clone())
}

async fn until(
    handle: &Handle,
    what: &str,
    is: impl Fn(&SnapshotsState) -> bool,
) -> SnapshotsState {
    let mut state = handle.state();
    let seen = tokio::time::timeout(Duration::from_secs(30), state.wait_for(|state| is(state)));
    match seen.await {
        Ok(Ok(state)) => state.clone(),
        _ => panic!("not: {what}: {:?}", handle.state().borrow().clone()),
    }
}

#[tokio::test]
async fn the_first_snapshot_is_taken_at_once_and_the_next_after_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, handle, task) = begin(dir.path(), |_| {});
    let state = until(&handle, "one is taken", |state| state.snapshots.len() == 1).await;
    assert_eq!(state.problem, None);
    let next = state.next.unwrap().duration_since(state.snapshots[0].taken);
    assert!((38_800..=43_200).contains(&next.as_secs()), "{next}");
    let taken = handle.take_now(Why::Upgrade("v1.34.0".into())).await.unwrap();
    assert_ne!(taken.name, state.snapshots[0].name);
    // A task that starts again knows them.
    drop(task);
    let (handle, _task) = again(&fake, dir.path(), |_| {});
    let again = until(&handle, "both are known", |state| state.snapshots.len() == 2).await;
    assert_eq!(again.snapshots[0].name, taken.name);
}

#[tokio::test]
async fn only_so_many_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, handle, _task) = begin(dir.path(), |settings| settings.policy.keep = 2);
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(handle.take_now(Why::Asked).await.unwrap().name);
    }
    let newest: Vec<_> = names.iter().rev().take(2).cloned().collect();
    until(&handle, "two are kept", |state| {
        state.snapshots.iter().map(|one| one.name.clone()).collect::<Vec<_>>() == newest
    })
    .await;
    let there = std::fs::read_dir(fake.paths.snapshot_dir()).unwrap().count();
    assert_eq!(there, 2);
}

#[tokio::test]
async fn a_storage_without_a_key_is_told_and_nothing_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let target = S3Target {
        endpoint: "http://127.0.0.1:1".into(),
        bucket: "b".into(),
        access_key_id: "k".into(),
        secret_access_key: Secret("s".into()),
        ..S3Target::default()
    };
    let (_fake, handle, _task) = begin(dir.path(), |settings| settings.policy.s3 = Some(target));
    let state = until(&handle, "it is told", |state| state.problem.is_some()).await;
    assert_eq!(state.problem.unwrap().reason, Reason::SnapshotNoKey);
    until(&handle, "one is kept here", |state| state.snapshots.len() == 1).await;
    handle.configure(|settings| settings.policy.s3 = None);
    until(&handle, "the problem is gone", |state| state.problem.is_none()).await;
}

#[tokio::test]
async fn a_storage_that_does_not_answer_holds_nobody_up_for_long() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = S3Target {
        endpoint: format!("http://{closed}"),
        bucket: "b".into(),
        access_key_id: "k".into(),
        secret_access_key: Secret("s".into()),
        ..S3Target::default()
    };
    let (_fake, handle, _task) = begin(dir.path(), |settings| {
        settings.policy.s3 = Some(target);
        settings.policy.recovery_key = Some(format!("age1{}", "q".repeat(58)));
    });
    let state = until(&handle, "it is told", |state| state.problem.is_some()).await;
    assert_eq!(state.problem.unwrap().reason, Reason::SnapshotUpload);
    let began = Instant::now();
    handle.take_now(Why::Asked).await.unwrap();
    handle.take_now(Why::Asked).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_datastore_that_is_not_there_is_no_problem_of_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::below(dir.path()));
    let (handle, _task) = again(&fake, dir.path(), |_| {});
    until(&handle, "it waits", |state| state.next.is_some()).await;
    assert_eq!(handle.state().borrow().problem, None);
    let error = handle.take_now(Why::Asked).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SnapshotFailed);
    let state = until(&handle, "that is told", |state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().message.contains("saving a snapshot failed"));
}

#[tokio::test]
async fn a_damaged_datastore_is_restored_once_per_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, handle, _task) = begin(dir.path(), |_| {});
    let taken = handle.take_now(Why::Asked).await.unwrap();
    until(&handle, "it is known", |state| state.snapshots.iter().any(|one| one.name == taken.name))
        .await;
    let all = handle.state().borrow().snapshots.len();
    for round in 0..all {
        fake.hold(9);
        let came = handle.datastore_damaged().await.unwrap();
        let Automatic::Restored(restored) = came else { panic!("{came:?}") };
        assert_eq!(restored.snapshot == taken.name, round == 0, "the newest first");
        assert_eq!(fake.holds(), Some(4));
    }
    let came = handle.datastore_damaged().await.unwrap();
    assert_eq!(came, Automatic::Left(Leave::AllTried));
    handle.configure(|settings| settings.single_server = false);
    let came = handle.datastore_damaged().await.unwrap();
    assert_eq!(came, Automatic::Left(Leave::OtherServers));
}

#[tokio::test]
async fn a_restore_that_was_interrupted_is_carried_on_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::below(dir.path()));
    fake.hold(4);
    let name = fake.snapshot(1, 7);
    let mut killed = Restore::new(&*fake, &fake.paths, Timestamp::UNIX_EPOCH);
    killed.kill_at_making();
    assert!(killed.run(&Source::Local(name)).await.is_err());
    assert_eq!(fake.holds(), None, "the old one is aside");
    let (handle, _task) = again(&fake, dir.path(), |_| {});
    let mut restoring = handle.restoring();
    tokio::time::timeout(Duration::from_secs(30), async {
        while fake.holds() != Some(7) || *restoring.borrow_and_update() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(handle.state().borrow().problem, None);
}

#[tokio::test]
async fn a_drill_gives_way_to_a_release() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a drill has a network namespace, which needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::below(dir.path()));
    fake.hold(4);
    fake.drills_forever.store(true, Ordering::SeqCst);
    let (handle, _task) = again(&fake, dir.path(), |settings| settings.policy.drill_hours = 1);
    let begun = fake.paths.state_dir().join("drill");
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let drills = async {
        while !begun.exists() {
            ticks.tick().await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), drills).await.is_err() {
        eprintln!("skipped: this machine has no room for a drill");
        return;
    }
    let taken = handle.take_now(Why::Release("web".into()));
    let taken = tokio::time::timeout(Duration::from_secs(20), taken).await.expect("it waits");
    assert!(taken.is_ok(), "{taken:?}");
    let state = until(&handle, "it is known", |state| state.snapshots.len() == 2).await;
    assert_eq!((state.drill, state.problem), (None, None), "one that was cut off says nothing");
}
