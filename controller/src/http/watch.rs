//! `watch`: changes of a collection as they happen.
//!
//! A watch holds no queue: it remembers the version up to which it has told everything and looks
//! into the store's history when it is woken. A client that reads slowly costs nothing but, when
//! the history has moved on, its watch: it is told 410 Gone and lists again.

use super::body::{Answer, stream};
use super::negotiate::{Query, View};
use super::read::{Selection, metadata_of};
use super::{ApiError, table};
use crate::store::{Event, Gone, Shared, Store};
use bytes::Bytes;
use holdfast_api::meta::API_VERSION;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Life of a watch when the client names none.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// How often a quiet watch shows that it is alive; also how often a node's watch counts as hearing
/// of it.
const QUIET: Duration = Duration::from_secs(30);

/// What a watch asks of its surroundings each time it wakes.
pub(super) trait Guard: Send + 'static {
    /// Whether the client may go on; also counts as having heard of it.
    fn goes_on(&mut self) -> bool;
}

struct Watch<G> {
    store: Store,
    selection: Selection,
    view: View,
    guard: G,
    told: u64,
    lines: VecDeque<Bytes>,
    changed: watch::Receiver<u64>,
    revoked: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    deadline: Instant,
    bookmarks: bool,
    quiet_since: Instant,
    over: bool,
    columns_told: bool,
}

/// Begins a watch.
pub(super) fn watch<G: Guard>(
    store: &Store,
    selection: Selection,
    query: &Query,
    view: View,
    guard: G,
    revoked: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
) -> Result<Answer, ApiError> {
    let asked = query.text("resourceVersion");
    let from = query.number("resourceVersion")?.unwrap_or(0);
    let initial = match query.text("sendInitialEvents") {
        "" => asked.is_empty() || from == 0,
        text => text == "true",
    };
    let life = query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(LIFE, Duration::from_secs);
    // Subscribed before looking, so that nothing falls between.
    let changed = store.changes(selection.kind);
    let now = Instant::now();
    let mut watch = Watch {
        store: store.clone(),
        selection,
        view,
        guard,
        told: from,
        lines: VecDeque::new(),
        changed,
        revoked,
        shutdown,
        deadline: now + life.min(LIFE * 2),
        bookmarks: query.flag("allowWatchBookmarks"),
        quiet_since: now,
        over: false,
        columns_told: false,
    };
    if initial {
        let (entries, _, version) = watch.selection.page(store, None, usize::MAX);
        for entry in &entries {
            watch.tell("ADDED", entry);
        }
        watch.told = version;
        if query.flag("sendInitialEvents") {
            watch.bookmark(true);
        }
    } else {
        match store.since(watch.selection.kind, from) {
            Err(gone) => watch.gone(gone, from),
            // The client knows more than we do: this controller was restored from a backup.
            Ok((_, version)) if from > version => watch.gone(Gone { oldest: version }, from),
            Ok(_) => {}
        }
    }
    Ok(stream(futures_util::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line, watch))
    })))
}

impl<G: Guard> Watch<G> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                self.quiet_since = Instant::now();
                return Some(line);
            }
            if self.over || *self.shutdown.borrow() {
                return None;
            }
            if !self.guard.goes_on() {
                self.over = true;
                self.error(&ApiError::unauthorized());
                continue;
            }
            self.changed.mark_unchanged();
            self.catch_up();
            if !self.lines.is_empty() {
                continue;
            }
            // Only waiting: whichever comes first, the loop looks at everything again.
            tokio::select! {
                changed = self.changed.changed() => self.over = changed.is_err(),
                _ = self.shutdown.changed() => {}
                _ = self.revoked.changed() => {}
                () = tokio::time::sleep_until(self.deadline) => {
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                    self.over = true;
                }
                () = tokio::time::sleep_until(self.quiet_since + QUIET) => {
                    self.quiet_since = Instant::now();
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                }
            }
        }
    }

    fn catch_up(&mut self) {
        match self.store.since(self.selection.kind, self.told) {
            Ok((events, version)) => {
                for event in events {
                    self.tell_event(&event);
                }
                self.told = self.told.max(version);
            }
            Err(gone) => self.gone(gone, self.told),
        }
    }

    /// What the change looks like to somebody who sees only what is selected.
    fn tell_event(&mut self, event: &Event) {
        let selected =
            |entry: &Option<Shared>| entry.clone().filter(|entry| self.selection.matches(entry));
        match (selected(&event.before), selected(&event.after)) {
            (None, Some(after)) => self.tell("ADDED", &after),
            (Some(_), Some(after)) => self.tell("MODIFIED", &after),
            (Some(before), None) => {
                self.tell("DELETED", &Arc::new(before.at_version(event.version)))
            }
            (None, None) => {}
        }
    }

    fn tell(&mut self, kind: &str, entry: &Shared) {
        let line = match self.view {
            View::Objects => {
                let json = super::read::text(&self.selection.sight, entry);
                let mut line = Vec::with_capacity(json.len() + 32);
                line.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
                line.extend_from_slice(&json);
                line.extend_from_slice(b"}\n");
                Bytes::from(line)
            }
            View::Table => {
                let mut rows = table::table(self.selection.kind, std::slice::from_ref(entry), None);
                if std::mem::replace(&mut self.columns_told, true) {
                    rows["columnDefinitions"] = Value::Null;
                }
                rows["metadata"]["resourceVersion"] = entry.version.to_string().into();
                line(kind, &rows)
            }
            View::Metadata => line(kind, &metadata_of(entry)),
        };
        self.lines.push_back(line);
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut object = json!({
            "kind": self.selection.kind.name(), "apiVersion": API_VERSION,
            "metadata": {"resourceVersion": self.told.to_string(), "creationTimestamp": null},
        });
        match self.view {
            View::Objects => {}
            View::Table => {
                object = json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": [],
                    "columnDefinitions": null, "metadata": object["metadata"],
                });
            }
            View::Metadata => {
                object["kind"] = "PartialObjectMetadata".into();
                object["apiVersion"] = "meta.k8s.io/v1".into();
            }
        }
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.lines.push_back(line("BOOKMARK", &object));
    }

    fn gone(&mut self, gone: Gone, asked: u64) {
        self.over = true;
        let message = format!("too old resource version: {asked} ({})", gone.oldest);
        self.error(&ApiError::expired(message));
    }

    fn error(&mut self, error: &ApiError) {
        let status = serde_json::to_value(error.status()).unwrap_or(Value::Null);
        self.lines.push_back(line("ERROR", &status));
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}
