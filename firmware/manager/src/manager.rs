//! The manager's loop: one task that owns all state. Others hold its inbox or watch its report.

use crate::cluster::{self, Cluster, Wanted};
use crate::contact::Contact;
use crate::desired::{Desired, item};
use crate::hardware::{self, Hardware};
use crate::inputs::Inputs;
use crate::leases::Leases;
use crate::lifecycle::{Event, Lifecycle};
use crate::local_api::Request;
use crate::pass::Pass;
use crate::report;
use crate::settings::Settings;
use crate::tunnel_daemon::{Changes, TunnelDaemon};
use crate::uplink::{self, Uplink, UplinkEvent};
use holdfast_api::Reason;
use holdfast_api::chain;
use holdfast_api::local::{
    ItemReport, ItemState, NodeReport, PlanReport, Problem, Stage, TokenInput,
};
use holdfast_api::paths::Root;
use holdfast_api::tunnel::TunnelsState;
use holdfast_identity::{KnownTime, effective_now};
use jiff::Timestamp;
use netd::watch::{AsyncWatch, Watch};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// `tunneld` tells when something changes; counters and round-trip times are looked at this often.
const TUNNEL_LOOK: Duration = Duration::from_secs(30);
/// Until a watch that broke is asked again.
const WATCH_PAUSE: Duration = Duration::from_secs(2);
/// A tunnel daemon that does not answer is started again after this long, so that one that dies at
/// once does not take the machine with it.
const TUNNELD_RESTART: Duration = Duration::from_secs(2);
/// The kernel sends a burst for one change; a pass follows when it is over.
const NETWORK_SETTLES: Duration = Duration::from_millis(200);
/// Somebody who changes the network all the time gets it put back once in this time, and costs no more.
const NETWORK_PASS_EVERY: Duration = Duration::from_secs(1);

/// All state of the manager.
pub struct Manager {
    root: Root,
    settings: Arc<Settings>,
    hardware: Hardware,
    desired: Desired,
    lifecycle: Lifecycle,
    leases: Leases,
    /// Away only while a pass runs.
    pass: Option<Pass>,
    items: Vec<ItemReport>,
    tunnels: Option<TunnelsState>,
    daemon: TunnelDaemon,
    daemon_changes: Changes,
    daemon_started: Option<Instant>,
    last_look: Instant,
    cluster: Cluster,
    /// Why the release that is wanted is not here.
    release_problem: Option<Problem>,
    uplink: Uplink,
    uplink_events: mpsc::Receiver<UplinkEvent>,
    contact: Contact,
    /// The local settings are not those that the files ask for.
    settings_problem: Option<Problem>,
    inbox: mpsc::Receiver<Request>,
    report: watch::Sender<NodeReport>,
    next_pass: Instant,
    last_pass: Instant,
}

impl Manager {
    /// Reads what the disk and the machine say; nothing is changed yet.
    pub fn new(
        root: Root,
        (settings, settings_problem): (Arc<Settings>, Option<Problem>),
        inbox: mpsc::Receiver<Request>,
    ) -> (Self, watch::Receiver<NodeReport>) {
        let hardware = hardware::look(&root, &settings);
        info!(profile = hardware.profile.name, "hardware profile");
        tell_hardware(&hardware.item);
        let desired = Desired::open(&root);
        let now = Instant::now();
        let admitted = uplink::is_admitted(&root);
        let (report, receiver) = watch::channel(empty_report());
        let (uplink, uplink_events) = Uplink::start(
            root.clone(),
            settings.clone(),
            hardware::device_facts(&hardware),
            desired.generation(),
            desired.current().and_then(|spec| spec.kubernetes.as_ref()?.release.clone()),
            receiver.clone(),
        );
        let daemon = TunnelDaemon::new(root.clone(), settings.tunneld.clone());
        let cluster = Cluster::start(&root, settings.clone());
        let manager = Manager {
            daemon_changes: daemon.follow(),
            daemon,
            lifecycle: Lifecycle::new(admitted, now),
            root,
            settings: settings.clone(),
            hardware,
            desired,
            leases: Leases::new(settings.hostname.clone()),
            pass: Some(Pass::default()),
            items: Vec::new(),
            tunnels: None,
            daemon_started: None,
            last_look: now,
            cluster,
            release_problem: None,
            uplink,
            uplink_events,
            contact: Contact::default(),
            settings_problem,
            inbox,
            report,
            next_pass: now,
            last_pass: now,
        };
        (manager, receiver)
    }

