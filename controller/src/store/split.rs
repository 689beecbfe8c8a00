//! Which part of an object is configuration and which is status.
//!
//! | kind | configuration area | status area |
//! |---|---|---|
//! | `NodeStatus` | nothing | everything |
//! | `Site`, `RegionalEdge` | metadata, spec | status |
//! | all others | everything, since their status cannot be had again (uses of a token, certificates) | nothing |

use super::backend::{Loaded, Record};
use super::{Entry, Key};
use holdfast_api::resources::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The halves of an entry: configuration and status.
pub(super) fn split(entry: &Entry) -> (Option<Record>, Option<Record>) {
    let record =
        |object| Some(Record { version: entry.version, object, hidden: entry.hidden.clone() });
    let mut object = entry.value.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    match entry.key.kind {
        Kind::NodeStatus => (None, record(object)),
        Kind::Site | Kind::RegionalEdge => {
            let status = object.as_object_mut().and_then(|map| map.remove("status"));
            let uid = object.pointer("/metadata/uid").cloned();
            let half = status.map(|status| json!({"uid": uid, "status": status}));
            (record(object), half.and_then(record))
        }
        Kind::Token | Kind::Registration | Kind::NodeConfig | Kind::Release | Kind::TunnelPeer => {
            (record(object), None)
        }
    }
}

/// The entries whose halves were loaded. A status whose object is gone or was made anew is dropped.
pub(super) fn join(loaded: Loaded) -> Vec<Entry> {
    let mut statuses: BTreeMap<Key, Record> = loaded.status.into_iter().collect();
    let mut entries = Vec::with_capacity(loaded.config.len());
    for (key, mut record) in loaded.config {
        if let Some(mut half) = statuses.remove(&key)
            && half.object.get("uid") == record.object.pointer("/metadata/uid")
        {
            record.object["status"] = half.object["status"].take();
            record.version = record.version.max(half.version);
        }
        entries.push(Entry::new(key, record.version, record.object, record.hidden));
    }
    let whole = statuses.into_iter().filter(|(key, _)| key.kind == Kind::NodeStatus);
    entries.extend(whole.map(|(key, r)| Entry::new(key, r.version, r.object, r.hidden)));
    entries
}
