//! What local clients ask of snapshots: begun at once, followed in the state. What is refused at
//! once, as a snapshot that does not exist, is told to whoever asked.

use holdfast_api::Reason;
use holdfast_api::chain;
use holdfast_api::kubernetes::{SnapshotInfo, SnapshotsState};
use holdfast_api::local::{Problem, RestoreInput};
use holdfast_cluster::snapshots::error::SnapshotError;
use holdfast_cluster::snapshots::service::{Automatic, Others};
use holdfast_cluster::snapshots::{Handle, Source, Why};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// Who is told whether it was begun.
pub(super) type Answer = oneshot::Sender<Result<(), Problem>>;

/// A refusal that comes within this time is the answer.
/// Longer than other servers are asked whether they answer.
const SOON: Duration = Duration::from_secs(4);

/// Tells of `work` as soon as it is clear that it was begun, and waits for its end.
async fn begun<T>(
    work: impl Future<Output = Result<T, SnapshotError>>,
    answer: Answer,
) -> Result<T, SnapshotError> {
    let mut work = pin!(work);
    let soon = tokio::time::timeout(SOON, &mut work).await;
    let refused = match &soon {
        Ok(Err(error)) => Err(Problem::new(error.reason(), chain(error))),
        Ok(Ok(_)) | Err(_) => Ok(()),
    };
    // Whoever asked may have gone.
    let _gone = answer.send(refused);
    match soon {
        Ok(done) => done,
        Err(_) => work.await,
    }
}

/// An answer of the storage that takes longer is not waited for.
const STORED_WITHIN: Duration = Duration::from_secs(25);

/// Lists what the site's storage has.
pub(super) fn stored(handle: Handle, answer: oneshot::Sender<Result<Vec<SnapshotInfo>, Problem>>) {
    tokio::spawn(async move {
        let found = match tokio::time::timeout(STORED_WITHIN, handle.stored()).await {
            Ok(found) => found.map_err(|error| Problem::new(error.reason(), chain(&error))),
            Err(_) => Err(Problem::new(Reason::SnapshotUpload, "the storage does not answer")),
        };
        // Whoever asked may have gone.
        let _gone = answer.send(found);
    });
}

/// Takes a snapshot.
pub(super) fn snapshot(handle: Handle, answer: Answer) {
    tokio::spawn(async move {
        match begun(handle.take_now(Why::Asked), answer).await {
            Ok(taken) => info!(snapshot = taken.name, "snapshot taken"),
            Err(error) => warn!(reason = %error.reason(), error = chain(&error), "snapshot"),
        }
    });
}

/// Restores the newest snapshot into a datastore that is thrown away.
pub(super) fn drill(handle: Handle, answer: Answer) {
    tokio::spawn(async move {
        match begun(handle.drill_now(), answer).await {
            Ok(result) => info!(snapshot = result.snapshot, ok = result.ok, "drill"),
            Err(error) => warn!(reason = %error.reason(), error = chain(&error), "drill"),
        }
    });
}

/// Puts a snapshot back.
pub(super) fn begin(handle: Handle, input: RestoreInput, node: &str, answer: Answer) {
    let others = if input.force { Others::DoNotCount } else { Others::MustBeStopped };
    let source = source(input, &handle.state().borrow(), node);
    tokio::spawn(async move {
        match begun(handle.restore_with(source, others), answer).await {
            Ok(restored) => warn!(snapshot = restored.snapshot, "the datastore was put back"),
            Err(error) => error!(reason = %error.reason(), error = chain(&error), "restore"),
        }
    });
}

/// Puts a damaged datastore back, when that is right to do.
pub(super) fn damaged(handle: Handle) {
    tokio::spawn(async move {
        match handle.datastore_damaged().await {
            Ok(Automatic::Restored(restored)) => {
                warn!(snapshot = restored.snapshot, "the damaged datastore was put back");
            }
            Ok(Automatic::Left(why)) => warn!(?why, "the damaged datastore is left as it is"),
            Err(error) => {
                error!(reason = %error.reason(), error = chain(&error), "the datastore stays damaged");
            }
        }
    });
}

/// A path is any file. A name is one of the node's own snapshots, here or else in the storage; one
/// with the name of a node before it is in the storage.
fn source(input: RestoreInput, known: &SnapshotsState, node: &str) -> Source {
    let RestoreInput { snapshot, identity, .. } = input;
    let path = Path::new(&snapshot);
    let here = known.snapshots.iter().any(|one| one.name == snapshot && one.place == "local");
    match identity {
        None if path.is_absolute() => Source::File(path.into()),
        Some(identity) if path.is_absolute() => Source::Portable { file: path.into(), identity },
        Some(identity) if snapshot.contains('/') => Source::Stored { object: snapshot, identity },
        Some(identity) if !here && !snapshot.is_empty() => {
            Source::Stored { object: format!("{node}/{snapshot}"), identity }
        }
        _ => Source::Local(snapshot),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::Secret;
    use jiff::Timestamp;

    #[test]
    fn what_is_typed_says_where_the_snapshot_is() {
        let one = |name: &str, place: &str| SnapshotInfo {
            name: name.into(),
            taken: Timestamp::UNIX_EPOCH,
            bytes: 1,
            place: place.into(),
            portable: true,
        };
        let snapshots = vec![one("here", "local"), one("here", "s3"), one("there", "s3")];
        let known = SnapshotsState { snapshots, ..SnapshotsState::default() };
        let key = Secret("AGE-SECRET-KEY-1".into());
        let of = |snapshot: &str, identity: Option<&Secret>| {
            let identity = identity.cloned();
            source(RestoreInput { snapshot: snapshot.into(), identity, force: false }, &known, "n1")
        };
        let stored = |object: &str| Source::Stored { object: object.into(), identity: key.clone() };
        assert_eq!(of("here", None), Source::Local("here".into()));
        assert_eq!(of("here", Some(&key)), Source::Local("here".into()));
        assert_eq!(of("", Some(&key)), Source::Local(String::new()));
        assert_eq!(of("there", Some(&key)), stored("n1/there"));
        assert_eq!(of("n2/lost", Some(&key)), stored("n2/lost"));
        assert_eq!(of("/a", None), Source::File("/a".into()));
        let portable = Source::Portable { file: "/a".into(), identity: key.clone() };
        assert_eq!(of("/a", Some(&key)), portable);
    }

    #[tokio::test]
    async fn a_refusal_at_once_is_the_answer_and_a_late_one_is_not() {
        let refusal = || SnapshotError::NoneUsable { why: "none was taken yet".into() };
        let (answer, told) = oneshot::channel();
        let done = begun(async { Err::<(), _>(refusal()) }, answer).await;
        assert!(done.is_err());
        assert_eq!(told.await.unwrap().unwrap_err().reason, refusal().reason());

        let (answer, told) = oneshot::channel();
        let (go, gone) = oneshot::channel::<()>();
        let work = tokio::spawn(begun(
            async move {
                gone.await.unwrap();
                Err::<(), _>(refusal())
            },
            answer,
        ));
        assert_eq!(told.await.unwrap(), Ok(()), "it was begun");
        go.send(()).unwrap();
        assert_ne!(work.await.unwrap().unwrap_err().reason(), Reason::Internal);
    }
}
