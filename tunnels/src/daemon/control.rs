//! The thread that decides: what is measured, what is chosen, what stands, what the kernel has.
//!
//! [`Control::turn`] is level-triggered: it compares what should be with what is and does the
//! rest, so a missed event costs a moment and never correctness.

use super::follow::Stamp;
use super::health::Doctor;
use super::kernel::KernelNetwork;
use super::liveness::{Event, Liveness};
use super::mend::Refused;
use super::reconcile::renew_in_kernel;
use super::settings::Settings;
use super::tunnel::{Tunnel, TunnelId};
use super::{Options, Question};
use crate::bfd::{Service, State};
use crate::names::FWMARK;
use crate::probe::{PACKET_BYTES, Prober};
use crate::select::{Choice, Selector};
use crate::slots::Slots;
use anyhow::Context;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_api::tunnel::TunnelKind;
use netd::Kernel;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A trouble: its reason, and in words.
pub(super) type Trouble = (Reason, String);

/// Everything but the BFD thread and the packets.
pub(super) struct Control {
    pub(super) root: Root,
    pub(super) config: PathBuf,
    pub(super) stamp: Option<Stamp>,
    pub(super) settings: Option<Settings>,
    pub(super) config_trouble: Option<Trouble>,
    pub(super) kind: Option<TunnelKind>,
    pub(super) kernel: Box<dyn KernelNetwork>,
    pub(super) prober: Prober,
    pub(super) probing_since: Option<Instant>,
    pub(super) doctor: Doctor,
    pub(super) selector: Selector,
    pub(super) choice: Choice,
    pub(super) slots: Slots<String>,
    pub(super) tunnels: BTreeMap<String, Tunnel>,
    /// Which edge a tunnel led to, also of those that traffic left last.
    pub(super) edges: BTreeMap<TunnelId, String>,
    pub(super) serial: u32,
    pub(super) bfd: Service<TunnelId>,
    pub(super) liveness: Liveness,
    /// What liveness was last told to prefer.
    pub(super) preferred: Vec<TunnelId>,
    /// Something changed, so the kernel has to be looked at.
    pub(super) look: bool,
    /// The change is not our own doing.
    pub(super) look_for_drift: bool,
    /// Somebody changed the network, and it was not put back yet.
    pub(super) drifted: bool,
    pub(super) retry: Option<(Instant, Duration)>,
    pub(super) pending: Vec<String>,
    /// Of the last look, when it mended all the others.
    pub(super) refused: Refused,
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
        let liveness = Liveness::new(Box::new(quick), events);
        Self::over(options, Box::new(kernel()?), liveness, seed)
    }

    /// The same over a kernel that is there. `seed` is any random number.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn over(
        options: &Options,
        kernel: Box<dyn KernelNetwork>,
        liveness: Liveness,
        seed: u64,
    ) -> anyhow::Result<Self> {
        Ok(Control {
            config: options.config.clone().unwrap_or_else(|| options.root.tunnels_config()),
            root: options.root.clone(),
            stamp: None,
            settings: None,
            config_trouble: None,
            kind: None,
            kernel,
            prober: Prober::new(seed),
            probing_since: None,
            doctor: Doctor::default(),
            selector: Selector::default(),
            choice: Choice::default(),
            slots: Slots::default(),
            tunnels: BTreeMap::new(),
            edges: BTreeMap::new(),
            serial: 0,
            bfd: Service::start(seed.rotate_left(32), liveness.clone())
                .context("cannot start BFD")?,
            liveness,
            preferred: Vec::new(),
            look: false,
            look_for_drift: false,
            drifted: false,
            retry: None,
            pending: Vec::new(),
            refused: Refused::new(),
            troubles: Vec::new(),
            mended: 0,
        })
    }

    /// The socket for probes, which does not block.
    pub(super) fn probe_socket(&self) -> anyhow::Result<std::net::UdpSocket> {
        crate::udp::open(0, FWMARK).context("cannot open a socket for probes")
    }

    /// Whether there is something to go by.
    pub(super) fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// Brings everything one step on.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.settings.is_none() {
            return;
        }
        let look_at_links = self.look || self.look_for_drift;
        let broken: Vec<String> = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.is_dead() || look_at_links && t.lost_its_link())
            .map(|(name, _)| name.clone())
            .collect();
        for name in broken {
            tracing::warn!(edge = name, "the tunnel's link was taken away");
            self.dismantle(&name, now);
        }
        self.choose(now);
        self.arrange(now);
        let retry = self.retry.is_some_and(|(at, _)| now >= at);
        // What we fail to do changes the network as well: that is for the retry to look at. What is
        // known to be refused is not tried before.
        let drift = self.look_for_drift && (self.retry.is_none() || !self.refused.is_empty());
        if self.look || drift || retry {
            self.make_missing(now);
            self.reconcile(now);
        }
    }

    /// Takes in what the BFD thread tells.
    pub(super) fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Session(id, change) => {
                let Some((name, tunnel)) =
                    self.tunnels.iter_mut().find(|(_, tunnel)| tunnel.id == id)
                else {
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
                        renew_in_kernel(self.kernel.as_mut(), settings, tunnel);
                    }
                    self.prober.hurry(name, now);
                }
            }
            Event::PathMtu(id, mtu) => {
                if let Some(tunnel) = self.tunnels.values_mut().find(|tunnel| tunnel.id == id) {
                    tracing::info!(edge = tunnel.edge.name, link = tunnel.link(), ?mtu, "path MTU");
                    tunnel.path_mtu = mtu;
                    self.look = true;
                }
            }
            Event::Switched(switched) => {
                let name = |id: Option<TunnelId>| self.edges.get(&id?).map(String::as_str);
                let (from, to) = (name(switched.switch.from), name(switched.switch.to));
                let micros = switched.took.as_micros();
                tracing::info!(from, to, why = ?switched.switch.why, micros, "traffic moved");
            }
            Event::Refused => {
                self.fail(
                    now,
                    Reason::NetApplyFailed,
                    "the kernel did not move traffic to another tunnel".into(),
                );
            }
        }
    }

    /// Takes in an answer to a probe.
    pub(super) fn probe_answer(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.prober.receive(from, datagram, now);
    }

    /// The probes that are to be sent now.
    pub(super) fn due_probes(&mut self, now: Instant) -> Vec<(SocketAddr, [u8; PACKET_BYTES])> {
        self.prober.run(now)
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
        let first_choice =
            self.choice.edges.is_empty().then(|| self.first_choice_at(settings)).flatten();
        let retry = self.retry.map(|(at, _)| at);
        let doctor = self.doctor.wake_at(down, now);
        [self.prober.wake_at(), self.selector.wake_at(), doctor, retry, first_choice]
            .into_iter()
            .flatten()
            .min()
    }
}
