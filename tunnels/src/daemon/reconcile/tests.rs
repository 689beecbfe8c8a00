//! The mending against a kernel that remembers and refuses, with real tunnels in memory beside it.

use super::*;
use crate::daemon::Options;
use crate::daemon::fake::FakeKernel;
use crate::daemon::liveness::{Event, Liveness};
use crate::daemon::settings::tests::{edge, settings};
use crate::daemon::tunnel::peer_config;
use crate::names::{self, GROUP};
use crate::wireguard::{self, Device, LinkEnd, PeerConfig, PrivateKey, Tuning};
use crate::{bfd, probe};
use holdfast_api::paths::Root;
use holdfast_api::tunnel::{BfdTimers, EdgeCandidate, TunnelKind, TunnelState};
use netd::NexthopTarget;
use std::os::unix::net::UnixDatagram;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);
/// So that a busy machine takes no session down.
const TIMERS: BfdTimers = BfdTimers { interval_ms: 2000, multiplier: 30 };

fn timers(role: bfd::Role) -> bfd::Settings {
    bfd::Settings::new(TIMERS, role).unwrap()
}

/// A WireGuard device over loopback, with a socket for its link.
fn device(name: &str, private_key: PrivateKey) -> (Device, UnixDatagram) {
    let (link, end) = UnixDatagram::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    let options = wireguard::Options {
        name: name.into(),
        private_key,
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: 100,
        tuning: Tuning::default(),
    };
    (Device::start(LinkEnd::plain(end.into()), options).unwrap(), link)
}

struct Nobody;
impl bfd::Follower<()> for Nobody {
    fn changed(&mut self, _: &(), _: bfd::Change, _: Instant) {}
}

/// An edge in memory. Its sessions go before its device.
struct Edge {
    candidate: EdgeCandidate,
    _sessions: bfd::Service<()>,
    _device: Device,
    _link: UnixDatagram,
}

impl Edge {
    fn new(n: u8, settings: &Settings) -> Self {
        let key = PrivateKey::generate().unwrap();
        let candidate = EdgeCandidate { public_key: key.public(), ..edge(n) };
        let (device, link) = device("edge", key);
        let endpoint = ([127, 0, 0, 1], device.listen_port()).into();
        let allowed_ips = [settings.overlay.into()].into();
        let node = PeerConfig { allowed_ips, ..PeerConfig::default() };
        device.set_peer(settings.private_key.public(), node);
        let sessions = bfd::Service::start(n.into(), Nobody).unwrap();
        let on = sessions.open_device(&device, candidate.overlay_address);
        sessions.insert((), on, settings.overlay, timers(bfd::Role::Passive));
        let candidate = EdgeCandidate { endpoint, ..candidate };
        Edge { candidate, _sessions: sessions, _device: device, _link: link }
    }
}

