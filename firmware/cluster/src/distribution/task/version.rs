//! Versions of the program: the part of the task that carries `upgrade` out.

use super::{News, Task, told};
use crate::distribution::binary::Store;
use crate::distribution::diagnose::Diagnosis;
use crate::distribution::machine::State;
use crate::distribution::plan::Aspect;
use crate::distribution::service::Wish;
use crate::distribution::upgrade::{Service, Situation, Step, Version, Versions, plan};
use crate::paths::ClusterPaths;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Between two attempts at a download or a drain; doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// Ends in a row after which a version on trial is given up. Their pauses make 15 s together, in
/// which ports and mounts of the version before are long free.
const HOPELESS: u32 = 5;

fn path(paths: &ClusterPaths) -> PathBuf {
    paths.state_dir().join("distribution/versions.json")
}

/// What is known of versions. One whose program is not there any more is not in force.
pub(super) fn load(paths: &ClusterPaths, store: &Store) -> Versions {
    let text = std::fs::read(path(paths)).unwrap_or_default();
    let mut versions: Versions = serde_json::from_slice(&text).unwrap_or_default();
    versions.current.take_if(|version| !store.has(version));
    versions.previous.take_if(|version| !store.has(version));
    versions.on_trial &= versions.current.is_some();
    versions
}

/// `v1.33.1+k3s1` out of `k3s version v1.33.1+k3s1 (…)`.
pub(super) async fn of(program: &str) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(Duration::from_secs(20), command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.strip_prefix("k3s version ")?.split(' ').next()?.to_owned())
}

impl Task {
    /// The program to run.
    pub(super) fn program(&self) -> PathBuf {
        match &self.versions.current {
            Some(version) => self.store.program(version),
            None => self.settings.program.clone(),
        }
    }

    /// There is none to run, and one is on its way.
    pub(super) fn awaits_program(&self) -> bool {
        let wanted = match &self.wish {
            Wish::Run(wants) => wants.artifact.as_ref().map(Version::of),
            Wish::Unknown | Wish::Off => None,
        };
        wanted.is_some_and(|version| !self.versions.has_failed(&version))
            && !self.program().is_file()
    }

    fn has_fallback(&self) -> bool {
        let earlier = match self.versions.on_trial {
            true => &self.versions.previous,
            false => &self.versions.current,
        };
        earlier.is_some() || self.settings.program.is_file()
    }

    /// As long as a new version may take to start, the old one may.
    fn is_settling(&self) -> bool {
        match self.machine.state() {
            State::Starting { since, .. } | State::NotReady { since, .. } => {
                since.elapsed() < self.settings.upgrade_window
            }
            State::Stopping { .. } => true,
            State::Off | State::Ready { .. } | State::Backoff { .. } => false,
        }
    }

    fn next_step(&self) -> Option<Step> {
        let Wish::Run(wants) = &self.wish else { return None };
        let want = wants.artifact.as_ref().map(Version::of);
        let ready = matches!(self.machine.state(), State::Ready { .. });
        let program = self.program().display().to_string();
        let now = Situation {
            fetched: want.as_ref().is_some_and(|want| self.store.has(want)),
            // One that is about to be replaced does not speak for its successor.
            ready: ready && self.record.aspects.get(&Aspect::Program) == Some(&program),
            settling: self.is_settling(),
            fallback: self.has_fallback(),
            on_trial_for: self.trial_since.map_or(Duration::ZERO, |since| since.elapsed()),
            window: self.settings.upgrade_window,
            hopeless: self.trial_ends >= HOPELESS,
        };
        plan(want.as_ref(), &self.versions, &now)
    }

    /// When the upgrade must be looked at again.
    pub(super) fn upgrade_at(&self) -> Option<Instant> {
        if self.upgrading || self.pauses > 0 {
            return None;
        }
        let window = self.settings.upgrade_window;
        let trial = self.trial_since.filter(|_| self.versions.on_trial).map(|since| since + window);
        // One that is over and goes on has nothing to go back to.
        let trial = trial.filter(|end| *end > Instant::now());
        [trial, self.next_step().map(|_| self.next_upgrade)].into_iter().flatten().min()
    }

