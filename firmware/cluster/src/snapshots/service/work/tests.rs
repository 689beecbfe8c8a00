use super::super::super::automatic::Leave;
use super::super::super::fake::Fake;
use super::super::super::restore::Source;
use super::super::{Automatic, Handle, Task, start};
use super::*;
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::{S3Target, Secret, SnapshotPolicy};
use holdfast_api::paths::Root;
use std::path::Path;
use std::process::Command;
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
        other_servers: Vec::new(),
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
    let state = until(&handle, "two are kept, and the first of the day", |state| {
        let mut kept = state.snapshots.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        kept.truncate(2);
        kept == newest && state.snapshots.len() == 3
    })
    .await;
    assert!(!names[1..].contains(&state.snapshots[2].name), "{state:?}");
    let there = std::fs::read_dir(fake.paths.snapshot_dir()).unwrap().count();
    assert_eq!(there, 3);
}

#[tokio::test]
async fn a_storage_without_a_key_is_told_and_nothing_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let target = S3Target { endpoint: "http://127.0.0.1:1".into(), ..nowhere() };
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
    let target = S3Target { endpoint: format!("http://{closed}"), ..nowhere() };
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

/// A storage that has nothing, tells so to those who ask, and takes what is sent without ever
/// answering. With `silent` it answers nobody.
async fn deaf_storage(silent: bool) -> (S3Target, mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                while let Ok(1..) = stream.read(&mut head).await {
                    let method = if head.starts_with(b"GET") { "GET" } else { "other" };
                    tell.send(method.to_owned()).unwrap();
                    if silent || method != "GET" {
                        std::future::pending::<()>().await;
                    }
                    let empty =
                        "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", empty.len());
                    stream.write_all((head + empty).as_bytes()).await.unwrap();
                }
            });
        }
    });
    (S3Target { endpoint, ..nowhere() }, told)
}

/// Settings of a storage at no address.
fn nowhere() -> S3Target {
    S3Target {
        bucket: "b".into(),
        access_key_id: "k".into(),
        secret_access_key: Secret("s".into()),
        ..S3Target::default()
    }
}

#[tokio::test]
async fn a_storage_that_accepts_and_never_answers_holds_no_release_up() {
    let key = Command::new("age-keygen").output();
    let Some(key) = key.ok().and_then(|made| {
        let said = String::from_utf8(made.stderr).ok()?;
        Some(said.trim().rsplit(' ').next()?.to_owned())
    }) else {
        eprintln!("skipped: age is not installed");
        return;
    };
    for silent in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (target, mut told) = deaf_storage(silent).await;
        let (_fake, handle, _task) = begin(dir.path(), |settings| {
            settings.policy.s3 = Some(target);
            settings.policy.recovery_key = Some(key.clone());
        });
        let want = if silent { "GET" } else { "other" };
        let busy = async { while told.recv().await.unwrap() != want {} };
        tokio::time::timeout(Duration::from_secs(30), busy).await.expect("it never got so far");
        for _ in 0..3 {
            let taken = handle.take_now(Why::Release("web".into()));
            let taken = tokio::time::timeout(Duration::from_secs(20), taken).await;
            assert!(taken.expect("it waits for the storage").is_ok());
        }
        assert_eq!(handle.state().borrow().problem, None, "one that was cut off says nothing");
    }
}

#[tokio::test]
async fn nothing_is_restored_while_another_server_runs_unless_it_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let (fake, handle, _task) = begin(dir.path(), |settings| {
        (settings.single_server, settings.other_servers) = (false, vec![address]);
    });
    let taken = handle.take_now(Why::Asked).await.unwrap().name;
    fake.hold(9);
    let error = handle.restore(Source::Local(taken.clone())).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SnapshotOtherServers, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(fake.holds(), Some(9), "nothing was touched");
    let forced = handle.restore_with(Source::Local(taken.clone()), Others::DoNotCount).await;
    assert_eq!((forced.unwrap().snapshot, fake.holds()), (taken.clone(), Some(4)));
    drop(other);
    fake.hold(9);
    handle.restore(Source::Local(taken)).await.unwrap();
    assert_eq!(fake.holds(), Some(4));
}

#[tokio::test]
async fn an_operator_with_the_identity_needs_no_recovery_key_of_the_site() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = S3Target { endpoint: format!("http://{closed}"), ..nowhere() };
    let (_fake, handle, _task) = begin(dir.path(), |settings| settings.policy.s3 = Some(target));
    let source = Source::Stored { object: "n2/x".into(), identity: Secret("k".into()) };
    let error = handle.restore(source).await.unwrap_err();
    let said = chain(&error);
    assert!(said.contains("cannot fetch site-1/n2/x in the storage"), "it was not asked: {said}");
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
    let mut killed = Restore::new(&*fake, &fake.paths);
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
async fn a_restore_after_which_nobody_knows_whose_reboots_are_on_their_way_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, handle, _task) = begin(dir.path(), |_| {});
    until(&handle, "one is taken", |state| state.snapshots.len() == 1).await;
    fake.cannot_tell.store(1000, Ordering::SeqCst);
    let restored = handle.restore(Source::Local(String::new())).await.unwrap();
    assert!(restored.reboots_unknown.is_some());
    let state = until(&handle, "it is told", |state| state.problem.is_some()).await;
    assert_eq!(state.problem.unwrap().reason, Reason::SnapshotRebootsUnknown);
    fake.cannot_tell.store(0, Ordering::SeqCst);
    handle.restore(Source::Local(String::new())).await.unwrap();
    until(&handle, "the next one knows", |state| state.problem.is_none()).await;
}

#[tokio::test]
async fn a_drill_gives_way_to_a_release() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a drill has a network namespace, which needs root");
        return;
    }
    for asked in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::below(dir.path()));
        fake.hold(4);
        fake.drills_forever.store(true, Ordering::SeqCst);
        let hours = u32::from(!asked);
        let (handle, _task) =
            again(&fake, dir.path(), |settings| settings.policy.drill_hours = hours);
        until(&handle, "one is taken", |state| state.snapshots.len() == 1).await;
        let drill = asked.then(|| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.drill_now().await })
        });
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
        if let Some(drill) = drill {
            let error = drill.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("gave way"), "{error}");
        }
    }
}
