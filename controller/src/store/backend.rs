//! What a store needs of the thing that keeps its records.
//!
//! Two areas: *configuration*, which must survive anything that the disk survives, and *status*,
//! which may be lost and is then reported anew. A backend for several replicas (etcd) would
//! implement the same two methods and feed foreign changes to the writer as jobs.

use super::{Key, StoreError};
use serde_json::Value;

/// One object, or one half of it, as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The store's version at which it was written.
    pub version: u64,
    /// The object (configuration), or its metadata and status (status).
    pub object: Value,
    /// See [`super::Entry::hidden`].
    pub hidden: Option<String>,
}

/// Replaces what is at `key`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordChange {
    /// Where.
    pub key: Key,
    /// What was there, to go back to when it is unclear whether a commit happened.
    pub before: Option<Record>,
    /// What will be there.
    pub after: Option<Record>,
}

/// Changes that happen together or not at all (each area by itself).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Of the configuration area.
    pub config: Vec<RecordChange>,
    /// Of the status area.
    pub status: Vec<RecordChange>,
    /// Versions up to this one will not be given out again after a restart.
    pub reserve: Option<u64>,
}

/// Everything that is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// Highest version that may have been given out.
    pub reserved: u64,
    /// Of the configuration area.
    pub config: Vec<(Key, Record)>,
    /// Of the status area.
    pub status: Vec<(Key, Record)>,
}

/// Keeps records. Called from the writer's thread only; every method may block.
pub trait Backend: Send {
    /// Reads everything.
    ///
    /// # Errors
    /// The files cannot be opened or read.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Keeps `batch`: the configuration area durably when this returns, the status area soon.
    ///
    /// # Errors
    /// The batch did not happen and never will, even if the failure came after it reached the disk.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Makes the status area durable too. Failures are logged: status can be lost.
    fn flush(&mut self);
}

/// Keeps nothing: for tests, and for whoever wants a controller that forgets.
#[derive(Debug, Default)]
pub struct Forget;

impl Backend for Forget {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    fn commit(&mut self, _batch: &Batch) -> Result<(), StoreError> {
        Ok(())
    }

    fn flush(&mut self) {}
}
