//! The thread that decides: what is measured, what is chosen, what stands, what the kernel has.
//!
//! [`Control::turn`] is level-triggered: it compares what should be with what is and does the
//! rest, so a missed event costs a moment and never correctness.

use super::health::{Doctor, TunnelSince};
use super::liveness::{Event, Liveness};
use super::settings::{self, Settings, SettingsProblem};
use super::tunnel::{Tunnel, TunnelId, chain};
use super::want::{self, Wanted};
use super::{Options, Question};
use crate::bfd::{Service, State};
use crate::names::{FWMARK, GROUP};
use crate::probe::{PACKET_BYTES, Prober};
use crate::select::{Candidate, Choice, Health, Selector};
use crate::slots::{Slots, Use};
use anyhow::Context;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::paths::Root;
use holdfast_api::tunnel::{EdgeCandidate, TunnelKind};
use netd::{Kernel, Network, Observed, Ownership};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::UnboundedSender;

/// After the answers that would do, so long is waited for those that got lost on the first try
/// (two more follow within 40 ms).
const PROBE_GRACE: Duration = Duration::from_millis(45);
/// By then the silent ones are known to be silent.
const PROBE_PATIENCE: Duration = Duration::from_millis(1200);
/// First pause after a failure of the kernel or of a device; doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Names of past tunnels that are remembered, to tell what the last failover was about.
const REMEMBERED: usize = 16;

/// Which state of a file was read.
type Stamp = (SystemTime, u64, u64);

/// A trouble: its reason, and in words.
pub(super) type Trouble = (Reason, String);

/// Everything but the BFD thread and the packets.
pub(super) struct Control {
    root: Root,
    config: PathBuf,
    stamp: Option<Stamp>,
    pub(super) settings: Option<Settings>,
    pub(super) config_trouble: Option<Trouble>,
    pub(super) kind: Option<TunnelKind>,
    kernel: Kernel,
    pub(super) prober: Prober,
    probing_since: Option<Instant>,
    doctor: Doctor,
    selector: Selector,
    pub(super) choice: Choice,
    slots: Slots<String>,
    pub(super) tunnels: BTreeMap<String, Tunnel>,
    /// Which edge a tunnel led to, also of those that traffic left last.
    pub(super) edges: BTreeMap<TunnelId, String>,
    serial: u32,
    pub(super) bfd: Service<TunnelId>,
    pub(super) liveness: Liveness,
    /// Something changed, so the kernel has to be looked at.
    look: bool,
    /// The change is not our own doing.
    look_for_drift: bool,
    retry: Option<(Instant, Duration)>,
    pub(super) pending: Vec<String>,
    pub(super) troubles: Vec<Trouble>,
    /// Times that the kernel's network was put back.
    pub(super) mended: u64,
}

impl Control {
    /// Opens what it needs; nothing is changed yet.
    ///
    /// # Errors
    /// No netlink socket, no thread, no randomness.
    pub(super) fn start(options: &Options, events: UnboundedSender<Event>) -> anyhow::Result<Self> {
        let seed = getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let kernel = || Kernel::open().context("cannot speak to the kernel's network");
        let quick = kernel()?;
        if let Err(error) = quick.disable_nexthop_compat() {
            tracing::warn!(%error, "net.ipv4.nexthop_compat_mode stays on; a failover costs time for each route");
        }
        let liveness = Liveness::new(quick, events);
        Ok(Control {
            config: options.config.clone().unwrap_or_else(|| options.root.tunnels_config()),
            root: options.root.clone(),
            stamp: None,
            settings: None,
            config_trouble: None,
            kind: None,
            kernel: kernel()?,
            prober: Prober::new(seed),
            probing_since: None,
            doctor: Doctor::default(),
            selector: Selector::default(),
            choice: Choice::default(),
            slots: Slots::default(),
            tunnels: BTreeMap::new(),
            edges: BTreeMap::new(),
            serial: 0,
            bfd: Service::start(seed.rotate_left(32), liveness.clone()).context("cannot start BFD")?,
            liveness,
            look: false,
            look_for_drift: false,
            retry: None,
            pending: Vec::new(),
            troubles: Vec::new(),
            mended: 0,
        })
    }

    /// The socket for probes. Needs a tokio runtime.
    pub(super) fn probe_socket(&self) -> anyhow::Result<tokio::net::UdpSocket> {
        let socket = crate::udp::open(0, FWMARK).context("cannot open a socket for probes")?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }

