//! Versions of the program: the part of the task that carries `upgrade` out.

use super::point::Edge;
use super::{News, Task, told};
use crate::distribution::binary::Store;
use crate::distribution::diagnose::Diagnosis;
use crate::distribution::machine::State;
use crate::distribution::plan::Aspect;
use crate::distribution::service::Wish;
use crate::distribution::upgrade::{
    Service, Situation, Step, StepKind, Version, Versions, plan, skips,
};
use crate::paths::ClusterPaths;
use holdfast_api::Reason;
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
    versions.restarted_manager();
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

    /// What this server runs, when `want` skips a minor version behind it. Agents may skip some:
    /// their API server is what counts.
    pub(super) fn skipped_by(&self, want: &Version) -> Option<&str> {
        let Wish::Run(wants) = &self.wish else { return None };
        let current = self.versions.current.as_ref();
        let runs = current.map_or(self.version.as_str(), |current| &current.version);
        (wants.role.is_server() && current != Some(want) && skips(runs, &want.version))
            .then_some(runs)
    }

    /// Whether the version that is wanted skips some is known in a moment.
    fn awaits_version(&self) -> bool {
        let is_server = matches!(&self.wish, Wish::Run(wants) if wants.role.is_server());
        is_server && self.asking_version && self.versions.current.is_none()
    }

    /// Somebody asks anew for a version that failed.
    pub(super) fn forgive(&mut self) {
        if let Wish::Run(wants) = &self.wish
            && let Some(artifact) = &wants.artifact
            && self.versions.forgive(artifact)
        {
            info!(version = artifact.version, "a version of Kubernetes that failed is tried again");
            self.keep_if_possible();
        }
    }

    fn has_fallback(&self) -> bool {
        let earlier = match self.versions.on_trial {
            true => &self.versions.previous,
            false => &self.versions.current,
        };
        earlier.is_some() || self.settings.program.is_file()
    }

    /// As long as a new version may take to start, the old one may. One that ended while another
    /// node has its turn, or may have, starts again: two must not try a version at once.
    fn is_settling(&self) -> bool {
        match self.machine.state() {
            State::Starting { since, .. } | State::NotReady { since, .. } => {
                since.elapsed() < self.settings.upgrade_window
            }
            State::Stopping { .. } => true,
            State::Backoff { .. } => {
                self.not_its_turn.is_some_and(|at| at.elapsed() < self.settings.upgrade_window)
            }
            State::Off | State::Ready { .. } => false,
        }
    }

    fn next_step(&self) -> Option<Step> {
        let Wish::Run(wants) = &self.wish else { return None };
        let elsewhere =
            self.versions.elsewhere.is_some() && self.versions.elsewhere == wants.artifact;
        let want = wants.artifact.as_ref().map(Version::of);
        let want = want.filter(|want| self.skipped_by(want).is_none());
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
            restart: self.must_restart(),
            held: self.upgrade_problem.is_some(),
            elsewhere,
        };
        // A download takes its time, and nothing else waits for it. While the node cannot be brought
        // to what is wanted, no version can show what it is worth.
        plan(want.as_ref(), &self.versions, &now).filter(|step| match step {
            Step::Fetch(_) => !self.fetching,
            Step::Drain(_) | Step::Switch(_) => self.blocked.is_none() && !self.awaits_version(),
            Step::StepAside | Step::Restart | Step::Commit | Step::SwitchBack | Step::Uncordon => {
                true
            }
        })
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
        let next = self.next_step().map(|step| self.not_before(&step, Instant::now()));
        [trial, next].into_iter().flatten().min()
    }

    /// Pauses are for what asks others.
    fn not_before(&self, step: &Step, now: Instant) -> Instant {
        match step {
            Step::Restart => now,
            _ => self.next_upgrade,
        }
    }

    /// Carries the next step out, or sends it off.
    pub(super) async fn upgrade(&mut self) {
        if self.versions.on_trial && self.trial_since.is_none() {
            self.trial_since = Some(Instant::now());
        }
        self.end_drain_of_another();
        if self.upgrading || self.pauses > 0 {
            return;
        }
        let Some(step) = self.next_step() else { return };
        let now = Instant::now();
        if now < self.not_before(&step, now) {
            return;
        }
        info!(step = %step, "Kubernetes");
        let kind = step.kind();
        self.points.pass(kind, Edge::Begins).await;
        match step {
            Step::Fetch(_) => self.send_fetch(),
            Step::Drain(_) | Step::StepAside => self.send_drain(step).await,
            Step::Restart => {
                self.restart().await;
                self.points.pass(kind, Edge::Over).await;
            }
            Step::Uncordon => self.send_uncordon(),
            Step::Switch(version) => {
                let fallback = self.has_fallback();
                let url = match &self.wish {
                    Wish::Run(wants) => wants.artifact.as_ref().map(|it| it.url.clone()),
                    Wish::Unknown | Wish::Off => None,
                };
                let before = self.versions.clone();
                self.versions.switched(version, url.unwrap_or_default(), fallback);
                // What is not written down is not switched back by the next manager.
                if !self.succeeded(self.keep()) {
                    self.versions = before;
                    return;
                }
                self.trial_since = fallback.then(Instant::now);
                self.trial_ends = 0;
                self.follow(kind).await;
            }
            Step::Commit => {
                // Before that is written down, for nobody looks for what it left behind.
                self.store.prune(self.versions.kept());
                self.points.pass(kind, Edge::Over).await;
                self.versions.committed();
                self.trial_since = None;
                self.keep_if_possible();
            }
            Step::SwitchBack => {
                let problem = self.problem.take();
                let message = problem.map_or("it was not ready in time".into(), |it| it.message);
                warn!(message, "the new version of Kubernetes failed");
                self.versions.switched_back(message);
                self.trial_since = None;
                // A full disk may be what the new version died of.
                self.keep_if_possible();
                self.follow(kind).await;
            }
        }
    }

    /// Takes the node out of service, for another version or for a restart.
    async fn send_drain(&mut self, step: Step) {
        let before = self.versions.clone();
        self.versions.service = Service::Leaving;
        self.versions.for_restart = step == Step::StepAside;
        // What is not written down is not given back by the next manager.
        if let Err(problem) = self.keep() {
            self.versions = before;
            self.succeeded(Err(problem));
            return;
        }
        self.points.pass(step.kind(), Edge::Noted).await;
        self.upgrading = true;
        // Until others have said whose turn it is.
        self.not_its_turn = Some(Instant::now());
        let (workloads, why) = (self.helpers.workloads.clone(), step.clone());
        let (failed, points) = (self.versions.failed.clone(), self.points.clone());
        let task = self.sent.spawn(async move {
            let result = match &why {
                Step::Drain(to) => match workloads.note(&failed).await {
                    Ok(()) => workloads.drain(to).await,
                    Err(problem) => Err(problem),
                },
                _ => workloads.step_aside().await,
            };
            points.pass(why.kind(), Edge::Over).await;
            News::Drained(why, result)
        });
        self.draining = Some((step, task));
    }

    fn send_uncordon(&mut self) {
        let workloads = self.helpers.workloads.clone();
        let (failed, points) = (self.versions.failed.clone(), self.points.clone());
        self.upgrading = true;
        self.sent.spawn(async move {
            // First, for the next node begins as soon as it has the lock.
            let result = match workloads.note(&failed).await {
                Ok(()) => workloads.uncordon().await,
                Err(problem) => Err(problem),
            };
            points.pass(StepKind::Uncordon, Edge::Over).await;
            News::Uncordoned(result)
        });
    }

    /// That for which the node is taken out of service is not the next step any more, or
    /// Kubernetes is not ready any more, and then there is nothing to wait for.
    fn end_drain_of_another(&mut self) {
        let Some((step, task)) = &self.draining else { return };
        if self.next_step().as_ref() != Some(step) {
            task.abort();
            (self.draining, self.upgrading) = (None, false);
        }
    }

    fn send_fetch(&mut self) {
        let Wish::Run(wants) = &self.wish else { return };
        let Some(artifact) = wants.artifact.clone() else { return };
        let (store, client) = (self.store.clone(), self.helpers.fetch.clone());
        let points = self.points.clone();
        self.fetching = true;
        self.sent.spawn(async move {
            let fetched = store.fetch(&artifact, client.as_ref()).await;
            points.pass(StepKind::Fetch, Edge::Over).await;
            News::Fetched(fetched.map_err(|error| told(&error, error.reason())))
        });
    }

    /// Lets the link lead to the version that counts, which is written down, and restarts.
    async fn follow(&mut self, kind: StepKind) {
        self.points.pass(kind, Edge::Noted).await;
        self.point_link();
        self.reconcile().await;
        self.points.pass(kind, Edge::Over).await;
    }

    /// Also at the start, for an earlier manager may have died before.
    pub(super) fn point_link(&self) {
        if let Err(error) = self.store.point_at(self.versions.current.as_ref()) {
            // The link is for people and programs beside us; we go by what is written down.
            warn!(error = %error, "the link to Kubernetes' program is not changed");
        }
    }

    fn keep(&self) -> Result<(), Diagnosis> {
        let text = serde_json::to_vec_pretty(&self.versions).unwrap_or_default();
        holdfast_durable::write(&path(&self.settings.paths), &text, 0o600).map_err(|error| {
            let full = error.disk_full();
            told(&error, if full { Reason::StateDiskFull } else { Reason::StateUnwritable })
        })
    }

    /// For what does no harm when the next manager does it again.
    fn keep_if_possible(&self) {
        if let Err(problem) = self.keep() {
            warn!(reason = %problem.reason, message = %problem.message, "what is known of Kubernetes' versions is not kept");
        }
    }

    pub(super) async fn fetched(&mut self, result: Result<(), Diagnosis>) {
        self.fetching = false;
        if self.succeeded(result) {
            // A node without any program waited for this.
            self.reconcile().await;
        }
    }

    pub(super) fn drained(&mut self, step: &Step, result: Result<(), Diagnosis>) {
        // One that was given up may still tell.
        if self.draining.take_if(|(draining, _)| draining == step).is_none() {
            return;
        }
        self.not_its_turn = result.is_err().then(Instant::now);
        let is_elsewhere = |told: &Diagnosis| told.reason == Reason::KubernetesFailedElsewhere;
        let elsewhere = match (&result, &self.wish) {
            (Err(told), Wish::Run(wants)) if is_elsewhere(told) => wants.artifact.clone(),
            _ => None,
        };
        if self.versions.elsewhere != elsewhere {
            self.versions.elsewhere = elsewhere;
            self.keep_if_possible();
        }
        if self.tried(result) {
            self.versions.service = Service::Out;
            self.keep_if_possible();
        } else if self.is_locked() {
            // The lock may be ours in a moment, and others wait for it then.
            self.upgrade_failures = 0;
            self.next_upgrade = Instant::now() + FIRST_PAUSE;
        }
    }

    fn is_locked(&self) -> bool {
        let problem = self.upgrade_problem.as_ref();
        problem.is_some_and(|problem| problem.reason == Reason::NodeRebootLocked)
    }

    pub(super) fn uncordoned(&mut self, result: Result<(), Diagnosis>) {
        if self.tried(result) {
            (self.versions.service, self.versions.for_restart) = (Service::In, false);
            self.keep_if_possible();
        }
    }

    fn tried(&mut self, result: Result<(), Diagnosis>) -> bool {
        self.upgrading = false;
        self.succeeded(result)
    }

    /// Whether it did; else the next attempt waits.
    fn succeeded(&mut self, result: Result<(), Diagnosis>) -> bool {
        let problem = result.err();
        if let Some(problem) = &problem {
            if self.upgrade_problem.as_ref() != Some(problem) {
                warn!(reason = %problem.reason, message = %problem.message, "a step of Kubernetes' supervision waits");
            }
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
