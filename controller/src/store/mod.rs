//! The store: all objects, one writer, many readers, watches.
//!
//! ```text
//!  requests ──jobs──▶ writer thread ── batch, one sync ──▶ Backend (redb files)
//!                          │ publishes what is durable
//!                          ▼
//!                  objects in memory + history of changes ◀── get, list, watch
//! ```
//!
//! A write is a closure over [`Tx`]; the writer runs the waiting ones one after the other, so they
//! never conflict, and makes all of them durable with one sync (group commit). Readers see a write
//! only after it is durable, and before it is answered. When the disk refuses, every write of the
//! batch fails and nothing of it is ever seen.
//!
//! Versions (`resourceVersion`) grow by one with each write and are never given out twice, also
//! not after a crash that lost the status area: blocks of them are reserved in the configuration
//! area, and a start begins behind the reserved block. The history begins anew with each start,
//! so that watches from before a restart are told to list again.

mod backend;
mod embedded;
mod entry;
mod error;
mod history;
mod index;
mod split;
mod state;
mod tx;
mod writer;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Batch, Forget, Loaded, Record, RecordChange};
pub use embedded::Embedded;
pub use entry::{Entry, Key, Shared};
pub use error::StoreError;
pub use history::{Event, Gone};
pub use index::{Index, OVERLAY_ANNOTATION, prefix_term};
pub use state::State;
pub use tx::Tx;

use crate::Clock;
use history::History;
use holdfast_api::resources::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use writer::Job;

/// Changes of each kind that watches can catch up with, if nobody says otherwise.
pub const HISTORY: usize = 16_384;
/// Writes that may wait; more make their senders wait.
const QUEUE: usize = 4_096;

struct Published {
    state: State,
    history: History,
    version: u64,
}

struct Inner {
    published: RwLock<Published>,
    changed: BTreeMap<Kind, watch::Sender<u64>>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl Store {
    /// Loads everything and starts the writer. `history` changes of each kind are kept for watches.
    ///
    /// # Errors
    /// The backend cannot be read.
    pub fn open(
        mut backend: impl Backend + 'static,
        clock: Clock,
        history: usize,
    ) -> Result<Store, StoreError> {
        let loaded = backend.load()?;
        let reserved = loaded.reserved;
        let mut working = State::default();
        let mut published = State::default();
        let mut newest = reserved;
        for entry in split::join(loaded).into_iter().map(Arc::new) {
            newest = newest.max(entry.version);
            working.set(&entry.key, Some(entry.clone()));
            published.set(&entry.key, Some(entry.clone()));
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            published: RwLock::new(Published {
                state: published,
                history: History::new(history, newest),
                version: newest,
            }),
            changed: Kind::ALL.iter().map(|kind| (*kind, watch::Sender::new(newest))).collect(),
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(None),
        });
        let writer =
            writer::Writer::new(working, newest, Box::new(backend), clock, Arc::downgrade(&inner));
        let timer = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|source| StoreError::Thread { source: Arc::new(source) })?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue, &timer))
            .map_err(|source| StoreError::Thread { source: Arc::new(source) })?;
        *inner.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Store(inner))
    }

    /// Runs `change` as a transaction and waits until it is durable and visible.
    ///
    /// # Errors
    /// What `change` answers (nothing of it then happened), or the store's own failure as `E`.
    pub async fn write<R, E>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = writer::job(change, answer);
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.ok_or(StoreError::Closed)?;
        jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<Shared> {
        self.read(|state, _| state.get(key).cloned())
    }

    /// Looks at everything at one version. Keep it short: writes wait meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State, u64) -> R) -> R {
        let published = self.0.published.read().unwrap_or_else(PoisonError::into_inner);
        look(&published.state, published.version)
    }

    /// Changes of a kind after `version`, and the version up to which they go.
    ///
    /// # Errors
    /// Some of them are no longer kept.
    pub fn since(&self, kind: Kind, version: u64) -> Result<(Vec<Arc<Event>>, u64), Gone> {
        let published = self.0.published.read().unwrap_or_else(PoisonError::into_inner);
        Ok((published.history.since(kind, version)?, published.version))
    }

    /// Tells when objects of a kind change.
    pub fn changes(&self, kind: Kind) -> watch::Receiver<u64> {
        match self.0.changed.get(&kind) {
            Some(sender) => sender.subscribe(),
            None => watch::Sender::new(0).subscribe(),
        }
    }

    /// Ends the writer after what waits is done and synced. Later writes fail.
    pub fn close(&self) {
        drop(self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}
