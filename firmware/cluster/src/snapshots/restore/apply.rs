//! The work of each phase. It makes no choices beyond [`Phase::after`].

use super::super::bundle::{self, Carried};
use super::super::distribution::{Distribution, Paused, Refusal};
use super::super::error::SnapshotError;
use super::super::files::{self, blocking};
use super::super::records::{Record, Records};
use super::super::{etcd_file, program, token};
use super::places::{
    clear_and_place, clear_aside, clear_leftovers, item, made, orphan, put_back, set_aside,
};
use super::{Item, Journal, Phase, Restored, Source, pending, slots};
use crate::paths::ClusterPaths;
use futures_util::future::BoxFuture;
use holdfast_api::chain;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the distribution may take to make a datastore.
pub const MAKE_PATIENCE: Duration = Duration::from_secs(300);
/// How long the API server may take to become ready.
pub const READY_PATIENCE: Duration = Duration::from_secs(300);

/// k3s resets nothing while it is told to join (k3s-io/k3s#8488, `pkg/cli/server/server.go`), and
/// a server of several is told so in its configuration; the command line replaces that
/// (docs.k3s.io, "Configuration File"). At the next start the configuration does no harm: k3s
/// joins nobody when it has a datastore (`pkg/cluster/bootstrap.go`, `shouldBootstrapLoad`).
const JOINS_NOBODY: &str = "--server=";

/// Attempts to take reboot locks and cordons of the past back, and the pause between them.
const FORGET_ATTEMPTS: u32 = 30;
const FORGET_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 2000 });

/// One restore at work.
pub struct Restore<'a> {
    /// The distribution.
    pub distribution: &'a dyn Distribution,
    /// Its places.
    pub paths: &'a ClusterPaths,
    /// A `kill -9` in tests: before or after the work of a phase.
    #[cfg(test)]
    pub(super) killed_at: Option<(Phase, bool)>,
}

impl<'a> Restore<'a> {
    /// With the distribution at these places.
    pub fn new(distribution: &'a dyn Distribution, paths: &'a ClusterPaths) -> Self {
        Restore {
            distribution,
            paths,
            #[cfg(test)]
            killed_at: None,
        }
    }

    /// A `kill -9` when the old datastore is aside and no new one is made.
    #[cfg(test)]
    pub(in super::super) fn kill_at_making(&mut self) {
        self.killed_at = Some((Phase::Making, false));
    }

    /// Checks the source, then replaces the datastore. `source` is a file on this machine;
    /// [`Source::Stored`] has been fetched before.
    ///
    /// # Errors
    /// Before anything was touched: what is wrong with the source. Afterwards
    /// [`SnapshotError::PutBack`] or [`SnapshotError::PutBackFailed`].
    pub async fn run(&self, source: &Source) -> Result<Restored, SnapshotError> {
        match self.check(source).await {
            Ok(journal) => self.carry_on(journal).await,
            Err(error) => {
                // What was unpacked holds the secrets of a cluster.
                let staging = self.staging();
                blocking(move || files::remove(&staging)).await?;
                Err(error.before_restore())
            }
        }
    }

