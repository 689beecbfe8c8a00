//! What local clients ask of snapshots: begun at once, followed in the state.

use holdfast_api::chain;
use holdfast_api::local::RestoreInput;
use holdfast_cluster::snapshots::service::Automatic;
use holdfast_cluster::snapshots::{Handle, Source, Why};
use std::path::PathBuf;
use tracing::{error, info, warn};

/// Takes a snapshot.
pub(super) fn snapshot(handle: Handle) {
    tokio::spawn(async move {
        match handle.take_now(Why::Asked).await {
            Ok(taken) => info!(snapshot = taken.name, "snapshot taken"),
            Err(error) => warn!(reason = %error.reason(), error = chain(&error), "snapshot"),
        }
    });
}

/// Restores the newest snapshot into a datastore that is thrown away.
pub(super) fn drill(handle: Handle) {
    tokio::spawn(async move {
        match handle.drill_now().await {
            Ok(result) => info!(snapshot = result.snapshot, ok = result.ok, "drill"),
            Err(error) => warn!(reason = %error.reason(), error = chain(&error), "drill"),
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

/// Puts a snapshot back.
pub(super) fn begin(handle: Handle, input: RestoreInput) {
    tokio::spawn(async move {
        match handle.restore(source(input)).await {
            Ok(restored) => warn!(snapshot = restored.snapshot, "the datastore was put back"),
            Err(error) => error!(reason = %error.reason(), error = chain(&error), "restore"),
        }
    });
}

/// A name is one of the node's own snapshots, a path any file.
fn source(input: RestoreInput) -> Source {
    let path = PathBuf::from(&input.snapshot);
    match input.identity {
        _ if !path.is_absolute() => Source::Local(input.snapshot),
        None => Source::File(path),
        Some(identity) => Source::Portable { file: path, identity },
    }
}
