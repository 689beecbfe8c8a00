//! Whether it is ready, and if not, why: the part of the task that asks and looks.

use super::{HOUSEKEEPING, News, Task};
use crate::distribution::diagnose::{Diagnosis, Evidence, diagnose, is_doomed};
use crate::distribution::machine::{Event, State};
use crate::distribution::process::Ending;
use crate::distribution::service::Wish;
use crate::distribution::{last_good, observe};
use holdfast_api::Reason;
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// While it starts, so that readiness is seen soon; a probe costs a request on loopback.
const PROBE_STARTING: Duration = Duration::from_millis(200);
/// While it is not ready any more.
const PROBE_NOT_READY: Duration = Duration::from_secs(1);
/// While all is well.
const PROBE_READY: Duration = Duration::from_secs(5);
/// An API server that takes longer is not ready.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// A start that takes longer is looked into, and again after as long.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Task {
    pub(super) async fn probed(&mut self, answer: Result<(), String>) {
        let before = self.machine.state();
        self.event(Event::Probe { ready: answer.is_ok() }).await;
        self.next_probe = Instant::now() + self.probe_pace();
        if matches!(self.machine.state(), State::Ready { .. }) {
            if !matches!(before, State::Ready { .. }) {
                self.became_ready(matches!(before, State::Starting { .. }));
            }
            return;
        }
        if let Err(message) = answer
            && self.problem.is_none()
            && matches!(self.machine.state(), State::NotReady { .. })
        {
            self.problem = Some(Diagnosis { reason: Reason::KubernetesNotReady, message });
        }
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOOK_EVERY;
            self.look().await;
        }
    }

    pub(super) fn became_ready(&mut self, was_starting: bool) {
        if let Some((started, _)) = self.started
            && was_starting
        {
            self.ready_after = Some(started.elapsed());
        }
        // Whether its start renewed what it should.
        self.next_housekeeping = Instant::now();
        self.problem = None;
        self.doomed = 0;
        info!(after = ?self.ready_after, version = %self.version, "Kubernetes is ready");
        if let Some(wanted) = &self.wanted
            && wanted.aspects == self.record.aspects
        {
            last_good::keep(&self.settings.paths, wanted);
        }
    }

    /// Why it runs and is not ready.
    pub(super) async fn look(&mut self) {
        let Some((found, is_doomed)) = self.examine(None).await else { return };
        self.doomed = if is_doomed { self.doomed + 1 } else { 0 };
        let Some(found) = found else { return };
        if self.problem.as_ref() != Some(&found) {
            warn!(reason = %found.reason, message = %found.message, "Kubernetes is not ready");
        }
        self.problem = Some(found);
        // Twice, for a log may tell of something that passed.
        if self.doomed >= 2 && matches!(self.machine.state(), State::Starting { .. }) {
            self.fall_back();
            self.event(Event::Doomed).await;
        }
    }

    pub(super) fn probe_pace(&self) -> Duration {
        match self.machine.state() {
            State::Starting { .. } => PROBE_STARTING,
            State::Ready { misses: 0, .. } => PROBE_READY,
            State::Ready { .. } | State::NotReady { .. } => PROBE_NOT_READY,
            State::Off | State::Backoff { .. } | State::Stopping { .. } => HOUSEKEEPING,
        }
    }

    pub(super) fn is_probed(&self) -> bool {
        let runs = matches!(
            self.machine.state(),
            State::Starting { .. } | State::Ready { .. } | State::NotReady { .. }
        );
        runs && !self.probing && matches!(self.wish, Wish::Run(_))
    }

    pub(super) fn send_probe(&mut self) {
        let Wish::Run(wants) = &self.wish else { return };
        let (probe, node) = (self.helpers.probe.clone(), wants.node_name.clone());
        let since = self.started.map(|(_, started)| started);
        let of = self.process.as_ref().map(|process| process.identity().clone());
        self.probing = true;
        self.sent.spawn(async move {
            let answer = tokio::time::timeout(PROBE_PATIENCE, probe.ready(&node, since)).await;
            News::Probe(of, answer.unwrap_or_else(|_| Err("no answer in time".into())))
        });
    }

    /// A configuration that is refused gives way to the last good one.
    pub(super) fn fall_back(&mut self) {
        let is_refused = self
            .problem
            .as_ref()
            .is_some_and(|found| found.reason == Reason::KubernetesConfigRefused);
        if let Some(wanted) = &self.wanted
            && is_refused
            && self.refused.is_none()
            && last_good::instead_of(&self.settings.paths, wanted).is_some()
        {
            warn!("the last good configuration of Kubernetes is put back");
            self.refused = Some(wanted.clone());
        }
    }

    pub(super) async fn diagnose(&self, ending: Option<Ending>) -> Option<Diagnosis> {
        self.examine(ending).await?.0
    }

    /// The finding, and whether it is final.
    async fn examine(&self, ending: Option<Ending>) -> Option<(Option<Diagnosis>, bool)> {
        let (places, record) = (self.launcher.places().clone(), self.record.clone());
        let paths = self.settings.paths.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let (log, facts) = (observe::log(&places, &record), observe::facts(&paths));
            let evidence = Evidence { ending, log: &log, facts: &facts, now: Timestamp::now() };
            (diagnose(&evidence), is_doomed(&log))
        });
        looked.await.ok()
    }
}
