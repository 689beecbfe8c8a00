//! The ends of the tunnels: the WireGuard device, its liveness sessions, and the kernel beneath.
//!
//! Made in one go and given up in one go: when the device dies, everything here is made anew.

use super::error::EndsError;
use super::{Event, Options};
use crate::names;
use crate::nodes::{NodeKey, Nodes};
use crate::routing::{self, Device, View};
use holdfast_api::tunnel::{BfdState, Pages, PublicKey, TunnelKind};
use ipnet::IpNet;
use netd::model::{Item, Keyed};
use netd::{
    Ipv6, Kernel, LinkKind, LinkName, Network, Observed, Ownership, Route, Step, WgKey,
    WireguardDevice, WireguardPeer,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};
use tunnels::bfd;
use tunnels::wireguard::{self, DeviceStatus, HandshakeCounts, PeerConfig, PrivateKey, uapi};

/// Handshakes beyond which strangers must show that they can be answered: more than all nodes of
/// an edge need when they come back at one moment and try again for five seconds.
const HANDSHAKES_PER_SECOND: u64 = 1000;

enum Engine {
    Userspace {
        device: wireguard::Device,
        /// The kernel's number of the link that was made for it.
        index: Option<u32>,
        /// For wg(8); an edge works without it.
        _uapi: Option<uapi::Listener>,
    },
    Kernel(PrivateKey),
}

/// What a tunnel has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) handshake_age: Option<Duration>,
}

/// Everything that is held open.
pub(super) struct Ends {
    /// They must go before the device: when that ends first, they count as down.
    sessions: Option<(bfd::Service<NodeKey>, bfd::LinkId)>,
    engine: Engine,
    kernel: Kernel,
    link: LinkName,
    options: Options,
    /// Routes as we last knew them to be in the kernel.
    routes: Keyed<Route>,
    /// Peers as we last gave them to the device.
    peers: BTreeMap<PublicKey, BTreeSet<IpNet>>,
    /// Sessions that stand.
    watched: BTreeSet<NodeKey>,
    /// What tunnels had done when somebody looked last.
    traffic: BTreeMap<PublicKey, Traffic>,
    /// None where the kernel answers handshakes, and before the first look.
    handshakes: Option<HandshakeCounts>,
    /// The device was asked and has not answered.
    is_asked: bool,
    events: mpsc::Sender<Event>,
}

/// Hands changes of liveness over from the thread that notices them.
struct Follower(mpsc::Sender<Event>);

impl bfd::Follower<NodeKey> for Follower {
    fn changed(&mut self, node: &NodeKey, change: bfd::Change, _now: Instant) {
        let (was, up) = (change.from == BfdState::Up, change.to == BfdState::Up);
        if was != up {
            tracing::info!(%node, from = ?change.from, to = ?change.to, why = ?change.diag, "liveness");
            // The receiver is gone only when everything ends.
            let _ = self.0.send(Event::Liveness { node: node.clone(), up });
        }
    }
}