    /// Kubernetes, for local clients.
    pub fn cluster(&self) -> cluster::Client {
        self.cluster.client()
    }

    /// The loop. Every arm may be cancelled: each only receives.
    pub async fn run(mut self) {
        let mut network = watch_network();
        self.take_last_good_tunnels();
        loop {
            self.publish();
            let look = self.next_look();
            let next_pass = self.next_pass;
            tokio::select! {
                event = self.uplink_events.recv() => match event {
                    Some(event) => self.on_uplink(event).await,
                    None => return error!("the uplink task ended"),
                },
                request = self.inbox.recv() => match request {
                    Some(request) => self.on_request(request).await,
                    None => return,
                },
                () = self.leases.changed() => self.next_pass = Instant::now(),
                () = changed(&mut network) => {
                    let soon = (Instant::now() + NETWORK_SETTLES).max(self.last_pass + NETWORK_PASS_EVERY);
                    self.next_pass = self.next_pass.min(soon);
                }
                () = tokio::time::sleep_until(next_pass.into()) => self.run_pass().await,
                () = self.daemon_changes.next() => self.look_at_tunnels().await,
                () = self.cluster.changed() => self.look_at_health(),
                () = tokio::time::sleep_until(look.into()) => self.look_at_tunnels().await,
            }
        }
    }

    /// Tunnels come up before the controller is asked: the node lives without it.
    fn take_last_good_tunnels(&self) {
        let (run, last) = (self.root.tunnels_config(), self.root.tunnels_last_good());
        if !run.exists()
            && let Ok(text) = std::fs::read(&last)
            && let Err(error) = holdfast_durable::write(&run, &text, 0o600)
        {
            warn!(error = chain(&error), "cannot hand the last good tunnels to tunneld");
        }
    }

    async fn on_uplink(&mut self, event: UplinkEvent) {
        let now = Instant::now();
        match event {
            UplinkEvent::Target { tenant, controller } => {
                self.contact.tenant = tenant;
                self.contact.controller = controller;
                self.lifecycle.on(Event::TokenFound, now);
            }
            UplinkEvent::Trouble(problem) => {
                self.contact.failed(problem);
            }
            UplinkEvent::Reached => self.contact.reached(),
            UplinkEvent::Pending => {
                self.lifecycle.on(Event::Pending, now);
            }
            UplinkEvent::Admitted { tenant, site, node } => {
                self.contact = Contact { tenant, site, node, ..std::mem::take(&mut self.contact) };
                self.contact.reached();
                self.lifecycle.on(Event::Admitted, now);
            }
            UplinkEvent::Refused(problem) => {
                self.lifecycle.on(Event::Refused(problem.reason), now);
                self.contact.failed(problem);
                self.want_kubernetes();
            }
            UplinkEvent::Release => {
                self.release_problem = None;
                self.want_kubernetes();
            }
            UplinkEvent::ReleaseTrouble(problem) => {
                self.release_problem = Some(problem);
                self.want_kubernetes();
            }
            UplinkEvent::Config(offered) => {
                if self.desired.offer(*offered) {
                    self.run_pass().await;
                } else {
                    self.want_kubernetes();
                }
            }
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Reconcile => self.next_pass = Instant::now(),
            Request::Plan(answer) => {
                let plan = self.plan().await;
                // The client may have gone; nobody misses the answer then.
                let _ = answer.send(plan);
            }
            Request::SetToken(input, answer) => {
                let _ = answer.send(self.set_token(&input));
            }
        }
    }

    fn set_token(&mut self, input: &TokenInput) -> Result<(), Problem> {
        let admitted = matches!(
            self.lifecycle.stage(),
            Stage::Bootstrapping | Stage::Online | Stage::Degraded
        );
        if admitted {
            return Err(Problem::new(
                Reason::ControllerRefused,
                "this node is registered already; reset it before it registers again",
            ));
        }
        self.uplink.set_token(input)
    }

    async fn plan(&mut self) -> PlanReport {
        let mut report = self.in_pass(|pass, inputs| pass.plan(inputs)).await.unwrap_or_default();
        report.problems.extend(self.desired.problem().cloned());
        report.problems.extend(self.settings_problem.clone());
        let pending = self.daemon.state().await.map(|state| state.pending).unwrap_or_default();
        report.steps.extend(pending.into_iter().map(|text| holdfast_api::local::PlannedStep {
            domain: "tunnels".into(),
            text,
            effect: holdfast_api::local::Effect::Live,
            traffic: holdfast_api::local::TrafficImpact::Brief,
        }));
        report
    }

