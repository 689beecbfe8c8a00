//! Drills, and what they give way to.

use super::super::super::drill::{Drill, drill};
use super::super::super::error::SnapshotError;
use super::super::super::model::Drilled;
use super::super::super::records::{Record, Records};
use super::super::keep::KeptDrill;
use super::super::{Request, Settings};
use super::{Worker, unless_asked};
use holdfast_api::chain;
use holdfast_api::kubernetes::DrillResult;
use jiff::Timestamp;
use std::time::Instant;
use tokio::sync::mpsc;

impl Worker {
    /// A drill takes minutes, and a release waits for its snapshot; so it gives way to whatever is
    /// asked, and is made later, as one for which there was no room.
    pub(super) async fn drill_unless_asked(
        &mut self,
        settings: &Settings,
        name: &str,
        asked: &mut mpsc::Receiver<Request>,
    ) -> Result<DrillResult, SnapshotError> {
        let request = match unless_asked(asked, self.drill(settings, name)).await {
            Ok(result) => return result,
            Err(request) => request,
        };
        tracing::info!(snapshot = name, "a drill was cut off for something more urgent");
        let stamp = self.records.iter().find(|record| record.name == name);
        if let Some(stamp) = stamp.map(|record| record.stamp) {
            self.skipped_drill = Some(Drilled { at: Timestamp::now(), stamp, skipped: true });
        }
        self.waiting = request;
        let why = "the drill gave way to something that was asked; ask again".into();
        Err(SnapshotError::NoneUsable { why })
    }

    pub(super) async fn drill(
        &mut self,
        settings: &Settings,
        name: &str,
    ) -> Result<DrillResult, SnapshotError> {
        let Some(record) = self.records.iter().find(|record| record.name == name).cloned() else {
            return Err(SnapshotError::NoneUsable { why: format!("{name} is gone") });
        };
        let began = Instant::now();
        let made = drill(self.distribution.clone(), &settings.paths, &record).await;
        let at = Timestamp::now();
        let result = match made {
            Drill::Skipped(why) => {
                tracing::info!(why, "no drill now");
                self.skipped_drill = Some(Drilled { at, stamp: record.stamp, skipped: true });
                return Err(SnapshotError::NoneUsable { why });
            }
            Drill::Made(result) => result,
        };
        if let Err(SnapshotError::Damaged { source, .. }) = &result {
            let damaged = Record { damaged: Some(source.to_string()), ..record.clone() };
            Records::new(&settings.paths).keep(&damaged)?;
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, message) = match result {
            Ok(found) => (true, found),
            Err(error) => (false, chain(&error)),
        };
        tracing::info!(snapshot = name, ok, message, "drill");
        let result = DrillResult { snapshot: name.into(), at, took_ms, ok, message };
        self.skipped_drill = None;
        self.kept.drill = Some(KeptDrill { stamp: record.stamp, result: result.clone() });
        self.kept.store(&settings.paths)?;
        Ok(result)
    }
}
