//! One snapshot: room first, then the distribution's program, then a look at what it left.

use super::distribution::Distribution;
use super::error::{SnapshotError, io_error};
use super::files::{self, blocking};
use super::model::{Stamp, Why};
use super::records::{Inventory, Record, Records};
use super::{etcd_file, program};
use crate::kubernetes::Api;
use crate::paths::ClusterPaths;
use jiff::Timestamp;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// How long the distribution may take. etcd writes some tens of megabytes a second even on slow
/// disks, and its own limit is 8 GiB.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How long one question to the API server may take.
const ASK_PATIENCE: Duration = Duration::from_secs(15);

/// What is counted: what no controller makes or removes by itself from one moment to the next.
const COUNTED: &[(&str, &str)] = &[
    ("namespaces", "/api/v1/namespaces"),
    ("configmaps", "/api/v1/configmaps"),
    ("secrets", "/api/v1/secrets"),
    ("services", "/api/v1/services"),
    ("deployments", "/apis/apps/v1/deployments"),
    ("daemonsets", "/apis/apps/v1/daemonsets"),
    ("customresourcedefinitions", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
];

/// What a snapshot is taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of<'a> {
    /// Site.
    pub site: &'a str,
    /// Node.
    pub node: &'a str,
    /// Its place in the order.
    pub stamp: Stamp,
    /// Why.
    pub why: &'a Why,
    /// When.
    pub now: Timestamp,
}

/// Takes one. What the distribution leaves is read once in full; one that is not whole is removed.
///
/// # Errors
/// No room, the program failed or took too long, or what it left is no snapshot.
pub async fn take(
    distribution: &dyn Distribution,
    paths: &ClusterPaths,
    of: &Of<'_>,
) -> Result<Record, SnapshotError> {
    let records = Records::new(paths);
    files::room(records.snapshot_dir(), database_bytes(paths))?;
    let base = of.stamp.base_name();
    // By requests of our own: the program takes a tenth of a second of the processor for each, and
    // a release waits for this.
    let api = Api::connect(&paths.admin_kubeconfig()).ok();
    // Counted before, so that what is deleted meanwhile is not missed later: the second count
    // below takes the smaller of both.
    let before = inventory(api.as_ref()).await;
    let command = distribution.command(&["etcd-snapshot", "save", "--name", &base]);
    program::run(command, "saving a snapshot", PATIENCE).await?;
    let after = inventory(api.as_ref()).await;
    let name = find(records.snapshot_dir(), &base)?;
    let path = records.snapshot(&name);
    let whole = blocking({
        let path = path.clone();
        move || etcd_file::verify(&path).map_err(|source| SnapshotError::Damaged { path, source })
    })
    .await;
    let whole = match whole {
        Ok(whole) => whole,
        Err(error) => {
            files::remove(&path)?;
            return Err(error);
        }
    };
    let record = Record {
        name,
        stamp: of.stamp,
        taken: of.now,
        why: of.why.clone(),
        site: of.site.into(),
        node: of.node.into(),
        version: distribution.version(),
        bytes: whole.bytes,
        sha256: whole.sha256,
        inventory: smaller(before, &after),
        damaged: None,
    };
    records.keep(&record)?;
    Ok(record)
}

/// Length of the datastore, which a snapshot does not exceed by more than its sum.
fn database_bytes(paths: &ClusterPaths) -> u64 {
    let database = paths.data_dir().join("server/db/etcd/member/snap/db");
    // Whether it is there at all the distribution says better.
    std::fs::metadata(database).map(|data| data.len()).unwrap_or_default()
}

/// The file that the distribution made out of this base name.
fn find(dir: &Path, base: &str) -> Result<String, SnapshotError> {
    let prefix = format!("{base}-");
    let entries = std::fs::read_dir(dir).map_err(io_error("read", dir))?;
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with(&prefix) && !name.ends_with(".part"))
        .ok_or_else(|| SnapshotError::NotThere { name: base.into(), dir: dir.into() })
}

