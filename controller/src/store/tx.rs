//! One transaction: reads see its own writes, and all of it happens or nothing.

use super::entry::{self, Entry, Key, Shared};
use super::index::Index;
use super::state::State;
use holdfast_api::resources::Kind;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One write, and how to take it back.
pub(super) struct Written {
    pub(super) key: Key,
    pub(super) before: Option<Shared>,
    pub(super) version: u64,
}

/// A transaction. Lives on the writer's thread, one at a time, so it never conflicts.
pub struct Tx<'a> {
    state: &'a mut State,
    version: &'a mut u64,
    written: Vec<Written>,
    now: Timestamp,
}

impl<'a> Tx<'a> {
    pub(super) fn new(state: &'a mut State, version: &'a mut u64, now: Timestamp) -> Self {
        Tx { state, version, written: Vec::new(), now }
    }

    /// The time of this transaction.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The version that the next write gets. Grows for as long as the store exists.
    pub fn next_version(&self) -> u64 {
        *self.version + 1
    }

    /// Everything, as this transaction sees it.
    pub fn state(&self) -> &State {
        self.state
    }

    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<Shared> {
        self.state.get(key).cloned()
    }

    /// Objects of a kind in a namespace, or in all.
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> Vec<Shared> {
        self.state.list(kind, namespace, None).cloned().collect()
    }

    /// Objects that `index` finds.
    pub fn find(&self, index: Index, term: &str) -> Vec<Shared> {
        self.state.find(index, term).cloned().collect()
    }

    /// Writes an object. The same content as before is no write and keeps its version.
    pub fn put(&mut self, key: Key, value: Value, hidden: Option<String>) -> Shared {
        if let Some(have) = self.state.get(&key)
            && have.hidden == hidden
            && entry::same_content(&have.value, &value)
        {
            return have.clone();
        }
        *self.version += 1;
        let entry = Arc::new(Entry::new(key.clone(), *self.version, value, hidden));
        let before = self.state.set(&key, Some(entry.clone()));
        self.written.push(Written { key, before, version: *self.version });
        entry
    }

    /// Removes an object; answers what was there.
    pub fn delete(&mut self, key: &Key) -> Option<Shared> {
        let before = self.state.set(key, None)?;
        *self.version += 1;
        let key = key.clone();
        self.written.push(Written { key, before: Some(before.clone()), version: *self.version });
        Some(before)
    }

    /// How many writes there were; a mark for [`Tx::written_since`].
    pub fn writes(&self) -> usize {
        self.written.len()
    }

    /// What was written after the mark.
    pub fn written_since(&self, mark: usize) -> BTreeSet<Key> {
        self.written.iter().skip(mark).map(|write| write.key.clone()).collect()
    }

    /// Whether this transaction wrote (or removed) the object.
    pub fn wrote(&self, key: &Key) -> bool {
        self.written.iter().any(|write| write.key == *key)
    }

    /// The object as it was before this transaction, when the transaction wrote it.
    pub fn before(&self, key: &Key) -> Option<Shared> {
        let first = self.written.iter().find(|write| write.key == *key);
        first.and_then(|write| write.before.clone())
    }

    pub(super) fn into_written(self) -> Vec<Written> {
        self.written
    }
}

/// Takes back what was written, the last write first.
pub(super) fn roll_back(state: &mut State, written: Vec<Written>) {
    for write in written.into_iter().rev() {
        state.set(&write.key, write.before);
    }
}