    /// Takes the file that is followed, or the last good one when that is of no use.
    pub(super) fn load(&mut self, now: Instant) {
        if self.reload(now).is_ok() {
            return;
        }
        let last_good = self.root.tunnels_last_good();
        match settings::read(&last_good) {
            Ok((settings, _)) => {
                tracing::info!(path = %last_good.display(), "the last good configuration is in force");
                self.accept(settings, now);
            }
            Err(error) if error.is_missing() => {}
            Err(error) => tracing::warn!(error = chain(&error), "no last good configuration either"),
        }
    }

    /// Reads the file when it is another one than last time.
    pub(super) fn look_at_file(&mut self, now: Instant) {
        if self.stamp_of_file() != self.stamp {
            let _ = self.reload(now);
        }
    }

    /// Reads the file now. What it says is in force when this returns; its consequences follow
    /// with the next turn.
    pub(super) fn reload(&mut self, now: Instant) -> Result<u64, Problem> {
        self.stamp = self.stamp_of_file();
        match settings::read(&self.config) {
            Ok((settings, bytes)) => {
                let generation = settings.generation;
                self.config_trouble = None;
                self.keep_as_last_good(&bytes);
                tracing::info!(generation, "configuration in force");
                self.accept(settings, now);
                Ok(generation)
            }
            Err(error) => {
                let problem = Problem::new(error.reason(), chain(&error));
                self.config_trouble = self.trouble_of(&error);
                Err(problem)
            }
        }
    }

    fn trouble_of(&self, error: &SettingsProblem) -> Option<Trouble> {
        // No file is how every node begins, and what a reboot without the manager looks like.
        if error.is_missing() {
            return None;
        }
        tracing::error!(error = chain(error), "the configuration cannot be used");
        Some((error.reason(), chain(error)))
    }

