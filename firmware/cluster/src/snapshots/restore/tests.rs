use super::super::bundle;
use super::super::etcd_file;
use super::super::fake::{DOES_NOT_START, Fake};
use super::super::files::is_there;
use super::super::records::Records;
use super::apply::{Restore, fits_for_tests, recover};
use super::*;
use holdfast_api::chain;
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

const OLD: u64 = 4;
const NEW: u64 = 7;

fn restore(fake: &Fake) -> Restore<'_> {
    Restore::new(fake, &fake.paths)
}

/// A node with a datastore, and a snapshot of so many pages.
fn node(dir: &Path, pages: u64) -> (Fake, String) {
    let fake = Fake::below(dir);
    fake.hold(OLD);
    let name = fake.snapshot(1, pages);
    (fake, name)
}

/// Nothing of a restore is left but its result.
fn assert_settled(fake: &Fake, what: &str) {
    let aside = fake.paths.data_dir().join("server/db/etcd.before-restore");
    assert!(!is_there(&aside), "{what}: the old datastore is still beside the new one");
    assert_eq!(pending(&fake.paths).unwrap(), None, "{what}");
    assert!(!fake.is_paused(), "{what}: the distribution is kept stopped");
    assert!(!is_there(&fake.paths.state_dir().join("restore")), "{what}: staged files stay");
}

fn age() -> Option<(Secret, String)> {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let made = Command::new("age-keygen").arg("-o").arg(&key).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: age is not installed");
        return None;
    }
    let public = Command::new("age-keygen").arg("-y").arg(&key).output().unwrap();
    let identity = Secret(std::fs::read_to_string(&key).unwrap());
    Some((identity, String::from_utf8(public.stdout).unwrap().trim().into()))
}

#[tokio::test]
async fn the_datastore_is_that_of_the_snapshot_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    let restored = restore(&fake).run(&Source::Local(String::new())).await.unwrap();
    assert_eq!((restored.snapshot, fake.holds()), (name.clone(), Some(NEW)));
    assert_settled(&fake, "restored");
    // k3s left the mark of a reset; the next one is not kept from working.
    fake.hold(OLD);
    restore(&fake).run(&Source::Local(name)).await.unwrap();
    assert_eq!(fake.holds(), Some(NEW));
}

#[tokio::test]
async fn a_datastore_that_does_not_come_up_makes_room_for_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), DOES_NOT_START);
    let error = restore(&fake).run(&Source::Local(name.clone())).await.unwrap_err();
    assert!(matches!(error, SnapshotError::PutBack(_)), "{error}");
    assert!(chain(&error).ends_with("the datastore is damaged"), "{}", chain(&error));
    assert_eq!(fake.holds(), Some(OLD));
    assert_settled(&fake, "put back");

    fake.breaks.store(true, Ordering::SeqCst);
    let error = restore(&fake).run(&Source::Local(name)).await.unwrap_err();
    let SnapshotError::PutBack(cause) = error else { panic!("{error}") };
    assert!(matches!(*cause, SnapshotError::Failed { attempt: "restoring a snapshot", .. }));
    assert_eq!(fake.holds(), Some(OLD));
    assert_settled(&fake, "put back");
}

#[tokio::test]
async fn a_bad_source_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    let torn = dir.path().join("torn");
    holdfast_durable::write(&torn, &etcd_file::sample(NEW)[..9000], 0o600).unwrap();
    let refused = restore(&fake).run(&Source::File(torn)).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Damaged { .. }), "{refused}");
    let refused = restore(&fake).run(&Source::Local("holdfast-9-n".into())).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::NoneUsable { .. }), "{refused}");

    let records = Records::new(&fake.paths);
    let mut record = records.observe().unwrap().remove(0);
    record.version = "v1.34.0+k3s1".into();
    records.keep(&record).unwrap();
    let refused = restore(&fake).run(&Source::Local(name.clone())).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Newer { .. }), "{refused}");
    // Of the right length, and other than it was when it was taken.
    record.version = String::new();
    record.sha256 = "00".repeat(32);
    records.keep(&record).unwrap();
    let refused = restore(&fake).run(&Source::Local(name)).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Damaged { .. }), "{refused}");

    assert_eq!(fake.holds(), Some(OLD));
    assert_settled(&fake, "refused");
}

#[test]
fn older_versions_fit_and_newer_ones_do_not() {
    for (of, here) in [("v1.30.2+k3s1", "v1.33.1+k3s1"), ("", "v1.30.1"), ("v1.33.9", "v1.33.1")] {
        assert!(fits_for_tests(of, here), "{of} {here}");
    }
    assert!(!fits_for_tests("v1.34.0+k3s1", "v1.33.1+k3s1"));
    assert!(!fits_for_tests("v2.0.0", "v1.99.0"));
}

