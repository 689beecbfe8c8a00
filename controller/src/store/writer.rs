//! The writer: one thread that runs transactions and makes them durable in batches.

use super::backend::{Backend, Batch, Record, RecordChange};
use super::entry::{Key, Shared};
use super::history::Event;
use super::split::split;
use super::state::State;
use super::tx::{Tx, Written, roll_back};
use super::{Inner, StoreError};
use crate::Clock;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Transactions made durable by one sync.
const BATCH: usize = 512;
/// Versions reserved at a time.
const RESERVE: u64 = 10_000;
/// How long written status may stay unsynced.
const SYNC_STATUS: Duration = Duration::from_secs(2);

/// Tells the sender how it ended; called after the batch's commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs the transaction. `Err`: it refused, nothing of it stays.
pub(super) type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (bool, Answer) + Send>;

/// Packs a change and the place where its answer goes.
pub(super) fn job<R, E>(
    change: impl FnOnce(&mut Tx<'_>) -> Result<R, E> + Send + 'static,
    answer: oneshot::Sender<Result<R, E>>,
) -> Job
where
    R: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    Box::new(move |tx| {
        let result = change(tx);
        let keep = result.is_ok();
        // Whoever asked may be gone meanwhile; the write stands all the same.
        let tell: Answer = Box::new(move |committed| {
            let _ = answer.send(committed.map_err(E::from).and(result));
        });
        (keep, tell)
    })
}

pub(super) struct Writer {
    state: State,
    version: u64,
    reserved: u64,
    backend: Box<dyn Backend>,
    clock: Clock,
    inner: Weak<Inner>,
    unsynced_since: Option<Instant>,
}

/// What one object was before the batch, and is after it.
type Changes = BTreeMap<Key, (Option<Shared>, Option<Shared>)>;

impl Writer {
    pub(super) fn new(
        state: State,
        version: u64,
        backend: Box<dyn Backend>,
        clock: Clock,
        inner: Weak<Inner>,
    ) -> Self {
        Writer { state, version, reserved: version, backend, clock, inner, unsynced_since: None }
    }

    /// Works until the queue is closed. `timer` only waits here.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>, timer: &tokio::runtime::Runtime) {
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            let next = match self.unsynced_since {
                None => queue.blocking_recv(),
                Some(since) => {
                    let left = SYNC_STATUS.saturating_sub(since.elapsed());
                    let next = async { tokio::time::timeout(left, queue.recv()).await };
                    match timer.block_on(next) {
                        Ok(next) => next,
                        Err(_) => {
                            self.sync_status();
                            continue;
                        }
                    }
                }
            };
            let Some(first) = next else { break };
            jobs.push(first);
            while jobs.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                jobs.push(next);
            }
            self.run_batch(&mut jobs);
        }
        if self.unsynced_since.is_some() {
            self.sync_status();
        }
    }

    fn sync_status(&mut self) {
        self.backend.flush();
        self.unsynced_since = None;
    }

    fn run_batch(&mut self, jobs: &mut Vec<Job>) {
        let now = (self.clock)();
        let before = self.version;
        let mut undo = Vec::new();
        let mut answers = Vec::with_capacity(jobs.len());
        // Changes in the order in which they happened, one per object and transaction.
        let mut events: Vec<(Key, Event)> = Vec::new();
        for job in jobs.drain(..) {
            let mut tx = Tx::new(&mut self.state, &mut self.version, now);
            let (keep, answer) = job(&mut tx);
            let written = tx.into_written();
            // A refusal waits for the commit too: it may rest on a write that then fails.
            answers.push(answer);
            if keep {
                events.extend(self.events(&written));
                undo.extend(written);
            } else {
                roll_back(&mut self.state, written);
            }
        }
        let result = self.commit(&events);
        match &result {
            // Versions that nobody has seen were not given out.
            Ok(()) if events.is_empty() => self.version = before,
            Ok(()) => self.publish(events),
            Err(error) => {
                tracing::error!(%error, "writes were refused");
                roll_back(&mut self.state, undo);
            }
        }
        for answer in answers {
            answer(result.clone());
        }
    }

    /// One event per object that a transaction wrote, however often it wrote it.
    fn events(&self, written: &[Written]) -> Vec<(Key, Event)> {
        let mut first_and_last: BTreeMap<&Key, (&Written, u64)> = BTreeMap::new();
        for write in written {
            first_and_last.entry(&write.key).or_insert((write, 0)).1 = write.version;
        }
        let mut events: Vec<_> = first_and_last
            .into_iter()
            .map(|(key, (first, version))| {
                let after = self.state.get(key).cloned();
                (key.clone(), Event { version, before: first.before.clone(), after })
            })
            .filter(|(_, event)| event.before.is_some() || event.after.is_some())
            .collect();
        events.sort_by_key(|(_, event)| event.version);
        events
    }

    fn commit(&mut self, events: &[(Key, Event)]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::new();
        for (key, event) in events {
            let change = changes.entry(key.clone()).or_insert((event.before.clone(), None));
            change.1.clone_from(&event.after);
        }
        let mut batch = batch(changes);
        let reserve = self.version.next_multiple_of(RESERVE) + RESERVE;
        if self.version >= self.reserved {
            batch.reserve = Some(reserve);
        }
        self.backend.commit(&batch)?;
        if batch.reserve.is_some() {
            self.reserved = reserve;
        }
        if !batch.status.is_empty() {
            let since = *self.unsynced_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= SYNC_STATUS {
                self.sync_status();
            }
        }
        Ok(())
    }

    fn publish(&self, events: Vec<(Key, Event)>) {
        let Some(inner) = self.inner.upgrade() else { return };
        let kinds: BTreeSet<_> = events.iter().map(|(key, _)| key.kind).collect();
        {
            let mut published = inner.published.write().unwrap_or_else(PoisonError::into_inner);
            for (key, event) in events {
                published.state.set(&key, event.after.clone());
                published.history.push(key.kind, event);
            }
            published.version = self.version;
        }
        for kind in kinds {
            if let Some(changed) = inner.changed.get(&kind) {
                changed.send_replace(self.version);
            }
        }
    }
}

fn content(record: &Option<Record>) -> Option<(&Value, &Option<String>)> {
    record.as_ref().map(|record| (&record.object, &record.hidden))
}

/// The records that differ. A change of status alone writes nothing to the configuration area.
fn batch(changes: Changes) -> Batch {
    let mut batch = Batch::default();
    for (key, (before, after)) in changes {
        let (config_before, status_before) = before.map_or((None, None), |entry| split(&entry));
        let (config_after, status_after) = after.map_or((None, None), |entry| split(&entry));
        if content(&config_before) != content(&config_after) {
            let key = key.clone();
            batch.config.push(RecordChange { key, before: config_before, after: config_after });
        }
        if content(&status_before) != content(&status_after) {
            batch.status.push(RecordChange { key, before: status_before, after: status_after });
        }
    }
    batch
}