    fn stamp_of_file(&self) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&self.config).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    }

    fn keep_as_last_good(&mut self, bytes: &[u8]) {
        let path = self.root.tunnels_last_good();
        if path == self.config {
            return;
        }
        if let Err(error) = holdfast_durable::write_if_changed(&path, bytes, 0o600) {
            let reason = if error.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable };
            tracing::warn!(error = chain(&error), "the configuration will not survive a reboot");
            self.config_trouble = Some((reason, chain(&error)));
        }
    }

    fn accept(&mut self, settings: Settings, now: Instant) {
        self.kind = settings.kinds.iter().copied().find(|kind| match kind {
            TunnelKind::WireguardKernel => self.kernel.wireguard_supported(),
            TunnelKind::WireguardUserspace => true,
        });
        let kind = self.kind;
        let moved = self.settings.as_ref().is_some_and(|old| old.overlay != settings.overlay);
        let candidates: BTreeMap<&str, &EdgeCandidate> =
            settings.candidates.iter().map(|edge| (edge.name.as_str(), edge)).collect();
        let mut gone = Vec::new();
        for (name, tunnel) in &mut self.tunnels {
            match candidates.get(name.as_str()) {
                Some(edge) if !moved && Some(tunnel.kind) == kind && tunnel.is_still(edge) => {
                    if tunnel.update(edge, &settings) {
                        renew_in_kernel(&mut self.kernel, &settings, tunnel);
                    }
                    if let Some(link) = tunnel.bfd_link {
                        self.bfd.insert(tunnel.id, link, edge.overlay_address, settings.bfd);
                    }
                }
                // It is made anew, in its slot.
                Some(_) => gone.push(name.clone()),
                // The selector drops it; until then it may carry traffic.
                None => {}
            }
        }
        let targets: Vec<(&str, SocketAddr)> =
            settings.candidates.iter().map(|edge| (edge.name.as_str(), edge.probe)).collect();
        self.prober.set_targets(targets, now);
        if self.tunnels.is_empty() {
            self.probing_since = Some(now);
        }
        self.settings = Some(settings);
        for name in gone {
            self.dismantle(&name, now);
        }
        self.look = true;
        self.retry = None;
    }

    /// Brings everything one step on.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.settings.is_none() {
            return;
        }
        let broken: Vec<String> =
            self.tunnels.iter().filter(|(_, t)| t.is_broken()).map(|(name, _)| name.clone()).collect();
        for name in broken {
            tracing::warn!(edge = name, "the tunnel's link was taken away");
            self.dismantle(&name, now);
        }
        self.choose(now);
        self.arrange(now);
        let retry = self.retry.is_some_and(|(at, _)| now >= at);
        // What we fail to do changes the network as well: that is for the retry to look at.
        let drift = self.look_for_drift && self.retry.is_none();
        if self.look || drift || retry {
            self.make_missing(now);
            self.reconcile(now);
        }
    }

    /// Which edges, once enough is known.
    fn choose(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        let candidates: Vec<Candidate> = settings
            .candidates
            .iter()
            .map(|edge| {
                let measured = self.prober.measured(&edge.name);
                let tunnel = self.tunnels.get(&edge.name);
                let since = tunnel.map(|t| TunnelSince { up: t.state == State::Up, since: t.since });
                Candidate {
                    name: edge.name.clone(),
                    domain: edge.failure_domain.clone(),
                    rtt: measured.and_then(|measured| measured.rtt),
                    health: self.doctor.judge(&edge.name, measured, since, now),
                }
            })
            .collect();
        if self.choice.edges.is_empty() && self.decide_at(settings.want, &candidates) > Some(now) {
            return;
        }
        let choice = self.selector.decide(settings.want, &candidates, now);
        if choice != self.choice {
            tracing::info!(edges = ?choice.edges, shared_domain = ?choice.shared_domain, "edges chosen");
            self.choice = choice;
        }
    }

    /// When the first choice can be made; none: now. Once `want` edges of different domains
    /// have answered, one that is nearer would have answered after their time as well.
    fn decide_at(&self, want: usize, candidates: &[Candidate]) -> Option<Instant> {
        let since = self.probing_since?;
        if self.prober.settled() {
            return None;
        }
        let living: Vec<Candidate> =
            candidates.iter().filter(|c| c.rtt.is_some()).cloned().collect();
        let first = Selector::default().decide(want, &living, since);
        let enough = first.edges.len() == want && first.shared_domain.is_none();
        let farthest = living.iter().filter(|c| first.edges.contains(&c.name)).filter_map(|c| c.rtt).max();
        let patience = farthest.filter(|_| enough).map_or(PROBE_PATIENCE, |rtt| rtt + PROBE_GRACE);
        Some(since + patience.min(PROBE_PATIENCE))
    }

    /// Which tunnels, on which slots, in which order.
    fn arrange(&mut self, now: Instant) {
        let active = self.liveness.active();
        let usage = |edge: &String| match self.tunnels.get(edge) {
            Some(tunnel) => Use { up: tunnel.state == State::Up, active: active == Some(tunnel.id) },
            None => Use { up: false, active: false },
        };
        let before = self.slots.clone();
        self.slots.arrange(&self.choice.edges, usage);
        let chosen = self.choice.edges.iter().filter(|edge| self.slots.slot_of(edge).is_some());
        let retiring = self.slots.iter().filter(|(_, held)| held.retiring).map(|(_, held)| &held.edge);
        let preferred: Vec<TunnelId> =
            chosen.chain(retiring).filter_map(|edge| self.tunnels.get(edge)).map(|t| t.id).collect();
        // Traffic leaves a tunnel before it is taken down.
        self.liveness.set(&preferred, now);
        self.bfd.wake();
        let gone: Vec<String> =
            self.tunnels.keys().filter(|edge| self.slots.slot_of(edge).is_none()).cloned().collect();
        for edge in gone {
            self.dismantle(&edge, now);
        }
        self.look |= before != self.slots;
    }

    fn make_missing(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        self.troubles.retain(|(reason, _)| *reason != Reason::TunnelEngineFailed);
        let Some(kind) = self.kind else {
            let why = "the kernel has no WireGuard, and no other kind of tunnel is allowed";
            self.troubles.push((Reason::TunnelEngineFailed, why.into()));
            return;
        };
        let missing: Vec<(u8, String)> = self
            .slots
            .iter()
            .filter(|(_, held)| !self.tunnels.contains_key(&held.edge))
            .map(|(slot, held)| (slot, held.edge.clone()))
            .collect();
        for (slot, name) in missing {
            let Some(edge) = settings.candidates.iter().find(|edge| edge.name == name) else { continue };
            self.serial += 1;
            let id = TunnelId { serial: self.serial, slot };
            match Tunnel::make(id, edge, kind, settings, &self.root.wireguard_dir(), now) {
                Ok(tunnel) => {
                    tracing::info!(edge = name, link = tunnel.link(), ?kind, "tunnel made");
                    self.edges.insert(id, name.clone());
                    while self.edges.len() > REMEMBERED {
                        self.edges.pop_first();
                    }
                    self.tunnels.insert(name, tunnel);
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "a tunnel cannot be made");
                    self.troubles.push((error.reason(), chain(&error)));
                }
            }
        }
    }

    fn dismantle(&mut self, edge: &str, now: Instant) {
        let Some(mut tunnel) = self.tunnels.remove(edge) else { return };
        // A tunnel that failover still points at goes to the end of the world first.
        let others: Vec<TunnelId> = self.preferred();
        self.liveness.set(&others, now);
        self.bfd.remove(&tunnel.id);
        if let Some(link) = tunnel.bfd_link.take() {
            self.bfd.close_link(link);
        }
        drop(tunnel.uapi.take());
        tracing::info!(edge, link = tunnel.link(), "tunnel taken down");
        self.look = true;
    }

    fn preferred(&self) -> Vec<TunnelId> {
        let chosen = self.choice.edges.iter().filter_map(|edge| self.tunnels.get(edge));
        let others = self.tunnels.iter().filter(|(edge, _)| !self.choice.edges.contains(edge)).map(|(_, t)| t);
        chosen.chain(others).map(|tunnel| tunnel.id).collect()
    }

    /// Compares the kernel with what should be, and mends it.
    fn reconcile(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        self.look = false;
        let foreign = std::mem::take(&mut self.look_for_drift);
        let wanted: Vec<Wanted> = self.tunnels.values().map(Tunnel::wanted).collect();
        let outcome = mend(&mut self.kernel, settings, &wanted, &mut self.pending);
        self.troubles.retain(|(reason, _)| *reason == Reason::TunnelEngineFailed);
        match outcome {
            Ok(mut mended) => {
                self.open_bfd(now);
                match self.liveness.assert_group(mended.group.as_ref()) {
                    Ok(true) => mended.steps.push("point the group at the active tunnel".into()),
                    Ok(false) => {}
                    Err(error) => self.fail(now, Reason::NetApplyFailed, chain(&error)),
                }
                if foreign && !mended.steps.is_empty() {
                    self.mended += 1;
                    tracing::warn!(steps = ?mended.steps, "the network was changed by somebody and put back");
                }
                if self.troubles.is_empty() {
                    self.retry = None;
                }
                self.report_all(now);
            }
            Err((reason, message)) => self.fail(now, reason, message),
        }
        if !self.troubles.is_empty() && self.retry.is_none_or(|(at, _)| now >= at) {
            self.plan_retry(now);
        }
    }

    fn fail(&mut self, now: Instant, reason: Reason, message: String) {
        tracing::error!(reason = %reason, message, "the kernel is not as it should be");
        self.troubles.push((reason, message));
        self.plan_retry(now);
    }

    fn plan_retry(&mut self, now: Instant) {
        let pause = self.retry.map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(LAST_RETRY));
        self.retry = Some((now + pause, pause));
    }

    /// Starts liveness on links that have their address now.
    fn open_bfd(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        for tunnel in self.tunnels.values_mut().filter(|tunnel| tunnel.bfd_link.is_none()) {
            match self.bfd.open_link(&tunnel.link(), settings.overlay) {
                Ok(link) => {
                    tunnel.bfd_link = Some(link);
                    tunnel.bfd_index = tunnel.index();
                    tunnel.since = now;
                    self.bfd.insert(tunnel.id, link, tunnel.edge.overlay_address, settings.bfd);
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "no liveness on a tunnel");
                    self.troubles.push((Reason::TunnelEngineFailed, chain(&error)));
                }
            }
        }
        let preferred = self.preferred();
        self.liveness.set(&preferred, now);
    }

    /// What the sessions are, told again: a switch that the kernel refused is tried anew.
    fn report_all(&mut self, now: Instant) {
        for tunnel in self.tunnels.values() {
            if let Some(status) = self.bfd.status(&tunnel.id) {
                self.liveness.report(tunnel.id, status.state == State::Up, now);
            }
        }
    }

    /// Takes in what the BFD thread tells.
    pub(super) fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Session(id, change) => {
                let Some((name, tunnel)) = self.tunnels.iter_mut().find(|(_, tunnel)| tunnel.id == id) else {
                    return;
                };
                tracing::info!(edge = name, from = ?change.from, to = ?change.to, why = %change.diag, "liveness");
                if (tunnel.state == State::Up) != (change.to == State::Up) {
                    tunnel.since = now;
                }
                tunnel.state = change.to;
                if change.from == State::Up {
                    // The edge may have restarted and know nothing of our session.
                    tunnel.renew();
                    if let (None, Some(settings)) = (&tunnel.device, &self.settings) {
                        renew_in_kernel(&mut self.kernel, settings, tunnel);
                    }
                    self.prober.hurry(name, now);
                }
            }
            Event::Switched(switched) => {
                let name = |id: Option<TunnelId>| self.edges.get(&id?).map(String::as_str);
                let (from, to) = (name(switched.switch.from), name(switched.switch.to));
                let micros = switched.took.as_micros();
                tracing::info!(from, to, why = ?switched.switch.why, micros, "traffic moved");
            }
            Event::Refused => self.look = true,
        }
    }

    /// Takes in an answer to a probe.
    pub(super) fn probe_answer(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.prober.receive(from, datagram, now);
    }

    /// The probes that are to be sent now.
    pub(super) fn due_probes(&mut self, now: Instant) -> Vec<(SocketAddr, [u8; PACKET_BYTES])> {
        let probes = self.prober.run(now);
        probes.into_iter().map(|(to, probe)| (crate::udp::address_for(true, to), probe)).collect()
    }

    /// Somebody, perhaps we, changed the kernel's network.
    pub(super) fn network_changed(&mut self) {
        self.look_for_drift = true;
    }

    /// Answers a question.
    pub(super) fn answer(&mut self, question: Question) {
        // Whoever asked may have gone.
        match question {
            Question::State(answer) => drop(answer.send(self.state(Instant::now()))),
            Question::Metrics(answer) => drop(answer.send(self.metrics(Instant::now()))),
            Question::Reload(answer) => {
                let result = self.reload(Instant::now());
                if result.is_ok() {
                    self.turn(Instant::now());
                }
                drop(answer.send(result));
            }
        }
    }

    /// When a turn is due though nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let settings = self.settings.as_ref()?;
        let now = Instant::now();
        let down = self.tunnels.values().filter(|t| t.state != State::Up).map(|t| t.since);
        let first_choice = self.choice.edges.is_empty().then(|| self.first_choice_at(settings)).flatten();
        let retry = self.retry.map(|(at, _)| at);
        let doctor = self.doctor.wake_at(down, now);
        [self.prober.wake_at(), self.selector.wake_at(), doctor, retry, first_choice]
            .into_iter()
            .flatten()
            .min()
    }

    fn first_choice_at(&self, settings: &Settings) -> Option<Instant> {
        let known: Vec<Candidate> = settings
            .candidates
            .iter()
            .map(|edge| Candidate {
                name: edge.name.clone(),
                domain: edge.failure_domain.clone(),
                rtt: self.prober.measured(&edge.name).and_then(|measured| measured.rtt),
                health: Health::Alive,
            })
            .collect();
        self.decide_at(settings.want, &known)
    }

    /// Tells the edges, and takes away what is ours.
    pub(super) fn shut_down(mut self) {
        let now = Instant::now();
        self.liveness.set(&[], now);
        for name in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            self.dismantle(&name, now);
        }
        let owner = Ownership::tunnels();
        let nothing = Network::default();
        let removed = self
            .kernel
            .observe(&owner, &nothing)
            .map_err(|error| chain(&error))
            .and_then(|have| netd::plan(&nothing, &have, &owner).map_err(|error| chain(&error)))
            .and_then(|steps| self.kernel.apply_all(&steps).map_err(|error| chain(&error)));
        if let Err(error) = removed {
            tracing::error!(error, "something of ours is left in the kernel");
        }
    }

    pub(super) fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}