impl Ends {
    /// Makes the device and turns forwarding on. Nothing is routed yet.
    pub(super) fn open(options: &Options, events: mpsc::Sender<Event>) -> Result<Self, EndsError> {
        let key = PrivateKey::read(&options.private_key).map_err(EndsError::Key)?;
        let mut kernel = Kernel::open().map_err(EndsError::Open)?;
        // Moving routes works without it, more slowly (docs/decisions/0007-nexthop-compat-mode.md).
        if let Err(error) = kernel.disable_nexthop_compat() {
            tracing::warn!(%error, "net.ipv4.nexthop_compat_mode stays on");
        }
        let link: LinkName = names::LINK.parse().expect("the name is a good one");
        let mut last = EndsError::NoKind;
        for kind in &options.kinds {
            let engine = match kind {
                TunnelKind::WireguardKernel if kernel.wireguard_supported() => {
                    Ok(Engine::Kernel(key.clone()))
                }
                TunnelKind::WireguardKernel => continue,
                TunnelKind::WireguardUserspace => userspace(&link, key.clone(), options),
            };
            match engine {
                Ok(engine) => {
                    forwarding(options.overlay)?;
                    return Ok(Ends {
                        engine,
                        kernel,
                        link,
                        options: options.clone(),
                        sessions: None,
                        routes: Keyed::default(),
                        peers: BTreeMap::new(),
                        watched: BTreeSet::new(),
                        traffic: BTreeMap::new(),
                        handshakes: None,
                        is_asked: false,
                        events,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn kind(&self) -> TunnelKind {
        match self.engine {
            Engine::Userspace { .. } => TunnelKind::WireguardUserspace,
            Engine::Kernel(_) => TunnelKind::WireguardKernel,
        }
    }

    /// Which pages packets are in; none where the kernel has the tunnels.
    pub(super) fn packet_pages(&self) -> Option<Pages> {
        match &self.engine {
            Engine::Userspace { device, .. } => Some(device.pages()),
            Engine::Kernel(_) => None,
        }
    }

    pub(super) fn listen_port(&self) -> u16 {
        match &self.engine {
            Engine::Userspace { device, .. } => device.listen_port(),
            Engine::Kernel(_) => self.options.listen_port,
        }
    }

    /// Whether the device still moves packets, and does so between its peers and our link: a
    /// link that was renamed or moved elsewhere leaves one behind that works and is of no use.
    pub(super) fn is_alive(&self) -> bool {
        match &self.engine {
            Engine::Userspace { device, index, .. } => {
                device.is_alive() && link_index(&self.link) == *index
            }
            Engine::Kernel(_) => true,
        }
    }

    /// Whether the kernel has IPv6. Where it is off on other links only, ours has it all the same.
    pub(super) fn has_ipv6(&self) -> bool {
        self.kernel.ipv6() != Ipv6::Absent
    }

    /// The link that has this address now.
    pub(super) fn link_with(&mut self, address: IpAddr) -> Result<Option<LinkName>, EndsError> {
        let owner = Ownership::tunnels();
        let seen = self.kernel.observe(&owner, &Network::default()).map_err(EndsError::Observe)?;
        let found = seen.others.addresses.iter().find(|a| a.net.addr() == address);
        Ok(found.map(|a| a.link.clone()))
    }

    /// The short way: only the routes to these destinations, by what we know to be there.
    pub(super) fn reroute(
        &mut self,
        destinations: &BTreeSet<IpNet>,
        view: &View<'_>,
    ) -> Result<usize, EndsError> {
        let steps = routing::change(&self.routes, destinations, view);
        self.apply(&steps)?;
        for step in &steps {
            match step {
                Step::AddRoute(route) | Step::ReplaceRoute { to: route, .. } => {
                    self.routes.insert(route.clone());
                }
                Step::DeleteRoute(route) => {
                    self.routes.remove(&route.key());
                }
                _ => {}
            }
        }
        Ok(steps.len())
    }

    /// The long way: everything, by what the kernel really has. Tells how much was changed.
    pub(super) fn reconcile(&mut self, view: &View<'_>) -> Result<usize, EndsError> {
        // A new peer must be known before its session can speak.
        self.set_peers(view);
        let want = self.want(view);
        let have = self.observe(&want)?;
        let steps = netd::plan(&want, &have, &Ownership::tunnels()).map_err(EndsError::Plan)?;
        for step in &steps {
            tracing::debug!(%step, "network");
        }
        // Unknown until it is done; a failure makes the next try look around again.
        self.routes = have.ours.routes;
        self.apply(&steps)?;
        self.routes = want.routes;
        self.watch(view.nodes)?;
        Ok(steps.len())
    }

    /// Peers of the device; the session of one that stays is not touched. Tells whether the
    /// kernel's device has to be brought to it by [`Ends::reconcile`].
    pub(super) fn set_peers(&mut self, view: &View<'_>) -> bool {
        let allowed = routing::allowed_ips(view);
        let want: BTreeMap<PublicKey, BTreeSet<IpNet>> = allowed
            .into_iter()
            .filter_map(|(key, ips)| Some((view.nodes.get(&key)?.public_key, ips)))
            .collect();
        let changed = want != self.peers;
        let needs_kernel = match &self.engine {
            Engine::Kernel(_) => changed,
            Engine::Userspace { device, .. } => {
                let gone = self.peers.keys().filter(|key| !want.contains_key(*key));
                let news = want.iter().filter(|(key, ips)| self.peers.get(*key) != Some(*ips));
                let config = |(key, ips): (&PublicKey, &BTreeSet<IpNet>)| {
                    (*key, PeerConfig { allowed_ips: ips.clone(), ..PeerConfig::default() })
                };
                device.change_peers(gone.copied(), news.map(config));
                false
            }
        };
        self.peers = want;
        needs_kernel
    }

    /// Which nodes are up, by the sessions themselves.
    pub(super) fn up(&self) -> BTreeSet<NodeKey> {
        let Some((sessions, _)) = &self.sessions else { return BTreeSet::new() };
        let all = sessions.statuses().into_iter();
        all.filter(|(_, s)| s.state == BfdState::Up).map(|(key, _)| key).collect()
    }

    pub(super) fn liveness(&self) -> BTreeMap<NodeKey, bfd::Status> {
        let all = self.sessions.as_ref().map(|(sessions, _)| sessions.statuses());
        all.into_iter().flatten().collect()
    }

    /// Looks at what the tunnels have done. A device says it by [`Event::Device`]: whoever reroutes
    /// must not wait for one that is busy or stands still.
    pub(super) fn look_at_traffic(&mut self) {
        match &self.engine {
            Engine::Userspace { device, .. } => {
                if !std::mem::replace(&mut self.is_asked, true) {
                    let events = self.events.clone();
                    // The receiver is gone only when everything ends.
                    device.tell_status(move |status| drop(events.send(Event::Device(status))));
                }
            }
            Engine::Kernel(_) => {
                let now = SystemTime::now();
                let traffic = |(key, peer): (WgKey, netd::model::PeerState)| {
                    let age = peer.last_handshake.and_then(|at| now.duration_since(at).ok());
                    let traffic = Traffic {
                        endpoint: peer.endpoint,
                        rx_bytes: peer.rx_bytes,
                        tx_bytes: peer.tx_bytes,
                        handshake_age: age,
                    };
                    (PublicKey(key.0), traffic)
                };
                let peers = self.kernel.wireguard_peers(&self.link).unwrap_or_default();
                self.traffic = peers.into_iter().map(traffic).collect();
            }
        }
    }

    /// Takes in what the device says.
    pub(super) fn take_status(&mut self, status: DeviceStatus) {
        let traffic = |peer: wireguard::PeerStatus| {
            let traffic = Traffic {
                endpoint: peer.config.endpoint,
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
                handshake_age: peer.handshake_age,
            };
            (peer.public_key, traffic)
        };
        self.traffic = status.peers.into_iter().map(traffic).collect();
        self.handshakes = Some(status.handshakes);
        self.is_asked = false;
    }

    /// What a tunnel had done when it was looked at last.
    pub(super) fn traffic(&self, key: &PublicKey) -> Traffic {
        self.traffic.get(key).copied().unwrap_or_default()
    }

    /// Handshake messages by then; none where the kernel answers them.
    pub(super) fn handshakes(&self) -> Option<HandshakeCounts> {
        self.handshakes
    }

    fn want(&self, view: &View<'_>) -> Network {
        let kind = match &self.engine {
            Engine::Userspace { .. } => LinkKind::Tun,
            Engine::Kernel(key) => {
                let peer = |(node, allowed_ips): (NodeKey, BTreeSet<IpNet>)| {
                    let peer = WireguardPeer { allowed_ips, ..WireguardPeer::default() };
                    Some((WgKey(view.nodes.get(&node)?.public_key.0), peer))
                };
                LinkKind::Wireguard(WireguardDevice {
                    private_key: Some(WgKey(*key.expose())),
                    listen_port: Some(self.options.listen_port),
                    fwmark: tunnels::names::FWMARK,
                    peers: routing::allowed_ips(view).into_iter().filter_map(peer).collect(),
                })
            }
        };
        let device = Device {
            link: self.link.clone(),
            kind,
            overlay: self.options.overlay,
            mtu: self.options.mtu,
        };
        routing::want(&device, view)
    }

    fn observe(&mut self, want: &Network) -> Result<Observed, EndsError> {
        self.kernel.observe(&Ownership::tunnels(), want).map_err(EndsError::Observe)
    }

    fn apply(&mut self, steps: &[Step]) -> Result<(), EndsError> {
        if steps.is_empty() {
            return Ok(());
        }
        self.kernel.apply_all(steps).map(drop).map_err(|error| EndsError::Apply(Box::new(error)))
    }

    /// One session per node; those that stand are not interrupted.
    fn watch(&mut self, nodes: &Nodes) -> Result<(), EndsError> {
        if self.sessions.is_none() {
            let seed = holdfast_client::backoff::seed();
            let service = bfd::Service::start(seed, Follower(self.events.clone()))
                .map_err(EndsError::Thread)?;
            let overlay = self.options.overlay;
            let link = match &self.engine {
                Engine::Userspace { device, .. } => service.open_device(device, overlay),
                Engine::Kernel(_) => {
                    service.open_link(self.link.as_str(), overlay).map_err(EndsError::Liveness)?
                }
            };
            self.sessions = Some((service, link));
        }
        let Some((service, link)) = &self.sessions else { return Ok(()) };
        for gone in self.watched.iter().filter(|key| nodes.get(key).is_none()) {
            service.remove(gone);
        }
        for node in nodes.iter() {
            match bfd::Settings::new(node.bfd, bfd::Role::Passive) {
                Ok(settings) => service.insert(node.key.clone(), *link, node.overlay, settings),
                // Nodes are only admitted with timers that can be.
                Err(error) => tracing::error!(node = %node.key, %error, "liveness timers"),
            }
        }
        self.watched = nodes.iter().map(|node| node.key.clone()).collect();
        Ok(())
    }
}

fn userspace(
    link: &LinkName,
    private_key: PrivateKey,
    options: &Options,
) -> Result<Engine, EndsError> {
    let end = wireguard::LinkEnd::open(link).map_err(EndsError::Tun)?;
    let index = link_index(link);
    let device = wireguard::Options {
        name: link.to_string(),
        private_key,
        listen_port: options.listen_port,
        fwmark: tunnels::names::FWMARK,
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        tuning: wireguard::Tuning { pages: options.packet_pages, ..wireguard::Tuning::default() },
    };
    let device = wireguard::Device::start(end, device).map_err(EndsError::Engine)?;
    let _uapi = options.uapi.as_ref().and_then(|(dir, runtime)| {
        let _inside = runtime.enter();
        uapi::Listener::open(dir, &device)
            .inspect_err(|error| {
                tracing::warn!(error = holdfast_api::chain(error), "wg(8) will not see this device")
            })
            .ok()
    });
    Ok(Engine::Userspace { device, index, _uapi })
}

fn link_index(link: &LinkName) -> Option<u32> {
    nix::net::if_::if_nametoindex(link.as_str()).ok()
}

/// An edge is a router: packets that are not its own are passed on.
fn forwarding(overlay: IpAddr) -> Result<(), EndsError> {
    set("/proc/sys/net/ipv4/ip_forward", "1")?;
    match set("/proc/sys/net/ipv6/conf/all/forwarding", "1") {
        // A kernel without IPv6 has nothing to forward.
        Err(_) if overlay.is_ipv4() => Ok(()),
        result => result,
    }
}

/// Lets packets in on the backbone whose answers would go elsewhere: the node that sent them may
/// be up here as well. Strict becomes loose; whoever switched the check off wins.
pub(super) fn loosen(link: &LinkName) -> Result<(), EndsError> {
    let strict = |link: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
    };
    if strict("all") || strict(link.as_str()) {
        set(&format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "2")?;
    }
    Ok(())
}

fn set(path: &str, value: &'static str) -> Result<(), EndsError> {
    // Read first: a container may have it set and refuse to be told again.
    if std::fs::read_to_string(path).is_ok_and(|have| have.trim() == value) {
        return Ok(());
    }
    File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| EndsError::Sysctl { path: path.into(), value, source })
}