/// The daemon without its loop: time passes when a test says so.
struct World {
    control: Control,
    events: UnboundedReceiver<Event>,
    kernel: FakeKernel,
    now: Instant,
    /// What stands in for the TUN devices of the tunnels.
    links: Vec<UnixDatagram>,
    /// Times that a session left Up.
    losses: usize,
    _root: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = Options { root: Root::new(root.path()), config: None };
        let kernel = FakeKernel::default();
        let (tell, events) = unbounded_channel();
        let liveness = Liveness::new(Box::new(kernel.clone()), tell);
        let control = Control::over(&options, Box::new(kernel.clone()), liveness, 7).unwrap();
        let now = Instant::now();
        World { control, events, kernel, now, links: Vec::new(), losses: 0, _root: root }
    }

    /// Takes a configuration, and makes tunnels to the edges that it leads to; what the kernel has
    /// of them is for the next turn.
    fn accept(&mut self, settings: Settings) {
        self.control.accept(settings, self.now);
        for (to, probe) in self.control.due_probes(self.now) {
            let reply = probe::answer(&probe).unwrap();
            self.control.probe_answer(to, &reply, self.now + 5 * MS);
        }
        // Whoever has not answered by now is silent.
        self.now += Duration::from_secs(2);
        self.control.choose(self.now);
        self.control.arrange(self.now);
        let held: Vec<_> =
            self.control.slots.iter().map(|(slot, held)| (slot, held.edge.clone())).collect();
        for (slot, name) in held {
            if self.control.tunnels.contains_key(&name) {
                continue;
            }
            let settings = self.control.settings.as_ref().unwrap();
            let edge = settings.candidates.iter().find(|edge| edge.name == name).unwrap();
            let (device, link) = device(&names::link(slot), settings.private_key.clone());
            device.set_peer(edge.public_key, peer_config(edge));
            let id = TunnelId { serial: slot.into(), slot };
            let kind = TunnelKind::WireguardUserspace;
            let tunnel = Tunnel::on(id, edge, kind, Some(device), None, self.now);
            self.control.tunnels.insert(name, tunnel);
            self.links.push(link);
            self.kernel.make_tun(&names::link(slot));
        }
    }

    /// The edge in a slot.
    fn held(&self, slot: u8) -> String {
        self.control.slots.iter().find(|(of, _)| *of == slot).unwrap().1.edge.clone()
    }

    /// A while in which all edges answer probes.
    fn passes(&mut self, seconds: u32) {
        for _ in 0..seconds {
            for (to, probe) in self.control.due_probes(self.now) {
                let reply = probe::answer(&probe).unwrap();
                self.control.probe_answer(to, &reply, self.now + 5 * MS);
            }
            self.turn(Duration::from_secs(1));
        }
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Session(_, change) = event {
                self.losses += usize::from(change.from == State::Up);
            }
            self.control.event(event, self.now);
        }
    }

    fn turn(&mut self, later: Duration) {
        self.now += later;
        self.take_events();
        self.control.turn(self.now);
    }

    /// Batches that are tried within this time, at its end.
    fn tries_after(&mut self, later: Duration) -> usize {
        let before = self.kernel.tries();
        self.turn(later);
        self.kernel.tries() - before
    }

    fn tunnel(&mut self, edge: &str) -> TunnelState {
        let state = self.control.state(self.now);
        state.tunnels.into_iter().find(|tunnel| tunnel.edge == edge).unwrap()
    }

    fn comes_up(&mut self, edge: &str) {
        holdfast_poll::holds(&format!("{edge} is up"), PATIENCE, || {
            self.turn(Duration::ZERO);
            self.tunnel(edge).state == State::Up && self.control.liveness.active().is_some()
        });
    }

    /// Pauses until the kernel accepts, as far as `most` refusals.
    fn pauses(&mut self, most: usize) -> Vec<Duration> {
        let mut pauses = Vec::new();
        while let Some((at, pause)) = self.control.retry.filter(|_| pauses.len() < most) {
            assert_eq!(at, self.now + pause, "from the refusal on");
            // The try changed the network and took it back.
            self.control.network_changed();
            assert!(self.control.wake_at().is_some_and(|wakes| wakes <= at), "nobody wakes");
            assert_eq!(self.tries_after(pause - MS), 0, "too early");
            assert_eq!(self.tries_after(MS), 1, "too late");
            pauses.push(pause);
        }
        pauses
    }
}

fn without_edges() -> Settings {
    Settings { candidates: Vec::new(), ..settings() }
}

