//! The task: it carries out what `plan`, `machine` and `upgrade` decide, and tells them what
//! happened. No policy of its own but paces.
//!
//! Events come from six sides: a wish, a command, the end of the process, an answer of something
//! that was sent off (probe, download, drain), the machine's clock, and the paces below. After
//! each, the upgrade is looked at and the state is told.

mod point;
mod reconcile;
mod report;
mod restart;
mod version;
mod watch;

use super::binary::Store;
use super::diagnose::{Diagnosis, Validity};
use super::launch::{Launch, LaunchError, Launcher, Record};
use super::machine::{Action, Event, Machine, State};
use super::observe;
use super::plan::{Aspect, PlanError};
use super::process::{Ending, Identity, Process};
use super::service::{Command, DistributionState, Helpers, Settings, Wish};
use super::upgrade::{self, Versions};
use super::want::Wanted;
use holdfast_api::Reason;
use jiff::Timestamp;
use point::Points;
use restart::Renewal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};
use watch::LOOK_EVERY;

/// Between two attempts to carry out what could not be.
const RETRY: Duration = Duration::from_secs(10);
/// Between two looks at the length of the log, and at the certificates.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// What something that was sent off brought back.
enum News {
    /// Of the process that was asked about.
    Probe(Option<Identity>, Result<(), String>),
    Fetched(Result<(), Diagnosis>),
    /// Of the step that took the node out of service.
    Drained(upgrade::Step, Result<(), Diagnosis>),
    Uncordoned(Result<(), Diagnosis>),
    /// Of the program of the process that ran when it was asked.
    Version(Option<Identity>, Option<String>),
    /// As the process that ran before the look has them.
    Certificates(Option<Identity>, Vec<Validity>),
    Released,
}

pub(super) struct Task {
    settings: Settings,
    helpers: Helpers,
    wishes: tokio::sync::watch::Receiver<Wish>,
    inbox: mpsc::Receiver<Command>,
    tell: tokio::sync::watch::Sender<DistributionState>,

    launcher: Launcher,
    store: Store,
    machine: Machine,
    process: Option<Process>,
    /// It was looked for and none was there, and none was started since.
    is_absent: bool,
    record: Record,
    wish: Wish,
    wanted: Option<Wanted>,
    /// What the distribution refused; the last good files stand in for it.
    refused: Option<Wanted>,
    versions: Versions,
    trial_since: Option<Instant>,
    /// How often the version on trial ended by itself, or could not be started.
    trial_ends: u32,

    sent: JoinSet<News>,
    probing: bool,
    /// A program is on its way.
    fetching: bool,
    /// The node is being taken out of service, or put back.
    upgrading: bool,
    /// For which step the node is taken out of service.
    draining: Option<(upgrade::Step, AbortHandle)>,
    /// What runs was started with something else in these, and waits for its restart.
    changed: Option<BTreeSet<Aspect>>,
    renewal: Renewal,
    /// When containerd's folder was emptied last.
    mended: Option<Instant>,
    pauses: usize,
    waiting_for_end: Vec<oneshot::Sender<()>>,

    /// Why it was not ready last; gone when it is.
    problem: Option<Diagnosis>,
    /// Why what is wanted cannot be carried out.
    blocked: Option<Diagnosis>,
    /// Why a new version is not had.
    upgrade_problem: Option<Diagnosis>,
    /// When the node was told last that it is not its turn.
    not_its_turn: Option<Instant>,
    /// Looks in a row that found it doomed.
    doomed: u32,

    /// Of the process, when we started it.
    started: Option<(Instant, Timestamp)>,
    ready_after: Option<Duration>,
    starts: u32,
    /// By itself.
    ends: u32,
    version: String,
    /// Its program was asked for its version, and has not answered.
    asking_version: bool,
    next_probe: Instant,
    next_look: Instant,
    next_housekeeping: Instant,
    retry_at: Option<Instant>,
    next_upgrade: Instant,
    upgrade_failures: u32,
    points: Points,
}