    /// Carries the next step out, or sends it off.
    pub(super) async fn upgrade(&mut self) {
        if self.versions.on_trial && self.trial_since.is_none() {
            self.trial_since = Some(Instant::now());
        }
        self.end_drain_of_another();
        if self.upgrading || self.pauses > 0 || Instant::now() < self.next_upgrade {
            return;
        }
        let Some(step) = self.next_step() else { return };
        info!(step = %step, "Kubernetes");
        match step {
            Step::Fetch(_) => self.send_fetch(),
            Step::Drain(version) => {
                let workloads = self.helpers.workloads.clone();
                self.upgrading = true;
                self.versions.service = Service::Leaving;
                self.keep();
                let to = version.clone();
                let task = self.sent.spawn(async move {
                    let result = workloads.drain(&to).await;
                    News::Drained(to, result)
                });
                self.draining = Some((version, task));
            }
            Step::Uncordon => {
                let workloads = self.helpers.workloads.clone();
                self.upgrading = true;
                self.sent.spawn(async move { News::Uncordoned(workloads.uncordon().await) });
            }
            Step::Switch(version) => {
                let fallback = self.has_fallback();
                self.versions.switched(version, fallback);
                self.trial_since = fallback.then(Instant::now);
                self.trial_ends = 0;
                self.follow().await;
            }
            Step::Commit => {
                self.versions.committed();
                self.trial_since = None;
                self.keep();
                self.store.prune(self.versions.kept());
            }
            Step::SwitchBack => {
                let problem = self.problem.take();
                let message = problem.map_or("it was not ready in time".into(), |it| it.message);
                warn!(message, "the new version of Kubernetes failed");
                self.versions.switched_back(message);
                self.trial_since = None;
                self.follow().await;
            }
        }
    }

    /// The version for which the node is drained is not the next one any more, or Kubernetes is
    /// not ready any more, and then there is nothing to wait for.
    fn end_drain_of_another(&mut self) {
        let Some((version, task)) = &self.draining else { return };
        let next = self.next_step();
        if !matches!(&next, Some(Step::Drain(next)) if next == version) {
            task.abort();
            (self.draining, self.upgrading) = (None, false);
        }
    }

    fn send_fetch(&mut self) {
        let Wish::Run(wants) = &self.wish else { return };
        let Some(artifact) = wants.artifact.clone() else { return };
        let (store, client) = (self.store.clone(), self.helpers.fetch.clone());
        self.upgrading = true;
        self.sent.spawn(async move {
            let fetched = store.fetch(&artifact, client.as_ref()).await;
            News::Fetched(fetched.map_err(|error| told(&error, error.reason())))
        });
    }

    /// Writes down which version counts, lets the link lead there, and restarts.
    async fn follow(&mut self) {
        self.keep();
        if let Err(error) = self.store.point_at(self.versions.current.as_ref()) {
            // The link is for people and programs beside us; we go by what is written down.
            warn!(error = %error, "the link to Kubernetes' program is not changed");
        }
        self.reconcile().await;
    }

    fn keep(&mut self) {
        let text = serde_json::to_vec_pretty(&self.versions).unwrap_or_default();
        if let Err(error) = holdfast_durable::write(&path(&self.settings.paths), &text, 0o600) {
            warn!(error = %error, "what is known of Kubernetes' versions is not kept");
        }
    }

    pub(super) async fn fetched(&mut self, result: Result<(), Diagnosis>) {
        if self.tried(result) {
            // A node without any program waited for this.
            self.reconcile().await;
        }
    }

    pub(super) fn drained(&mut self, version: &Version, result: Result<(), Diagnosis>) {
        // One that was given up may still tell.
        if self.draining.take_if(|(draining, _)| draining == version).is_none() {
            return;
        }
        if self.tried(result) {
            self.versions.service = Service::Out;
            self.keep();
        } else {
            // The lock may be ours in a moment, and others wait for it then.
            self.upgrade_failures = 0;
            self.next_upgrade = Instant::now() + FIRST_PAUSE;
        }
    }

    pub(super) fn uncordoned(&mut self, result: Result<(), Diagnosis>) {
        if self.tried(result) {
            self.versions.service = Service::In;
            self.keep();
        }
    }

    /// Whether it succeeded; else the next attempt waits.
    fn tried(&mut self, result: Result<(), Diagnosis>) -> bool {
        self.upgrading = false;
        let problem = result.err();
        if let Some(problem) = &problem {
            warn!(reason = %problem.reason, message = %problem.message, "another version of Kubernetes waits");
            let pause = FIRST_PAUSE.saturating_mul(1 << self.upgrade_failures.min(16));
            self.upgrade_failures = self.upgrade_failures.saturating_add(1);
            self.next_upgrade = Instant::now() + pause.min(LAST_PAUSE);
        } else {
            self.upgrade_failures = 0;
        }
        self.upgrade_problem = problem;
        self.upgrade_problem.is_none()
    }
}