    async fn run_pass(&mut self) {
        self.desired.try_again();
        let hardware = hardware::look(&self.root, &self.settings);
        if hardware.item != self.hardware.item {
            tell_hardware(&hardware.item);
        }
        self.hardware = hardware;
        if let Some(items) = self.in_pass(|pass, inputs| pass.run(inputs)).await {
            let told = items
                .iter()
                .any(|item| item.domain == "tunnels" && item.state == ItemState::Changed);
            let unanswered = self.leases.problems().into_iter().map(|problem| ItemReport {
                domain: "dhcp".into(),
                state: ItemState::Waiting,
                reason: Some(problem.reason),
                message: problem.message,
            });
            self.items = std::iter::once(self.hardware.item.clone())
                .chain(items)
                .chain(unanswered)
                .chain(clock(&self.root))
                .collect();
            if told {
                self.daemon.reload().await;
            }
        }
        self.last_pass = Instant::now();
        self.next_pass = self.last_pass + self.settings.pass;
        self.want_kubernetes();
        self.look_at_tunnels().await;
    }

    /// Domains talk to the kernel and the disk, which can take their time: they do it on a thread
    /// of their own, so that the local API answers meanwhile.
    async fn in_pass<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Pass, &Inputs) -> T + Send + 'static,
    ) -> Option<T> {
        let mut inputs = self.inputs();
        self.leases.want(&crate::intent::network::wanted(&inputs).dhcp);
        inputs.leases = self.leases.have();
        let mut pass = self.pass.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let result = act(&mut pass, &inputs);
            (pass, result)
        });
        match done.await {
            Ok((pass, result)) => {
                self.pass = Some(pass);
                Some(result)
            }
            Err(error) => {
                error!(%error, "a pass broke off");
                self.pass = Some(Pass::default());
                None
            }
        }
    }

    fn inputs(&self) -> Inputs {
        Inputs {
            root: self.root.clone(),
            settings: self.settings.clone(),
            desired: self.desired.current().cloned().map(Arc::new),
            admitted: uplink::is_admitted(&self.root),
            facts: self.hardware.facts.clone(),
            profile: self.hardware.profile.clone(),
            leases: self.leases.have(),
        }
    }

    fn wanted_tunnels(&self) -> u8 {
        let intent = self.desired.current().and_then(|spec| spec.tunnels.as_ref());
        intent.map_or(0, |intent| intent.want)
    }

    /// What the last pass said, and what is wrong beside it.
    fn items(&self) -> Vec<ItemReport> {
        let settings = self.settings_problem.as_ref().map(|problem| item("settings", problem));
        let kubernetes = self.cluster.state().map(|state| cluster::item(&state));
        let beside = settings.into_iter().chain(self.desired.item()).chain(kubernetes);
        self.items.iter().cloned().chain(beside).collect()
    }

    /// When tunnels are looked at though nobody says that they changed.
    fn next_look(&self) -> Instant {
        let calm = self.last_look + TUNNEL_LOOK;
        self.lifecycle.wake_at().map_or(calm, |at| {
            // Past: the machine has been told of it already and waits for something else.
            if at > self.last_look { at.min(calm) } else { calm }
        })
    }

    async fn look_at_tunnels(&mut self) {
        self.tunnels = self.daemon.state().await;
        let now = Instant::now();
        self.last_look = now;
        if self.tunnels.is_none()
            && self.daemon_started.is_none_or(|at| now >= at + TUNNELD_RESTART)
        {
            self.daemon_started = Some(now);
            if let Err(error) = self.daemon.start() {
                error!(%error, "cannot start tunneld");
            }
        }
        self.cluster.tunnels(self.tunnels.as_ref().map_or(0, TunnelsState::up));
        self.look_at_health();
    }

    /// Told after each pass (what the pass makes, such as huge pages, is there then) and when a
    /// release was fetched, or could not be.
    fn want_kubernetes(&self) {
        let (inputs, problem) = (self.inputs(), self.release_problem.as_ref());
        let is_retired = self.lifecycle.stage() == Stage::Refused
            && matches!(
                self.lifecycle.reason(),
                Some(Reason::RegistrationRetired | Reason::RegistrationRejected)
            );
        let unkept = self.desired.unkept_release();
        self.cluster.want(|before| Wanted {
            is_retired,
            unkept,
            ..Wanted::of(&inputs, problem, before)
        });
    }

    fn look_at_health(&mut self) {
        let now = Instant::now();
        let health = report::observed(
            self.desired.current().is_some(),
            self.wanted_tunnels(),
            &self.items(),
            self.tunnels.as_ref(),
        );
        self.lifecycle.on(Event::Observed(health), now);
    }

    fn publish(&self) {
        let stage = self.lifecycle.stage();
        let (mut report, explanation) = (empty_report(), &self.hardware.explanation);
        let desired = self.desired.current();
        let problem = self
            .contact
            .problem
            .as_ref()
            .or(self.desired.problem())
            .or(self.settings_problem.as_ref());
        report.node = desired.map_or_else(|| self.contact.node.clone(), |spec| spec.node.clone());
        report.site = desired.map_or_else(|| self.contact.site.clone(), |spec| spec.site.clone());
        report.tenant = self.contact.tenant.clone();
        report.profile = self.hardware.profile.name.clone();
        report.profile_explanation = explanation.clone();
        report.hardware = format!(
            "{} {}",
            self.hardware.facts.dmi.sys_vendor, self.hardware.facts.dmi.product_name
        )
        .trim()
        .to_owned();
        report.stage = stage;
        report.stages = self.lifecycle.history().to_vec();
        report.generation = self.desired.generation();
        report.controller = self.contact.controller.clone();
        report.controller_reachable = self.contact.reachable;
        report.items = self.items();
        report.tunnels = self.tunnels.clone();
        report.kubernetes = self.cluster.state();
        report.reason = match stage {
            Stage::Online => problem.map(|p| p.reason),
            _ => problem
                .map(|p| p.reason)
                .filter(|r| r.severity() > holdfast_api::Severity::Info)
                .or(self.lifecycle.reason()),
        };
        report.message = problem
            .filter(|problem| Some(problem.reason) == report.reason)
            .map(|problem| problem.message.clone())
            .or_else(|| report.reason.map(|reason| reason.sentence().to_owned()))
            .unwrap_or_default();
        report.next_step =
            report.reason.map(|reason| reason.next_step().to_owned()).unwrap_or_default();
        self.report.send_if_modified(|have| {
            let news = *have != report;
            *have = report;
            news
        });
    }
}

