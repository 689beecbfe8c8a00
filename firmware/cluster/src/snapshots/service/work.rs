//! The task's own work: observe, plan, apply, publish.

mod drills;

use super::super::automatic::{Decision, decide, remember};
use super::super::bundle;
use super::super::distribution::Distribution;
use super::super::error::SnapshotError;
use super::super::files::{self, blocking};
use super::super::model::{Drilled, Failures, Have, Policy, Remote, Stamp, Why};
use super::super::plan::{Plan, Step, plan, retry_at};
use super::super::records::{Record, Records, local};
use super::super::restore::apply::{Restore, recover};
use super::super::restore::{Restored, Source};
use super::super::store::Store;
use super::super::take::{Of, take};
use super::keep::Kept;
use super::others::are_silent;
use super::{Automatic, LOOK_AGAIN, Others, Request, Settings};
use holdfast_api::kubernetes::{SnapshotInfo, SnapshotsState};
use holdfast_api::local::Problem;
use holdfast_api::{Reason, chain};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long an interval's snapshot waits for the API server.
const READY_PATIENCE: Duration = Duration::from_secs(1);
/// Passes in a row: a snapshot is taken, then it is stored and others go.
const ROUNDS: u32 = 3;

pub(super) struct Worker {
    settings: watch::Receiver<Settings>,
    distribution: Arc<dyn Distribution>,
    publish: watch::Sender<SnapshotsState>,
    restoring: watch::Sender<bool>,
    records: Vec<Record>,
    remote: Option<Vec<Remote>>,
    take_failures: Option<Failures>,
    store_failures: Option<Failures>,
    skipped_drill: Option<Drilled>,
    /// For what a drill or an upload was cut off.
    waiting: Option<Request>,
    kept: Kept,
    problems: Problems,
}

/// The newest problem of each kind; it goes when the same thing succeeds.
#[derive(Debug, Default)]
struct Problems {
    take: Option<Problem>,
    store: Option<Problem>,
    restore: Option<Problem>,
}

fn problem(error: &SnapshotError) -> Problem {
    Problem::new(error.reason(), chain(&error))
}

fn failed(before: Option<Failures>, now: Timestamp) -> Option<Failures> {
    let count = before.map_or(0, |before| before.count).saturating_add(1);
    Some(Failures { at: now, count })
}