/// As when somebody made the link a port of a bond for a moment.
#[test]
fn a_link_that_is_busy_is_tried_again_while_others_carry_on() {
    let settings = Settings { bfd: timers(bfd::Role::Active), ..settings() };
    let edges = [1, 2].map(|n| Edge::new(n, &settings));
    let of = |want: usize| {
        let candidates = edges[..want].iter().map(|edge| edge.candidate.clone()).collect();
        Settings { candidates, want, ..settings.clone() }
    };
    let mut world = World::new();
    world.accept(of(1));
    world.turn(Duration::ZERO);
    world.comes_up("re-1");
    assert!(world.tunnel("re-1").active);

    world.accept(of(2));
    world.kernel.is_busy("hf-wg1", 2);
    assert_eq!(world.tries_after(Duration::ZERO), 1);
    let first = world.control.state(world.now);
    assert_eq!(first.reason, Some(Reason::NetApplyFailed), "{}", first.message);
    assert!(first.message.contains("something holds it") && first.message.contains("EBUSY"));
    assert!(!first.pending.is_empty());
    assert!(first.pending.iter().all(|step| !step.contains("hf-wg0")), "{:?}", first.pending);
    assert_eq!(world.pauses(1), [250 * MS]);
    let second = world.control.state(world.now);
    assert_eq!((second.reason, &second.pending), (Some(Reason::NetApplyFailed), &first.pending));
    let standing = world.tunnel("re-1");
    assert!(standing.active && standing.state == State::Up, "{standing:?}");

    assert_eq!(world.pauses(9), [500 * MS], "the third try is taken");
    let tried: Vec<String> = world.kernel.lock().tried.iter().skip(1).flatten().cloned().collect();
    assert!(tried.iter().all(|step| !step.contains("hf-wg0")), "it was touched: {tried:?}");
    world.comes_up("re-2");
    world.turn(Duration::ZERO);
    let state = world.control.state(world.now);
    assert_eq!((state.reason, state.pending.len()), (None, 0), "{}", state.message);
    assert_eq!((state.failovers, world.losses), (0, 0), "traffic left a tunnel");
    assert_eq!(world.control.mended, 0, "nobody else changed anything");
    let have = world.kernel.lock().have.ours.clone();
    let group = have.nexthops.get(&GROUP).unwrap();
    assert!(
        matches!(&group.target, NexthopTarget::Group(to) if to.contains_key(&names::nexthop(0)))
    );
    assert!(have.links.iter().all(|link| link.up) && have.links.len() == 2);

    // The next refusal is a first one again.
    let lost = have.addresses.iter().find(|address| address.link.as_str() == "hf-wg1").unwrap();
    world.kernel.lock().have.ours.addresses.remove(lost);
    world.kernel.is_busy("hf-wg1", 1);
    world.control.network_changed();
    world.turn(Duration::ZERO);
    assert_eq!(world.pauses(9), [250 * MS]);
    assert_eq!(world.kernel.lock().have.ours, have);
    assert_eq!(world.control.mended, 1);
}

/// Two that are wanted of three edges.
fn two_of_three() -> (World, Vec<Edge>) {
    let settings = Settings { bfd: timers(bfd::Role::Active), want: 2, ..settings() };
    let edges: Vec<Edge> = [1, 2, 3].map(|n| Edge::new(n, &settings)).into();
    let candidates = edges.iter().map(|edge| edge.candidate.clone()).collect();
    let mut world = World::new();
    world.accept(Settings { candidates, ..settings });
    (world, edges)
}

/// Both are new, as after a boot, and the one in the first slot cannot be set up.
#[test]
fn a_tunnel_that_is_refused_keeps_no_other_from_standing() {
    let (mut world, _edges) = two_of_three();
    let [stuck, free] = [world.held(0), world.held(1)];
    world.kernel.is_busy("hf-wg0", u32::MAX);
    world.turn(Duration::ZERO);
    world.comes_up(&free);
    let state = world.control.state(world.now);
    assert_eq!(state.reason, Some(Reason::NetApplyFailed), "{}", state.message);
    assert!(state.message.contains("hf-wg0"), "{}", state.message);
    assert!(state.pending.iter().any(|step| step.contains("hf-wg0")), "{:?}", state.pending);
    assert!(state.pending.iter().all(|step| !step.contains("hf-wg1")), "{:?}", state.pending);
    assert!(world.tunnel(&free).active);
    assert!(world.control.tunnels[&stuck].bfd_link.is_none(), "nothing can be said over it");
    world.passes(20);
    assert_eq!(
        world.held(0),
        stuck,
        "its edge has no part in it, and another would fare no better"
    );

    // What somebody does to the other meanwhile is put back at once.
    let have = world.kernel.lock().have.ours.clone();
    let lost = have.addresses.iter().find(|address| address.link.as_str() == "hf-wg1").unwrap();
    world.kernel.lock().have.ours.addresses.remove(lost);
    world.control.network_changed();
    let before = world.kernel.tries();
    world.turn(Duration::ZERO);
    assert_eq!(world.kernel.lock().have.ours, have);
    assert_eq!(world.kernel.tries(), before + 1, "what is refused has its own time");
    assert_eq!(world.control.mended, 1);
    let state = world.control.state(world.now);
    assert_eq!(state.reason, Some(Reason::NetApplyFailed), "it is still not as it should be");
    assert!(state.pending.iter().any(|step| step.contains("hf-wg0")), "{:?}", state.pending);

    world.kernel.is_busy("", 0);
    let (at, _) = world.control.retry.unwrap();
    world.turn(at - world.now);
    world.comes_up(&stuck);
    world.turn(Duration::ZERO);
    let state = world.control.state(world.now);
    assert_eq!((state.reason, state.pending), (None, Vec::new()), "{}", state.message);
    assert_eq!((world.losses, world.control.mended), (0, 1));
}