/// A clock that is not believed.
fn clock(root: &Root) -> Option<ItemReport> {
    let known = KnownTime::new(&root.identity_dir()).load();
    let clock = Timestamp::now();
    let time = effective_now(clock, known);
    let text = format!("the clock says {clock}; {} is used instead", time.now);
    time.reason().map(|reason| item("clock", &Problem::new(reason, text)))
}

fn tell_hardware(item: &ItemReport) {
    if let Some(reason) = item.reason {
        warn!(%reason, message = item.message, "hardware");
    }
}

fn watch_network() -> Option<AsyncWatch> {
    let opened = Watch::open()
        .map_err(|error| chain(&error))
        .and_then(|watch| watch.into_async().map_err(|error| error.to_string()));
    opened
        .map_err(|error| error!(error, "no watch on the network; drift is found at the next pass"))
        .ok()
}

async fn changed(watcher: &mut Option<AsyncWatch>) {
    match watcher {
        Some(watcher) => {
            if let Err(error) = watcher.changed().await {
                warn!(error = chain(&error), "watch on the network");
                // The periodic pass still finds what changed; a broken watch must not spin.
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        }
        None => std::future::pending().await,
    }
}

pub(crate) fn empty_report() -> NodeReport {
    NodeReport {
        version: env!("CARGO_PKG_VERSION").into(),
        node: String::new(),
        site: String::new(),
        tenant: String::new(),
        profile: String::new(),
        profile_explanation: Vec::new(),
        hardware: String::new(),
        stage: Stage::NoToken,
        stages: Vec::new(),
        uptime_ms: 0,
        generation: 0,
        controller: String::new(),
        controller_reachable: false,
        reason: None,
        message: String::new(),
        next_step: String::new(),
        items: Vec::new(),
        kubernetes: None,
        tunnels: None,
    }
}