impl Worker {
    pub(super) fn new(
        settings: watch::Receiver<Settings>,
        distribution: Arc<dyn Distribution>,
        publish: watch::Sender<SnapshotsState>,
        restoring: watch::Sender<bool>,
    ) -> Self {
        let kept = Kept::load(&settings.borrow().paths);
        Worker {
            settings,
            distribution,
            publish,
            restoring,
            records: Vec::new(),
            remote: None,
            take_failures: None,
            store_failures: None,
            skipped_drill: None,
            waiting: None,
            kept,
            problems: Problems::default(),
        }
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Request>) {
        self.recover().await;
        self.sweep().await;
        loop {
            let wake = self.passes(&mut asked).await;
            if self.serve(&mut asked).await {
                continue;
            }
            let pause = Duration::try_from(wake.duration_since(Timestamp::now()));
            let pause = pause.unwrap_or_default().clamp(Duration::from_secs(1), LOOK_AGAIN);
            tokio::select! {
                // Nothing is lost when another arm wins: requests stay in their queue.
                request = asked.recv() => match request {
                    Some(request) => self.waiting = Some(request),
                    None => return,
                },
                // A change that is seen late is seen by the next pass.
                changed = self.settings.changed() => match changed {
                    // Another storage has not failed yet.
                    Ok(()) => self.store_failures = None,
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
            self.serve(&mut asked).await;
        }
    }

    /// Does what is asked, and what that was cut off for in its turn; whether anything was.
    async fn serve(&mut self, asked: &mut mpsc::Receiver<Request>) -> bool {
        let mut served = false;
        while let Some(request) = self.waiting.take() {
            self.answer(request, asked).await;
            served = true;
        }
        served
    }

    fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    async fn recover(&mut self) {
        let settings = self.settings();
        self.restoring.send_replace(true);
        let restore = Restore::new(&*self.distribution, &settings.paths);
        let result = recover(&restore).await;
        self.restoring.send_replace(false);
        match result {
            Ok(None) => {}
            Ok(Some(restored)) => self.restored(&restored),
            Err(error) => self.restore_failed(&error),
        }
    }

    /// What a manager that was killed left behind can be large, and holds secrets in the clear.
    async fn sweep(&self) {
        let state = self.settings().paths.state_dir();
        let swept = blocking(move || {
            ["drill", "pack", "upload", "fetched"]
                .into_iter()
                .try_for_each(|folder| files::remove(&state.join(folder)))
        });
        if let Err(error) = swept.await {
            tracing::warn!(error = chain(&error), "old folders stay");
        }
    }

    fn restored(&mut self, restored: &Restored) {
        let Restored { snapshot, took_ms, reboots_unknown, .. } = restored;
        tracing::info!(snapshot, took_ms, "restored");
        self.problems.restore = reboots_unknown.as_ref().map(|why| {
            let reason = Reason::SnapshotRebootsUnknown;
            tracing::warn!(%reason, why, "reboot locks and cordons stay as they are");
            Problem::new(reason, why.clone())
        });
    }

    fn restore_failed(&mut self, error: &SnapshotError) {
        tracing::error!(error = chain(&error), "a restore failed");
        self.problems.restore = Some(problem(error));
    }

    /// Passes until nothing is left to do now; when to come again.
    async fn passes(&mut self, asked: &mut mpsc::Receiver<Request>) -> Timestamp {
        let mut wake = Timestamp::now();
        for _ in 0..ROUNDS {
            let now = Timestamp::now();
            let settings = self.settings();
            let storage_answers = self.observe(&settings, now, asked).await;
            if self.waiting.is_some() {
                break;
            }
            let plan = self.plan(&settings, now);
            let stores = |step: &Step| matches!(step, Step::Upload(_) | Step::DeleteRemote(_));
            if storage_answers && !plan.steps.iter().any(stores) {
                (self.store_failures, self.problems.store) = (None, None);
            }
            wake = plan.wake;
            self.show(&settings, plan.next_take);
            if plan.steps.is_empty() {
                break;
            }
            let mut storage_fails = false;
            for step in &plan.steps {
                // One failure of the storage is told by all the others, and takes minutes.
                if storage_fails && stores(step) {
                    continue;
                }
                tracing::debug!(%step, "snapshots");
                let failures = self.store_failures;
                self.apply(&settings, step, now, asked).await;
                storage_fails |= self.store_failures.is_some() && self.store_failures != failures;
                if self.waiting.is_some() {
                    return wake;
                }
            }
        }
        wake
    }

    fn plan(&self, settings: &Settings, now: Timestamp) -> Plan {
        let have = Have {
            local: local(&self.records),
            remote: self.remote.clone(),
            take_failures: self.take_failures,
            store_failures: self.store_failures,
            drilled: self.skipped_drill.or_else(|| self.kept.drilled()),
        };
        plan(&Policy::of(&settings.policy, &settings.node), &have, None, now)
    }

    /// Looks at disk and storage; whether the storage told what it has.
    async fn observe(
        &mut self,
        settings: &Settings,
        now: Timestamp,
        asked: &mut mpsc::Receiver<Request>,
    ) -> bool {
        let records = Records::new(&settings.paths);
        match blocking(move || records.observe()).await {
            Ok(records) => self.records = records,
            Err(error) => self.problems.take = Some(problem(&error)),
        }
        let store = match self.store(settings) {
            Ok(Some(store)) => store,
            Ok(None) => {
                self.remote = None;
                (self.store_failures, self.problems.store) = (None, None);
                return false;
            }
            Err(error) => {
                self.remote = None;
                self.store_failed(&error, now);
                return false;
            }
        };
        if self.store_failures.is_some_and(|failures| retry_at(failures, now) > now) {
            return false;
        }
        match unless_asked(asked, store.list()).await {
            Ok(Ok(remote)) => {
                self.remote = Some(remote);
                true
            }
            Ok(Err(error)) => {
                self.store_failed(&error, now);
                false
            }
            Err(request) => {
                self.waiting = request;
                false
            }
        }
    }

    fn store_failed(&mut self, error: &SnapshotError, now: Timestamp) {
        tracing::warn!(error = chain(&error), "snapshots stay on the node");
        self.problems.store = Some(problem(error));
        self.store_failures = failed(self.store_failures, now);
    }

    /// The storage, when there is one and what goes there can be encrypted.
    fn store(&self, settings: &Settings) -> Result<Option<Store>, SnapshotError> {
        match (&settings.policy.s3, &settings.policy.recovery_key) {
            (None, _) => Ok(None),
            (Some(_), None) => Err(SnapshotError::NoKey),
            (Some(_), Some(_)) => reach(settings).map(Some),
        }
    }

    async fn apply(
        &mut self,
        settings: &Settings,
        step: &Step,
        now: Timestamp,
        asked: &mut mpsc::Receiver<Request>,
    ) {
        match step {
            Step::Take { stamp, why } => {
                if self.distribution.wait_ready(READY_PATIENCE).await.is_err() {
                    // Why it is not ready others tell; one is taken when it is.
                    self.take_failures = failed(self.take_failures, now);
                    return;
                }
                // Told in the state.
                let _told = self.take(settings, *stamp, why).await;
            }
            Step::Upload(name) => match unless_asked(asked, self.upload(settings, name)).await {
                Ok(Ok(())) => {
                    tracing::info!(snapshot = name, "stored");
                    (self.store_failures, self.problems.store) = (None, None);
                }
                Ok(Err(error)) => self.store_failed(&error, now),
                Err(request) => {
                    tracing::info!(snapshot = name, "an upload was cut off for what is asked");
                    self.waiting = request;
                }
            },
            Step::DeleteLocal(name) => {
                let (records, name) = (Records::new(&settings.paths), name.clone());
                if let Err(error) = blocking(move || records.delete(&name)).await {
                    self.problems.take = Some(problem(&error));
                }
            }
            Step::DeleteRemote(name) => {
                let deleted = async {
                    match self.store(settings)? {
                        Some(store) => store.delete(name).await,
                        None => Ok(()),
                    }
                };
                match unless_asked(asked, deleted).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => self.store_failed(&error, now),
                    Err(request) => self.waiting = request,
                }
            }
            Step::Drill(name) => {
                // What came of it is in the state.
                let _told = self.drill_unless_asked(settings, name, asked).await;
            }
        }
    }

    async fn take(
        &mut self,
        settings: &Settings,
        stamp: Stamp,
        why: &Why,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let now = Timestamp::now();
        let of = Of { site: &settings.site, node: &settings.node, stamp, why, now };
        match take(&*self.distribution, &settings.paths, &of).await {
            Ok(record) => {
                tracing::info!(snapshot = record.name, bytes = record.bytes, %why, "taken");
                (self.take_failures, self.problems.take) = (None, None);
                // A restore that failed was told long enough: the datastore is well.
                self.problems.restore = None;
                let info = record.info();
                self.records.insert(0, record);
                Ok(info)
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), %why, "no snapshot");
                self.problems.take = Some(problem(&error));
                self.take_failures = failed(self.take_failures, now);
                Err(error)
            }
        }
    }

    async fn upload(&self, settings: &Settings, name: &str) -> Result<(), SnapshotError> {
        let Some(store) = self.store(settings)? else { return Ok(()) };
        let key = settings.policy.recovery_key.as_deref().ok_or(SnapshotError::NoKey)?;
        let Some(record) = self.records.iter().find(|record| record.name == name) else {
            return Ok(());
        };
        let file = settings.paths.state_dir().join(format!("upload/{name}{}", bundle::ENDING));
        bundle::pack(&settings.paths, record, key, &file).await?;
        let stored = store.put(name, &file).await;
        blocking(move || files::remove(&file)).await?;
        stored
    }

    async fn restore(
        &mut self,
        settings: &Settings,
        source: Source,
    ) -> Result<Restored, SnapshotError> {
        let fetched = settings.paths.state_dir().join("fetched").join("snapshot");
        let source = match source {
            Source::Stored { object, identity } => {
                // What opens it comes with the call; a site that lost its key can still be restored.
                let store = reach(settings)?;
                store.get(&object, &fetched).await.map_err(SnapshotError::before_restore)?;
                Source::Portable { file: fetched.clone(), identity }
            }
            here => here,
        };
        self.restoring.send_replace(true);
        let restore = Restore::new(&*self.distribution, &settings.paths);
        let result = restore.run(&source).await;
        self.restoring.send_replace(false);
        if let Some(dir) = fetched.parent().map(std::path::Path::to_path_buf) {
            blocking(move || files::remove(&dir)).await?;
        }
        match &result {
            Ok(restored) => self.restored(restored),
            Err(error) => self.restore_failed(error),
        }
        result
    }

    async fn damaged(&mut self, settings: &Settings) -> Result<Automatic, SnapshotError> {
        let now = Timestamp::now();
        let records = Records::new(&settings.paths);
        self.records = blocking(move || records.observe()).await?;
        let have = local(&self.records);
        match decide(settings.single_server, &have, &self.kept.tried, now) {
            Decision::Leave(why) => {
                tracing::error!(%why, "the datastore is damaged and was not restored");
                Ok(Automatic::Left(why))
            }
            Decision::Restore { name, stamp } => {
                tracing::warn!(snapshot = name, "the datastore is damaged and is restored");
                // Before it is tried: a restore that takes the machine down is tried once, too.
                self.kept.tried = remember(&self.kept.tried, stamp, now);
                self.kept.store(&settings.paths)?;
                self.restore(settings, Source::Local(name)).await.map(Automatic::Restored)
            }
        }
    }

    /// Who asked may have gone; what was done is in the state.
    async fn answer(&mut self, request: Request, asked: &mut mpsc::Receiver<Request>) {
        let settings = self.settings();
        match request {
            Request::Take(why, answer) => {
                let have = Have {
                    local: local(&self.records),
                    remote: self.remote.clone(),
                    ..Have::default()
                };
                let stamp = have.next_stamp(Timestamp::now());
                let _gone = answer.send(self.take(&settings, stamp, &why).await);
            }
            Request::Restore(source, others, answer) => {
                let allowed = match others {
                    Others::MustBeStopped => are_silent(&settings.other_servers).await,
                    Others::DoNotCount => Ok(()),
                };
                let result = match allowed {
                    Ok(()) => self.restore(&settings, source).await,
                    Err(error) => Err(error),
                };
                let _gone = answer.send(result);
            }
            Request::Drill(answer) => {
                let newest = self.records.iter().find(|record| record.damaged.is_none());
                let result = match newest.map(|record| record.name.clone()) {
                    Some(name) => self.drill_unless_asked(&settings, &name, asked).await,
                    None => Err(SnapshotError::NoneUsable { why: "none was taken yet".into() }),
                };
                let _gone = answer.send(result);
            }
            Request::Damaged(answer) => {
                let _gone = answer.send(self.damaged(&settings).await);
            }
        }
    }

    fn show(&self, settings: &Settings, next: Timestamp) {
        let here = self.records.iter().filter(|one| one.damaged.is_none()).map(Record::info);
        let there = self.remote.iter().flatten().map(|one| info(one.name.clone(), one));
        let mut snapshots: Vec<SnapshotInfo> = here.chain(there).collect();
        snapshots.sort_by(|a, b| b.taken.cmp(&a.taken).then_with(|| a.place.cmp(&b.place)));
        let problems = &self.problems;
        let drill_failed =
            self.kept.drill.as_ref().filter(|drill| !drill.result.ok).map(|drill| {
                Problem::new(Reason::SnapshotDrillFailed, drill.result.message.clone())
            });
        let worst = [&problems.restore, &problems.take, &drill_failed, &problems.store];
        self.publish.send_replace(SnapshotsState {
            snapshots,
            next: (settings.policy.interval_hours > 0).then_some(next),
            drill: self.kept.drill.as_ref().map(|drill| drill.result.clone()),
            problem: worst.into_iter().flatten().next().cloned(),
        });
    }
}

/// Work that is dropped when something else is asked, and what was; none when nobody asks any more.
async fn unless_asked<T>(
    asked: &mut mpsc::Receiver<Request>,
    work: impl Future<Output = T>,
) -> Result<T, Option<Request>> {
    tokio::select! {
        done = work => Ok(done),
        request = asked.recv() => Err(request),
    }
}

/// The storage of the site.
pub(super) fn reach(settings: &Settings) -> Result<Store, SnapshotError> {
    let none = || SnapshotError::StorageSettings { why: "the site has none".into() };
    let target = settings.policy.s3.as_ref().ok_or_else(none)?;
    Store::new(target, &settings.site, &settings.node)
}

/// One in the storage, for others to see. It was taken when its stamp says, as long as the clock
/// ran forward.
pub(super) fn info(name: String, one: &Remote) -> SnapshotInfo {
    let by_stamp = i64::try_from(one.stamp.0).ok().and_then(|at| Timestamp::from_second(at).ok());
    SnapshotInfo {
        name,
        taken: by_stamp.unwrap_or(one.stored),
        bytes: one.bytes,
        place: "s3".into(),
        portable: true,
    }
}

#[cfg(test)]
mod tests;