/// Killed before and after the work of every phase, with a datastore that comes up and one that
/// does not: the next start ends in the old or in the new one, and Kubernetes runs. A phase that is
/// not reached by any of these fails the test.
#[tokio::test]
async fn a_kill_at_any_phase_ends_in_the_old_or_the_new_datastore() {
    for phase in Phase::ALL {
        for after in [false, true] {
            let mut reached = false;
            for pages in [NEW, DOES_NOT_START] {
                let dir = tempfile::tempdir().unwrap();
                let (fake, name) = node(dir.path(), pages);
                let what = format!("{phase:?}, after its work: {after}, pages: {pages}");
                let mut killed = restore(&fake);
                killed.killed_at = Some((phase, after));
                let result = killed.run(&Source::Local(name)).await;
                if !matches!(result, Err(SnapshotError::Ended)) {
                    continue;
                }
                reached = true;
                assert!(pending(&fake.paths).unwrap().is_some(), "{what}");
                let recovered = recover(&restore(&fake)).await;
                let want = if pages == NEW { NEW } else { OLD };
                assert_eq!(fake.holds(), Some(want), "{what}: {recovered:?}");
                let forgot = fake.forgot.load(Ordering::SeqCst);
                assert_eq!(forgot > 0, pages == NEW, "{what}: {forgot}");
                assert_settled(&fake, &what);
            }
            assert!(reached, "nothing is killed at {phase:?}, after its work: {after}");
        }
    }
}

#[tokio::test]
async fn a_restore_that_is_interrupted_again_and_again_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    let mut killed = restore(&fake);
    killed.killed_at = Some((Phase::Trying, false));
    let source = Source::Local(name);
    assert!(matches!(killed.run(&source).await, Err(SnapshotError::Ended)));
    for _ in 1..ATTEMPTS {
        assert!(matches!(recover(&killed).await, Err(SnapshotError::Ended)));
        assert_eq!(pending(&fake.paths).unwrap().unwrap().phase, Phase::Trying);
    }
    let error = recover(&killed).await.unwrap_err();
    assert!(matches!(error, SnapshotError::PutBack(_)), "{error}");
    assert_eq!(fake.holds(), Some(OLD));
    assert_settled(&fake, "given up");
}

#[tokio::test]
async fn a_datastore_that_somebody_started_meanwhile_is_not_taken_for_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), DOES_NOT_START);
    let mut killed = restore(&fake);
    killed.killed_at = Some((Phase::SettingAside, true));
    assert!(matches!(killed.run(&Source::Local(name)).await, Err(SnapshotError::Ended)));
    // A unit starts k3s at boot, before the manager: an empty datastore.
    fake.hold(2);
    let error = recover(&restore(&fake)).await.unwrap_err();
    assert!(matches!(error, SnapshotError::PutBack(_)), "{error}");
    assert_eq!(fake.holds(), Some(OLD));
}

#[tokio::test]
async fn an_old_datastore_whose_journal_was_lost_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, _) = node(dir.path(), NEW);
    let place = fake.paths.data_dir().join("server/db/etcd");
    std::fs::rename(&place, place.with_file_name("etcd.before-restore")).unwrap();
    assert_eq!(recover(&restore(&fake)).await.unwrap(), None);
    assert_eq!(fake.holds(), Some(OLD));
}

#[tokio::test]
async fn an_old_datastore_whose_journal_is_damaged_twice_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    let mut killed = restore(&fake);
    killed.killed_at = Some((Phase::SettingAside, true));
    assert!(matches!(killed.run(&Source::Local(name)).await, Err(SnapshotError::Ended)));
    for copy in std::fs::read_dir(fake.paths.state_dir()).unwrap().flatten() {
        if copy.file_name().to_string_lossy().starts_with("restore.json") {
            holdfast_durable::write(&copy.path(), b"torn", 0o600).unwrap();
        }
    }
    let error = recover(&restore(&fake)).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Journal(_)), "{error}");
    assert_eq!(fake.holds(), Some(OLD));
    assert_settled(&fake, "told once");
}

#[tokio::test]
async fn reboots_are_forgotten_once_the_api_server_answers_and_at_the_next_start_at_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    fake.cannot_forget.store(3, Ordering::SeqCst);
    restore(&fake).run(&Source::Local(name.clone())).await.unwrap();
    assert_eq!(fake.forgot.load(Ordering::SeqCst), 1);
    assert_settled(&fake, "restored");

    fake.hold(OLD);
    fake.cannot_forget.store(1000, Ordering::SeqCst);
    restore(&fake).run(&Source::Local(name.clone())).await.unwrap();
    assert_eq!(pending(&fake.paths).unwrap().unwrap().phase, Phase::Forgetting);
    fake.cannot_forget.store(0, Ordering::SeqCst);
    recover(&restore(&fake)).await.unwrap();
    assert_eq!((fake.forgot.load(Ordering::SeqCst), fake.holds()), (2, Some(NEW)));
    assert_settled(&fake, "forgotten");

    // The lock that is held at the next start is of a reboot that is under way.
    fake.hold(OLD);
    fake.cannot_forget.store(1000, Ordering::SeqCst);
    restore(&fake).run(&Source::Local(name)).await.unwrap();
    fake.cannot_forget.store(0, Ordering::SeqCst);
    fake.lock.store(2, Ordering::SeqCst);
    recover(&restore(&fake)).await.unwrap();
    assert_eq!(fake.forgot.load(Ordering::SeqCst), 2);
    assert_settled(&fake, "left");
}