/// As when its link was down for a moment, which takes the nexthop and the group along.
#[test]
fn traffic_leaves_a_tunnel_that_nothing_can_be_sent_over() {
    let (mut world, _edges) = two_of_three();
    world.turn(Duration::ZERO);
    let [first, second] = [world.held(0), world.held(1)];
    world.comes_up(&first);
    world.comes_up(&second);
    let slot = world.control.liveness.active().unwrap().slot;
    let (lost, other) = if slot == 0 { (first, second) } else { (second, first) };
    let link = names::link(slot);
    for id in [names::nexthop(slot), GROUP] {
        world.kernel.lock().have.ours.nexthops.remove(&id);
    }
    world.kernel.is_busy(&link, u32::MAX);
    world.control.network_changed();
    world.turn(Duration::ZERO);
    assert!(world.tunnel(&other).active, "{:?}", world.control.state(world.now));
    assert_ne!(world.tunnel(&lost).state, State::Up);
    let group = world.kernel.lock().have.ours.nexthops.get(&GROUP).cloned();
    assert_eq!(group, Some(netd::Nexthop::active(GROUP, names::nexthop(1 - slot))));

    world.kernel.is_busy("", 0);
    let (at, _) = world.control.retry.unwrap();
    world.turn(at - world.now);
    world.comes_up(&lost);
    assert_eq!(world.control.state(world.now).reason, None);
}

/// Liveness moves traffic at any time, also while we look.
#[test]
fn a_failover_while_we_look_is_nobody_elses_change() {
    let (mut world, _edges) = two_of_three();
    world.turn(Duration::ZERO);
    let [first, second] = [world.held(0), world.held(1)];
    world.comes_up(&first);
    world.comes_up(&second);
    world.turn(Duration::ZERO);
    let active = world.control.liveness.active().unwrap();
    let group = |world: &World| world.kernel.lock().have.ours.nexthops.get(&GROUP).cloned();
    let on = |slot| Some(netd::Nexthop::active(GROUP, names::nexthop(slot)));
    assert_eq!(group(&world), on(active.slot));

    let (liveness, now) = (world.control.liveness.clone(), world.now);
    world.kernel.after_the_next_look(move || liveness.report(active, false, now));
    world.control.network_changed();
    world.control.turn(world.now);
    assert_eq!(world.control.mended, 0);

    // What somebody else does to the group is seen with the next look, as ever.
    world.turn(Duration::ZERO);
    let other = group(&world);
    assert_eq!(other, on(world.control.liveness.active().unwrap().slot));
    let elsewhere = netd::Nexthop::active(GROUP, names::NOWHERE);
    world.kernel.lock().have.ours.nexthops.insert(elsewhere);
    world.control.network_changed();
    world.turn(Duration::ZERO);
    assert_eq!((world.control.mended, group(&world)), (1, other));
}

#[test]
fn the_pause_doubles_up_to_half_a_minute_and_begins_anew_with_a_new_configuration() {
    let mut world = World::new();
    world.kernel.is_busy("", u32::MAX);
    world.accept(without_edges());
    assert_eq!(world.tries_after(Duration::ZERO), 1);
    let seconds: Vec<f64> = world.pauses(10).iter().map(Duration::as_secs_f64).collect();
    assert_eq!(seconds, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
    world.accept(without_edges());
    assert_eq!(world.tries_after(Duration::ZERO), 1, "at once");
    assert_eq!(world.pauses(1), [250 * MS]);
    world.kernel.is_busy("", 0);
    assert_eq!(world.pauses(9), [500 * MS]);
    assert_eq!(world.control.state(world.now).pending, [""; 0]);
}