/// Numbers of objects, as far as the API server tells them.
async fn inventory(api: Option<&Api>) -> Inventory {
    let mut counts = Inventory::new();
    let Some(api) = api else { return counts };
    for (kind, page) in pages() {
        note(&mut counts, kind, api.raw(&page, ASK_PATIENCE).await.ok());
    }
    counts
}

/// Kinds that are counted, and where the first page of each is.
pub(super) fn pages() -> impl Iterator<Item = (&'static str, String)> {
    COUNTED.iter().map(|(kind, path)| (*kind, format!("{path}?limit=1")))
}

/// Takes the answer to such a page. A count that is missing is not compared; the snapshot matters
/// more.
pub(super) fn note(counts: &mut Inventory, kind: &str, page: Option<Vec<u8>>) {
    match page.as_deref().and_then(count) {
        Some(count) => drop(counts.insert(kind.into(), count)),
        None => tracing::debug!(kind, "not counted"),
    }
}

/// Objects in a collection, by its first page (Kubernetes API concepts, "Retrieving large results
/// sets in chunks": `remainingItemCount`).
fn count(page: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        #[serde(default)]
        remaining_item_count: u64,
    }
    #[derive(Deserialize)]
    struct List {
        metadata: Meta,
        #[serde(default)]
        items: Option<Vec<serde::de::IgnoredAny>>,
    }
    let list: List = serde_json::from_slice(page).ok()?;
    let shown = list.items.map_or(0, |items| items.len());
    Some(list.metadata.remaining_item_count + shown as u64)
}

/// Kinds that both know, by the smaller number.
fn smaller(one: Inventory, other: &Inventory) -> Inventory {
    one.into_iter()
        .filter_map(|(kind, count)| Some((count.min(*other.get(&kind)?), kind)))
        .map(|(count, kind)| (kind, count))
        .collect()
}

/// Kinds of `want` that were not counted, for people. That says nothing about whether they are there.
pub(super) fn uncounted(want: &Inventory, have: &Inventory) -> Option<String> {
    let missing: Vec<&str> =
        want.keys().filter(|kind| !have.contains_key(*kind)).map(String::as_str).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// What `have` lacks of `want`, for people; more than wanted is fine.
pub(super) fn lacks(want: &Inventory, have: &Inventory) -> Option<String> {
    let missing: Vec<String> = want
        .iter()
        .filter_map(|(kind, want)| {
            let have = have.get(kind)?;
            (have < want).then(|| format!("{kind}: {have} of {want}"))
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_counted_by_its_first_page() {
        assert_eq!(count(br#"{"metadata":{"remainingItemCount":41},"items":[{"a":1}]}"#), Some(42));
        assert_eq!(count(br#"{"metadata":{},"items":[{}]}"#), Some(1));
        assert_eq!(count(br#"{"metadata":{},"items":null}"#), Some(0));
        assert_eq!(count(b"no"), None);
    }

    #[test]
    fn only_what_both_counts_know_is_wanted_later() {
        let inventory = |pairs: &[(&str, u64)]| -> Inventory {
            pairs.iter().map(|(kind, count)| ((*kind).into(), *count)).collect()
        };
        let want =
            smaller(inventory(&[("a", 3), ("b", 2), ("c", 1)]), &inventory(&[("a", 2), ("b", 5)]));
        assert_eq!(want, inventory(&[("a", 2), ("b", 2)]));
        assert_eq!(lacks(&want, &inventory(&[("a", 9), ("b", 2)])), None);
        let said = lacks(&want, &inventory(&[("a", 1), ("b", 0)]));
        assert_eq!(said.as_deref(), Some("a: 1 of 2, b: 0 of 2"));
        let slow = inventory(&[("a", 2)]);
        assert_eq!(lacks(&want, &slow), None, "what was not counted is not lost");
        assert_eq!(uncounted(&want, &slow).as_deref(), Some("b"));
        assert_eq!(uncounted(&want, &want), None);
    }
}