#[tokio::test]
async fn what_is_asked_too_late_is_not_taken_for_the_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    fake.cannot_tell.store(3, Ordering::SeqCst);
    let restored = restore(&fake).run(&Source::Local(name.clone())).await.unwrap();
    assert_eq!((restored.reboots_unknown, fake.forgot.load(Ordering::SeqCst)), (None, 1));

    fake.hold(OLD);
    fake.cannot_tell.store(1000, Ordering::SeqCst);
    let restored = restore(&fake).run(&Source::Local(name)).await.unwrap();
    let why = restored.reboots_unknown.unwrap();
    assert!(why.ends_with("it does not answer"), "{why}");
    assert_eq!(fake.holds(), Some(NEW));
    assert_settled(&fake, "restored");
    // Weeks later.
    fake.cannot_tell.store(0, Ordering::SeqCst);
    assert_eq!(recover(&restore(&fake)).await.unwrap(), None);
    assert_eq!(fake.forgot.load(Ordering::SeqCst), 1);
}

#[test]
fn a_journal_of_an_earlier_manager_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, name) = node(dir.path(), NEW);
    let journal = serde_json::json!({
        "phase": "Trying", "snapshot": name, "file": "f", "items": [],
        "began": "2026-11-01T00:00:00Z",
    });
    slots(&fake.paths).store(&Some(journal)).unwrap();
    assert_eq!(pending(&fake.paths).unwrap().unwrap().snapshot, name);
}

#[tokio::test]
async fn other_hardware_gets_token_and_authorities_and_is_as_before_when_it_fails() {
    let Some((identity, public)) = age() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portable.tar.gz.age");
    for (pages, works) in [(NEW, true), (DOES_NOT_START, false)] {
        let first = Fake::below(&dir.path().join(format!("first{pages}")));
        first.hold(OLD);
        first.secret("server/token", "K10abc::server:first");
        first.secret("server/tls/server-ca.key", "the first authority");
        first.secret("server/tls/client-admin.key", "made anew");
        let name = first.snapshot(1, pages);
        let record = Records::new(&first.paths).observe().unwrap().remove(0);
        bundle::pack(&first.paths, &record, &public, &file).await.unwrap();

        let second = Fake::below(&dir.path().join(format!("second{pages}")));
        second.hold(OLD);
        second.secret("server/token", "K10def::server:second");
        second.secret("server/tls/server-ca.key", "another authority");
        let source = Source::Portable { file: file.clone(), identity: identity.clone() };
        let result = restore(&second).run(&source).await;
        assert_settled(&second, "portable");
        let token = second.read("server/token").unwrap();
        let authority = second.read("server/tls/server-ca.key").unwrap();
        if works {
            assert_eq!(result.unwrap().snapshot, name);
            assert_eq!(second.holds(), Some(NEW));
            assert_eq!(
                (token.as_str(), authority.as_str()),
                ("K10abc::server:first", "the first authority")
            );
            assert_eq!(second.read("server/tls/client-admin.key"), None);
        } else {
            assert!(matches!(result, Err(SnapshotError::PutBack(_))), "{result:?}");
            assert_eq!(second.holds(), Some(OLD));
            assert_eq!(
                (token.as_str(), authority.as_str()),
                ("K10def::server:second", "another authority")
            );
        }
        // One whose site was made anew: k3s would not open this datastore with its token.
        let config = second.paths.config_dir().join("config.yaml.d/60-holdfast.yaml");
        holdfast_durable::write(&config, b"token: of-the-new-site\n", 0o600).unwrap();
        let held = second.holds();
        let error = restore(&second).run(&source).await.unwrap_err();
        assert_eq!(error.reason(), holdfast_api::Reason::SnapshotOtherToken, "{error}");
        assert_eq!(second.holds(), held);
        assert_settled(&second, "refused");
        // Bare hardware.
        let bare = Fake::below(&dir.path().join(format!("bare{pages}")));
        let result = restore(&bare).run(&source).await;
        assert_eq!(result.is_ok(), works, "{result:?}");
        assert_eq!(bare.holds(), works.then_some(NEW));
        assert_eq!(bare.read("server/token").is_some(), works);
    }
}

proptest! {
    /// Whatever works and fails: the machine ends, and it ends by keeping or by putting back.
    #[test]
    fn the_machine_ends(results in proptest::collection::vec(any::<bool>(), 12)) {
        let mut phase = Phase::Checked;
        let mut seen = vec![phase];
        for done in results {
            match phase.after(done) {
                Some(next) => phase = next,
                None => break,
            }
            prop_assert!(!seen.contains(&phase), "{phase:?} twice");
            seen.push(phase);
        }
        prop_assert!(matches!(phase, Phase::Checked | Phase::Forgetting | Phase::PuttingBack));
        // Once something was set aside, it is cleared away or put back.
        if seen.contains(&Phase::SettingAside) {
            prop_assert!(phase != Phase::Checked);
        }
    }
}