    /// The checks: whole, of this version or an older one, and room for it.
    async fn check(&self, source: &Source) -> Result<Journal, SnapshotError> {
        let records = Records::new(self.paths);
        let (file, record, carried) = match source {
            Source::Local(name) => {
                let record = blocking({
                    let (records, name) = (records.clone(), name.clone());
                    move || pick(&records, &name)
                })
                .await?;
                (records.snapshot(&record.name), Some(record), Vec::new())
            }
            Source::File(file) => (file.clone(), None, Vec::new()),
            Source::Portable { file, identity } => {
                let staging = self.staging();
                let unpacked = bundle::unpack(file, identity, &staging).await?;
                if let Some(one) = unpacked.carried.iter().find(|one| one.name == "server/token") {
                    let (paths, token) = (self.paths.clone(), one.path.clone());
                    blocking(move || token::fits(&paths, &token)).await?;
                }
                (unpacked.snapshot, Some(unpacked.record), unpacked.carried)
            }
            Source::Stored { object, .. } => {
                return Err(SnapshotError::NoneUsable {
                    why: format!("{object} was not fetched from the storage"),
                });
            }
        };
        let whole = blocking({
            let path = file.clone();
            move || {
                etcd_file::verify(&path).map_err(|source| SnapshotError::Damaged { path, source })
            }
        })
        .await?;
        if let Some(record) = &record {
            if !record.sha256.is_empty() && record.sha256 != whole.sha256 {
                return Err(SnapshotError::Damaged {
                    path: file,
                    source: etcd_file::NotASnapshot::Sum,
                });
            }
            fits(&record.version, &self.distribution.version())?;
        }
        let data = self.paths.data_dir();
        files::room(&data, whole.bytes)?;
        let mut items = vec![item(data.join("server/db/etcd"), None)];
        items.extend(self.carried_items(&carried));
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Journal {
            phase: Phase::Checked,
            attempts: 0,
            snapshot: record.as_ref().map_or(name, |record| record.name.clone()),
            taken: record.map(|record| record.taken),
            file,
            items,
            reboots: None,
        })
    }

    fn staging(&self) -> PathBuf {
        self.paths.state_dir().join("restore")
    }

    /// What other hardware gets. `tls` and `cred` are replaced whole, so that no certificate of
    /// another cluster stays beside the authorities.
    fn carried_items(&self, carried: &[Carried]) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for one in carried {
            let top = one.top(self.paths);
            if !items.iter().any(|item| item.place == top.place) {
                items.push(item(top.place, Some(self.staging().join(top.staged))));
            }
        }
        items
    }

    async fn carry_on(&self, mut journal: Journal) -> Result<Restored, SnapshotError> {
        let began = Instant::now();
        let mut paused: Option<Paused> = None;
        let mut failure: Option<SnapshotError> = None;
        loop {
            self.write(&journal).await?;
            self.survives(journal.phase, false)?;
            tracing::info!(snapshot = journal.snapshot, phase = ?journal.phase, "restore");
            let result = self.work(&mut journal, &mut paused).await;
            self.survives(journal.phase, true)?;
            let next = journal.phase.after(result.is_ok());
            match (journal.phase, result, next) {
                (Phase::Keeping, Err(error), Some(next)) => {
                    tracing::warn!(error = chain(&error), "old files stay");
                    journal.phase = next;
                }
                (_, Err(error), Some(next)) => {
                    tracing::warn!(error = chain(&error), "the old datastore is put back");
                    failure = Some(error);
                    journal.phase = next;
                }
                (_, Ok(()), Some(next)) => journal.phase = next,
                (Phase::Checked, Err(error), None) => {
                    self.end().await?;
                    return Err(error);
                }
                (Phase::PuttingBack, Err(source), None) => {
                    // The journal stays: the next start tries again.
                    let first = failure.unwrap_or_else(interrupted).into();
                    return Err(SnapshotError::PutBackFailed { first, source: source.into() });
                }
                (Phase::PuttingBack, Ok(()), None) => {
                    self.end().await?;
                    return self.back(paused, failure.unwrap_or_else(interrupted)).await;
                }
                (_, result, None) => {
                    let failed = result.err().map(|error| chain(&error));
                    let known = journal.reboots.is_some();
                    match &failed {
                        // The journal stays: the next start tries again.
                        Some(error) if known => {
                            tracing::warn!(error, "old reboot locks and cordons stay for now");
                        }
                        // The next start would take locks of its own day for the snapshot's.
                        _ => self.end().await?,
                    }
                    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let (snapshot, taken) = (journal.snapshot, journal.taken);
                    let reboots_unknown = failed.filter(|_| !known);
                    return Ok(Restored { snapshot, taken, took_ms, reboots_unknown });
                }
            }
        }
    }

    async fn work(
        &self,
        journal: &mut Journal,
        paused: &mut Option<Paused>,
    ) -> Result<(), SnapshotError> {
        match journal.phase {
            Phase::Checked => {
                self.pause(paused).await?;
                self.on_files(journal, clear_leftovers).await
            }
            Phase::SettingAside => {
                self.pause(paused).await?;
                self.on_files(journal, set_aside).await
            }
            Phase::Making => {
                self.pause(paused).await?;
                self.on_files(journal, clear_and_place).await?;
                let path = format!("--cluster-reset-restore-path={}", journal.file.display());
                let words = ["server", "--cluster-reset", &path, JOINS_NOBODY];
                let command = self.distribution.command(&words);
                program::run(command, "restoring a snapshot", MAKE_PATIENCE).await?;
                self.on_files(journal, made).await
            }
            Phase::Trying => {
                // The distribution starts when nothing holds it any more.
                *paused = None;
                self.ready().await
            }
            Phase::Keeping => {
                *paused = None;
                self.on_files(journal, clear_aside).await?;
                let staging = self.staging();
                blocking(move || files::remove(&staging)).await
            }
            Phase::Forgetting => {
                *paused = None;
                self.ready().await?;
                let of_before = match &journal.reboots {
                    Some(known) => known.clone(),
                    None => {
                        // What comes later is of this time, however late this is carried on.
                        let found = answer(|| self.distribution.reboots()).await?;
                        let noted =
                            Journal { reboots: Some(found.clone()), ..Journal::clone(journal) };
                        self.write(&noted).await?;
                        *journal = noted;
                        found
                    }
                };
                answer(|| self.distribution.forget_reboots(&of_before)).await
            }
            Phase::PuttingBack => {
                self.pause(paused).await?;
                self.on_files(journal, put_back).await
            }
        }
    }

    async fn pause(&self, paused: &mut Option<Paused>) -> Result<(), SnapshotError> {
        if paused.is_none() {
            let stopped = self.distribution.pause().await;
            *paused =
                Some(stopped.map_err(|source| SnapshotError::Distribution {
                    attempt: "stopped",
                    source,
                })?);
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), SnapshotError> {
        self.distribution
            .wait_ready(READY_PATIENCE)
            .await
            .map_err(|source| SnapshotError::Distribution { attempt: "started", source })
    }

    /// The end of a restore that failed: the old datastore runs, or does not.
    async fn back(
        &self,
        paused: Option<Paused>,
        first: SnapshotError,
    ) -> Result<Restored, SnapshotError> {
        drop(paused);
        match self.ready().await {
            Ok(()) => Err(SnapshotError::PutBack(first.into())),
            Err(source) => {
                Err(SnapshotError::PutBackFailed { first: first.into(), source: source.into() })
            }
        }
    }

    async fn on_files(
        &self,
        journal: &Journal,
        work: fn(&Path, &Journal) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let (data, journal) = (self.paths.data_dir(), journal.clone());
        blocking(move || work(&data, &journal)).await
    }

    async fn write(&self, journal: &Journal) -> Result<(), SnapshotError> {
        let (slots, journal) = (slots(self.paths), journal.clone());
        blocking(move || slots.store(&Some(journal)).map_err(SnapshotError::Journal)).await
    }

    /// No restore is on its way any more.
    async fn end(&self) -> Result<(), SnapshotError> {
        let (slots, staging) = (slots(self.paths), self.staging());
        blocking(move || {
            // In both copies: a restore that ended long ago must not be carried on because the
            // newest copy went bad.
            for _ in 0..2 {
                slots.store(&None::<Journal>).map_err(SnapshotError::Journal)?;
            }
            files::remove(&staging)
        })
        .await
    }

    #[cfg(test)]
    fn survives(&self, phase: Phase, after: bool) -> Result<(), SnapshotError> {
        if self.killed_at == Some((phase, after)) { Err(SnapshotError::Ended) } else { Ok(()) }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests have another one")]
    fn survives(&self, _: Phase, _: bool) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Carries on with a restore that was interrupted; nothing when there is none. To be called before
/// the distribution starts.
///
/// # Errors
/// As [`Restore::run`].
pub async fn recover(restore: &Restore<'_>) -> Result<Option<Restored>, SnapshotError> {
    let pending = pending(restore.paths);
    let Ok(Some(mut journal)) = pending else {
        // Also when both copies of the journal are damaged: the old datastore must not stay aside
        // while the distribution begins an empty one.
        let paths = restore.paths.clone();
        blocking(move || orphan(&paths)).await?;
        if pending.is_err() {
            restore.end().await?;
        }
        return pending.map(|_| None);
    };
    journal.attempts += 1;
    let phase = journal.phase.resumed(journal.attempts);
    tracing::info!(snapshot = journal.snapshot, phase = ?phase, "a restore is carried on");
    journal.phase = phase;
    restore.carry_on(journal).await.map(Some)
}

/// Asks again for a while: the API server has just begun.
async fn answer<'a, T>(
    mut ask: impl FnMut() -> BoxFuture<'a, Result<T, Refusal>>,
) -> Result<T, SnapshotError> {
    let mut left = FORGET_ATTEMPTS;
    loop {
        left -= 1;
        match ask().await {
            Err(error) if left > 0 => {
                tracing::debug!(%error, "reboot locks are looked at again");
                tokio::time::sleep(FORGET_PAUSE).await;
            }
            done => {
                let told = |source| SnapshotError::Distribution { attempt: "asked", source };
                return done.map_err(told);
            }
        }
    }
}

fn interrupted() -> SnapshotError {
    SnapshotError::NoneUsable { why: "the restore was interrupted too often".into() }
}

/// The one of this name, or the newest good one.
fn pick(records: &Records, name: &str) -> Result<Record, SnapshotError> {
    let mut all = records.observe()?.into_iter();
    let found = match name {
        "" => all.find(|record| record.damaged.is_none()),
        name => all.find(|record| record.name == name),
    };
    match found {
        Some(Record { damaged: Some(why), name, .. }) => {
            Err(SnapshotError::NoneUsable { why: format!("{name}: {why}") })
        }
        Some(record) => Ok(record),
        None if name.is_empty() => {
            Err(SnapshotError::NoneUsable { why: "none was taken on this node".into() })
        }
        None => Err(SnapshotError::NoneUsable { why: format!("{name} is not on this node") }),
    }
}

/// Whether a snapshot of version `snapshot` can be restored where `here` is installed: Kubernetes
/// reads what older versions wrote, not what newer ones did (k3s documentation, "Restoring
/// snapshots"). What is not known is no hindrance.
fn fits(snapshot: &str, here: &str) -> Result<(), SnapshotError> {
    let minor = |version: &str| -> Option<(u64, u64)> {
        let mut parts = version.trim_start_matches('v').split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (minor(snapshot), minor(here)) {
        (Some(of), Some(installed)) if of > installed => {
            Err(SnapshotError::Newer { snapshot: snapshot.into(), here: here.into() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) fn fits_for_tests(snapshot: &str, here: &str) -> bool {
    fits(snapshot, here).is_ok()
}