/// Shakes hands anew over a device of the kernel. It may be gone; the next look sees that.
fn renew_in_kernel(kernel: &mut Kernel, settings: &Settings, tunnel: &Tunnel) {
    for step in want::renewal(settings, &tunnel.wanted()) {
        if let Err(error) = kernel.apply(&step) {
            tracing::warn!(link = tunnel.link(), error = chain(&error), "no new handshake");
        }
    }
}

/// What a look at the kernel led to.
struct Mended {
    /// What was done, in words.
    steps: Vec<String>,
    /// The group as the kernel has it now.
    group: Option<netd::Nexthop>,
}

/// Observes, plans and applies. `pending` says what is still to be done when it fails.
fn mend(
    kernel: &mut Kernel,
    settings: &Settings,
    wanted: &[Wanted],
    pending: &mut Vec<String>,
) -> Result<Mended, Trouble> {
    let owner = Ownership::tunnels();
    let draft = want::network(settings, wanted, &Observed::default());
    let have = kernel.observe(&owner, &draft).map_err(|error| (error.reason(), chain(&error)))?;
    let want = want::network(settings, wanted, &have);
    let steps = netd::plan(&want, &have, &owner).map_err(|error| {
        pending.clear();
        (error.reason(), chain(&error))
    })?;
    *pending = steps.iter().map(ToString::to_string).collect();
    if !steps.is_empty() {
        kernel.apply_all(&steps).map_err(|error| (error.reason(), chain(&error)))?;
    }
    let steps = std::mem::take(pending);
    Ok(Mended { steps, group: want.nexthops.get(&GROUP).cloned() })
}