impl Task {
    pub(super) fn new(
        settings: Settings,
        helpers: Helpers,
        wishes: tokio::sync::watch::Receiver<Wish>,
        inbox: mpsc::Receiver<Command>,
        tell: tokio::sync::watch::Sender<DistributionState>,
    ) -> Self {
        let now = Instant::now();
        let launcher = Launcher::new(settings.how, &settings.paths);
        let store = Store::new(&settings.paths);
        let versions = version::load(&settings.paths, &store);
        let renewal = Renewal::load(&settings.paths);
        Task {
            launcher,
            store,
            versions,
            settings,
            helpers,
            wishes,
            inbox,
            tell,
            machine: Machine::default(),
            process: None,
            is_absent: false,
            record: Record::default(),
            wish: Wish::Unknown,
            wanted: None,
            refused: None,
            trial_since: None,
            trial_ends: 0,
            sent: JoinSet::new(),
            probing: false,
            fetching: false,
            upgrading: false,
            draining: None,
            changed: None,
            renewal,
            mended: None,
            pauses: 0,
            waiting_for_end: Vec::new(),
            problem: None,
            blocked: None,
            upgrade_problem: None,
            // What an earlier manager was told is not known: one that ends is given its time first.
            not_its_turn: Some(Instant::now()),
            doomed: 0,
            started: None,
            ready_after: None,
            starts: 0,
            ends: 0,
            version: String::new(),
            asking_version: false,
            next_probe: now,
            next_look: now,
            next_housekeeping: now,
            retry_at: None,
            next_upgrade: now,
            upgrade_failures: 0,
            points: Points::default(),
        }
    }

    pub(super) async fn run(mut self) {
        self.point_link();
        self.send_clean();
        self.take_wish().await;
        loop {
            self.upgrade().await;
            self.report();
            let wake = self.wake_at().into();
            // Each arm may be dropped and waited for again: nothing is taken before it is whole.
            tokio::select! {
                changed = self.wishes.changed() => match changed {
                    Ok(()) => self.take_wish().await,
                    Err(_) => return,
                },
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = ended(self.process.as_ref()) => self.has_ended().await,
                Some(news) = self.sent.join_next() => match news {
                    Ok(news) => self.hear(news).await,
                    Err(ended) if ended.is_cancelled() => {}
                    Err(fault) => {
                        error!(error = %fault, "a helper of Kubernetes' supervision failed");
                        (self.probing, self.fetching) = (false, false);
                        (self.upgrading, self.draining) = (false, None);
                    }
                },
                () = tokio::time::sleep_until(wake) => self.pass_time().await,
            }
        }
    }

