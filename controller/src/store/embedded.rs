//! The embedded backend: two `redb` files in one directory.
//!
//! `config.redb` is synced by every commit. `status.redb` is written by every commit and synced
//! now and then; it may be deleted while the controller is stopped, and one that cannot be opened
//! is put aside under another name and begun anew.
//!
//! redb refuses all further work on a database whose disk failed once, and it is then unknown
//! whether the failed transaction reached the disk. So the database is closed on failure, and the
//! next commit opens it again and first puts back what the failed one may have changed.

use super::backend::{Backend, Batch, Loaded, Record, RecordChange};
use super::{Key, StoreError};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Version of the layout; a file with a higher one is refused.
const FORMAT: u64 = 1;
/// All objects are in memory anyway.
const CACHE_BYTES: usize = 8 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    v: u64,
    o: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    h: Option<String>,
}

struct File {
    path: PathBuf,
    database: Option<Database>,
    /// What the last, failed commit may have left behind, and what was there before it.
    unsure: Vec<(Key, Option<Record>)>,
}

/// The embedded backend.
pub struct Embedded {
    config: File,
    status: File,
}

impl Embedded {
    /// The backend in `dir`, which must exist. Files are opened by [`Backend::load`].
    pub fn new(dir: &Path) -> Self {
        let file = |name: &str| File { path: dir.join(name), database: None, unsure: Vec::new() };
        Embedded { config: file("config.redb"), status: file("status.redb") }
    }
}

impl Backend for Embedded {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let (reserved, config) = self.config.load()?;
        let status = match self.status.load() {
            Ok((_, status)) => status,
            Err(error) if error.disk_full() => return Err(error),
            Err(error @ StoreError::Locked { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the status file is damaged; status will be reported anew");
                self.status.put_aside()?;
                Vec::new()
            }
        };
        Ok(Loaded { reserved, config, status })
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if !batch.config.is_empty() || batch.reserve.is_some() {
            self.config.commit(&batch.config, batch.reserve, Durability::Immediate)?;
        }
        if !batch.status.is_empty()
            && let Err(error) = self.status.commit(&batch.status, None, Durability::None)
        {
            // The configuration half is acknowledged already, and status may be lost.
            tracing::warn!(%error, "status was not written; it is kept in memory only");
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Err(error) = self.status.commit(&[], None, Durability::Immediate) {
            tracing::warn!(%error, "the status file was not synced");
        }
    }
}

impl File {
    fn fail(&self, attempt: &'static str, error: impl Into<redb::Error>) -> StoreError {
        StoreError::from_redb(attempt, &self.path, error.into())
    }

    fn open(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            let database = redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create(&self.path)
                .map_err(|error| self.fail("open", error))?;
            self.database = Some(database);
        }
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    fn load(&mut self) -> Result<(u64, Vec<(Key, Record)>), StoreError> {
        self.prepare()?;
        let read = || -> Result<(u64, Vec<(Key, Record)>), redb::Error> {
            let Some(database) = &self.database else { return Ok((0, Vec::new())) };
            let transaction = database.begin_read()?;
            let reserved = transaction.open_table(META)?.get("reserved")?.map_or(0, |v| v.value());
            let mut records = Vec::new();
            for item in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = item?;
                let kept = serde_json::from_slice::<Kept>(value.value());
                match (Key::from_record(key.value()), kept) {
                    (Some(key), Ok(kept)) => {
                        records.push((
                            key,
                            Record { version: kept.v, object: kept.o, hidden: kept.h },
                        ));
                    }
                    // Left where it is, for a version that knows it.
                    _ => tracing::warn!(record = key.value(), "not understood, passed over"),
                }
            }
            Ok((reserved, records))
        };
        read().map_err(|error| self.fail("read", error))
    }

    /// Makes the tables, so that reading finds them, and refuses the files of newer versions.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let database = self.open()?;
        let make = || -> Result<u64, redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(OBJECTS)?;
            let format = {
                let mut meta = transaction.open_table(META)?;
                let format = meta.get("format")?.map(|v| v.value());
                if format.is_none() {
                    meta.insert("format", FORMAT)?;
                }
                format.unwrap_or(FORMAT)
            };
            transaction.commit()?;
            Ok(format)
        };
        let format = make().map_err(|error| self.fail("prepare", error))?;
        if format > FORMAT {
            return Err(StoreError::Newer { path: self.path.clone(), format });
        }
        Ok(())
    }

    fn commit(
        &mut self,
        changes: &[RecordChange],
        reserve: Option<u64>,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut writes: BTreeMap<&Key, Option<&Record>> =
            self.unsure.iter().map(|(key, before)| (key, before.as_ref())).collect();
        writes.extend(changes.iter().map(|change| (&change.key, change.after.as_ref())));
        let writes: Vec<(String, Option<Vec<u8>>)> =
            writes.into_iter().map(|(key, record)| (key.record(), record.map(encode))).collect();
        let path = self.path.clone();
        let result = self.open().and_then(|database| {
            write(database, &writes, reserve, durability)
                .map_err(|error| StoreError::from_redb("write", &path, error))
        });
        match result {
            Ok(()) => self.unsure.clear(),
            Err(_) => {
                self.database = None;
                let mut unsure: BTreeMap<Key, Option<Record>> = self.unsure.drain(..).collect();
                for change in changes {
                    unsure.entry(change.key.clone()).or_insert_with(|| change.before.clone());
                }
                self.unsure = unsure.into_iter().collect();
            }
        }
        result
    }

    fn put_aside(&mut self) -> Result<(), StoreError> {
        self.database = None;
        let aside = self.path.with_extension("redb.damaged");
        std::fs::rename(&self.path, &aside).map_err(|source| StoreError::File {
            attempt: "put aside",
            path: self.path.clone(),
            source: std::sync::Arc::new(source),
        })?;
        self.prepare()
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let kept = Kept { v: record.version, o: record.object.clone(), h: record.hidden.clone() };
    serde_json::to_vec(&kept).unwrap_or_default()
}

fn write(
    database: &Database,
    writes: &[(String, Option<Vec<u8>>)],
    reserve: Option<u64>,
    durability: Durability,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for (key, record) in writes {
            match record {
                Some(bytes) => objects.insert(key.as_str(), bytes.as_slice())?,
                None => objects.remove(key.as_str())?,
            };
        }
        if let Some(reserve) = reserve {
            transaction.open_table(META)?.insert("reserved", reserve)?;
        }
    }
    transaction.commit()?;
    Ok(())
}