    async fn take_wish(&mut self) {
        self.wish = self.wishes.borrow_and_update().clone();
        self.forgive();
        // What is new may be what was missing.
        (self.next_upgrade, self.upgrade_failures) = (Instant::now(), 0);
        self.reconcile().await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Restart => self.event(Event::Restart).await,
            Command::Pause { stopped, until } => {
                self.pauses += 1;
                self.sent.spawn(async move {
                    // Its other end is dropped, never used.
                    let _dropped = until.await;
                    News::Released
                });
                self.waiting_for_end.push(stopped);
                self.reconcile().await;
            }
        }
    }

    /// Tells the machine, and does what it says, to the end.
    async fn event(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let before = self.machine.phase();
            let action = self.machine.on(event, Instant::now());
            match action {
                Some(Action::Start) => {
                    if let Err(problem) = self.launch().await {
                        warn!(reason = %problem.reason, message = %problem.message, "Kubernetes cannot be started");
                        self.problem = Some(problem);
                        // What keeps every version from starting says nothing of this one.
                        if self.blocked.is_none() {
                            self.trial_ends = self.trial_ends.saturating_add(1);
                        }
                        next = Some(Event::Exited { jitter: jitter() });
                    }
                }
                Some(Action::Stop) => self.signal(Process::ask_to_end),
                Some(Action::Kill) => {
                    warn!("Kubernetes did not end by itself and is killed");
                    self.signal(Process::kill);
                }
                None => {}
            }
            if self.machine.phase() != before {
                let now = Instant::now();
                (self.next_probe, self.next_look, self.doomed) = (now, now + LOOK_EVERY, 0);
            }
        }
        self.tell_whether_ended();
    }

    /// Whoever paused it may go on, when it is known that none runs: they replace its datastore.
    fn tell_whether_ended(&mut self) {
        if self.is_absent && !self.machine.runs() {
            for waiting in self.waiting_for_end.drain(..) {
                let _gave_up = waiting.send(());
            }
        }
    }

    fn signal(&self, send: impl FnOnce(&Process) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.process.as_ref().map(send) {
            warn!(error = %error, "Kubernetes cannot be signalled");
        }
    }

    async fn launch(&mut self) -> Result<(), Diagnosis> {
        let wanted = self.wanted.as_ref().ok_or_else(|| Diagnosis {
            reason: Reason::Internal,
            message: "nothing is wanted and something is started".into(),
        })?;
        // Also when it ended by itself: the next one would begin with nothing, somewhere else.
        if let Some(elsewhere) = observe::elsewhere(&self.settings.paths) {
            let error = PlanError::DataElsewhere(elsewhere);
            let problem = told(&error, error.reason());
            self.blocked = Some(problem.clone());
            return Err(problem);
        }
        let mut arguments = match &self.wish {
            Wish::Run(wants) => vec![wants.command().to_owned()],
            Wish::Unknown | Wish::Off => Vec::new(),
        };
        arguments.extend(self.settings.arguments.iter().cloned());
        let launch = Launch {
            program: self.program(),
            arguments,
            environment: self.settings.environment.clone(),
            aspects: wanted.aspects.clone(),
        };
        self.mend().await;
        // Also when that fails: systemd may have begun.
        self.is_absent = false;
        let process = match self.launcher.start(&launch).await {
            Ok(process) => process,
            Err(error) => {
                // One that ended at once has said why.
                self.record = self.launcher.places().record();
                let log = matches!(error, LaunchError::Gone).then_some(Ending::Unknown);
                let said = if log.is_some() { self.diagnose(log).await } else { None };
                return Err(said.unwrap_or_else(|| told(&error, error.reason())));
            }
        };
        info!(pid = process.pid(), program = %launch.program.display(), "Kubernetes is started");
        self.process = Some(process);
        self.record = self.launcher.places().record();
        self.started = Some((Instant::now(), Timestamp::now()));
        self.starts = self.starts.saturating_add(1);
        self.ask_version();
        Ok(())
    }

    async fn has_ended(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.is_absent = true;
        let ending = self.launcher.ending(&process).await;
        if matches!(self.machine.state(), State::Stopping { .. }) {
            info!(%ending, "Kubernetes is stopped");
        } else {
            let found = self.diagnose(Some(ending)).await;
            warn!(
                reason = %found.as_ref().map_or(Reason::KubernetesExited, |found| found.reason),
                message = %found.as_ref().map_or("", |found| found.message.as_str()),
                "Kubernetes ended"
            );
            self.problem = found;
            self.ends = self.ends.saturating_add(1);
            self.trial_ends = self.trial_ends.saturating_add(1);
            self.fall_back();
        }
        self.event(Event::Exited { jitter: jitter() }).await;
        // What was refused, or wanted meanwhile, is looked at again.
        self.reconcile().await;
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Probe(of, answer) => {
                self.probing = false;
                if of == self.identity() {
                    self.probed(answer).await;
                }
            }
            News::Version(of, version) => {
                if of == self.identity() {
                    self.asking_version = false;
                    self.version = version.unwrap_or_default();
                }
            }
            News::Released => {
                self.pauses = self.pauses.saturating_sub(1);
                if self.pauses == 0 && self.versions.on_trial {
                    // It could not show what it is worth meanwhile.
                    (self.trial_since, self.trial_ends) = (Some(Instant::now()), 0);
                }
                self.reconcile().await;
            }
            News::Fetched(result) => self.fetched(result).await,
            News::Drained(step, result) => self.drained(&step, result),
            News::Certificates(of, seen) => {
                if of == self.identity() {
                    self.judge_certificates(seen).await;
                }
            }
            News::Uncordoned(result) => self.uncordoned(result),
        }
    }

    fn wake_at(&self) -> Instant {
        let probe = self.is_probed().then_some(self.next_probe);
        [self.machine.wake_at(), self.retry_at, probe, self.upgrade_at()]
            .into_iter()
            .flatten()
            .fold(self.next_housekeeping, Instant::min)
    }

    async fn pass_time(&mut self) {
        let now = Instant::now();
        self.event(Event::Tick).await;
        if self.retry_at.is_some_and(|at| now >= at) {
            self.reconcile().await;
        }
        if self.is_probed() && now >= self.next_probe {
            self.send_probe();
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.send_look_at_certificates();
            // The program may have been too busy to say it.
            if self.version.is_empty() && self.process.is_some() && !self.asking_version {
                self.ask_version();
            }
            let places = self.launcher.places().clone();
            // Without a log there is none to keep within bounds.
            let _no_log = tokio::task::spawn_blocking(move || places.bound_log()).await;
        }
    }

    /// Of what runs.
    fn identity(&self) -> Option<Identity> {
        self.process.as_ref().map(Process::identity).cloned()
    }

    fn ask_version(&mut self) {
        let program = self.record.aspects.get(&Aspect::Program).cloned().unwrap_or_default();
        let of = self.identity();
        self.asking_version = true;
        self.sent.spawn(async move { News::Version(of, version::of(&program).await) });
    }
}

async fn ended(process: Option<&Process>) {
    match process {
        Some(process) if process.ended().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// The whole chain of an error.
fn told(error: &dyn std::error::Error, reason: Reason) -> Diagnosis {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let message = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    Diagnosis { reason, message }
}

/// 0 to 1; one half where the kernel gives no random numbers.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests;
