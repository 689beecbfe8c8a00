//! A world of network namespaces: a node with the real `tunneld`, and regional edges made of
//! this library. Each edge is behind a veth pair of its own and answers at 10.200.0.1.
//!
//! Everything goes when the world is dropped, also after a panic.
#![allow(dead_code, unused_macros, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests; a panic is a failed test")]

use holdfast_api::tunnel::{
    BfdTimers, EdgeCandidate, Pages, TunnelIntent, TunnelKind, TunnelState, TunnelsConfig,
    TunnelsState,
};
use holdfast_poll::until;
use netd::netns::NetNs;
use nix::libc::{SIGABRT, SIGKILL};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tunnels::bfd::{Change, Follower, Role, Service, Settings};
use tunnels::wireguard::{Device, LinkEnd, Options, PeerConfig, PrivateKey, PublicKey, Tuning};

/// An address behind every edge.
pub(crate) const TARGET: &str = "10.200.0.1";
pub(crate) const TARGET6: &str = "fd00:200::1";

/// The node's overlay address.
fn node_overlay(v6: bool) -> IpAddr {
    if v6 { "fd00:64::1:1".parse().unwrap() } else { [100, 64, 1, 1].into() }
}

/// How long a condition may take before the test fails; nothing waits for so long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says why the tests of this file cannot run here.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("root is needed for network namespaces".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun is not there".into());
    }
    for program in ["ip", "ping", "wg"] {
        let found =
            Command::new("which").arg(program).output().is_ok_and(|out| out.status.success());
        if !found {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

/// Leaves the test when it cannot run here.
macro_rules! need_rights {
    () => {
        if let Some(why) = $crate::world::missing() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use need_rights;

/// Polls until `condition` gives something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until(what, PATIENCE, || condition().ok_or("nothing"))
}

/// So that a machine that is busy takes no session down.
const CALM: BfdTimers = BfdTimers { interval_ms: 100, multiplier: 20 };

pub(crate) struct World {
    bfd: BfdTimers,
    pub(crate) node: Namespace,
    pub(crate) edges: Vec<Edge>,
    pub(crate) root: tempfile::TempDir,
    pub(crate) key: PrivateKey,
    v6: bool,
    pub(crate) daemon: Option<Child>,
    generation: u64,
}

/// One edge of the world: how far, and in which failure domain.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) domain: &'static str,
    pub(crate) probe_delay: Duration,
}

const THREE: [(&str, u64); 3] = [("a", 0), ("b", 150), ("c", 350)];

fn plans(edges: &[(&'static str, u64)]) -> Vec<Plan> {
    let plan = |(domain, ms): &(&'static str, u64)| Plan {
        domain,
        probe_delay: Duration::from_millis(*ms),
    };
    edges.iter().map(plan).collect()
}

impl World {
    pub(crate) fn new(plans: &[Plan], v6: bool) -> Self {
        Self::timed(plans, v6, CALM)
    }

    fn timed(plans: &[Plan], v6: bool, bfd: BfdTimers) -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        holdfast_durable::write(&root.path().join("key"), key.to_base64().as_bytes(), 0o600)
            .unwrap();
        let node = Namespace::new();
        node.ip(&["link", "set", "lo", "up"]);
        let edge = |(plan, n): (&Plan, u8)| Edge::new(n, *plan, v6, bfd, &node, &key);
        let edges = plans.iter().zip(1..).map(edge).collect();
        World { bfd, node, edges, root, key, v6, daemon: None, generation: 0 }
    }

    /// Three edges, 0, 150 and 350 ms away, each in a domain of its own: far enough apart to be told
    /// from each other by probes on an emulated processor.
    pub(crate) fn three() -> Self {
        Self::of(&THREE)
    }

    /// The same with the timers of a node that was told none.
    pub(crate) fn three_with_usual_timers() -> Self {
        Self::timed(&plans(&THREE), false, BfdTimers::default())
    }

    /// Edges of these failure domains, so many milliseconds away.
    pub(crate) fn of(edges: &[(&'static str, u64)]) -> Self {
        Self::new(&plans(edges), false)
    }

    pub(crate) fn config(&self) -> TunnelsConfig {
        TunnelsConfig {
            generation: self.generation + 1,
            private_key: self.root.path().join("key"),
            listen_port: 0,
            kinds: vec![TunnelKind::WireguardKernel, TunnelKind::WireguardUserspace],
            packet_pages: Pages::Usual,
            intent: TunnelIntent {
                overlay_address: node_overlay(self.v6),
                site_prefixes: Vec::new(),
                routes: match self.v6 {
                    false => vec!["10.200.0.0/16".parse().unwrap()],
                    true => vec!["fd00:200::/32".parse().unwrap()],
                },
                candidates: self.edges.iter().map(Edge::candidate).collect(),
                bfd: self.bfd,
                want: 2,
            },
        }
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.root.path().join("run/holdfast/tunnels.json")
    }

    pub(crate) fn write(&mut self, config: &TunnelsConfig) {
        self.generation = config.generation;
        self.write_bytes(&serde_json::to_vec_pretty(config).unwrap());
    }

    pub(crate) fn write_bytes(&self, bytes: &[u8]) {
        holdfast_durable::write(&self.config_path(), bytes, 0o600).unwrap();
    }

    /// Starts `tunneld` in the node's namespace.
    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.path().join("log"))
            .unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.node.name, env!("CARGO_BIN_EXE_tunneld"), "--root"])
            .arg(self.root.path())
            .args(["--log", "info,tunnels=debug"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        let id = self.daemon.as_ref().unwrap().id();
        nix::unistd::Pid::from_raw(i32::try_from(id).unwrap())
    }

    pub(crate) fn signal(&mut self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Waits for the daemon's end, in good order unless it was killed.
    #[track_caller]
    pub(crate) fn ended(&mut self) {
        let status = self.daemon.take().unwrap().wait().unwrap();
        let was_killed = matches!(status.signal(), Some(SIGKILL | SIGABRT));
        assert!(status.success() || was_killed, "tunneld ended: {status}");
    }

    /// Config written, daemon running, two tunnels up.
    pub(crate) fn up(mut self) -> Self {
        let config = self.config();
        self.write(&config);
        self.start();
        self.wait("two tunnels up", |state| state.up() == 2 && state.tunnels[0].active);
        self
    }

    pub(crate) fn request(&self, request: &str) -> Option<(u16, String)> {
        let mut socket =
            UnixStream::connect(self.root.path().join("run/holdfast/tunneld.sock")).ok()?;
        write!(socket, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_string()))
    }

    pub(crate) fn reload(&self) -> (u16, String) {
        self.request("POST /v1/reload").unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        self.request("GET /v1/metrics").unwrap().1
    }

    /// What a counter without labels is at.
    #[track_caller]
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let metrics = self.metrics();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}: {metrics}"))
    }

    pub(crate) fn state(&self) -> Option<TunnelsState> {
        let (code, body) = self.request("GET /v1/state")?;
        assert_eq!(code, 200, "{body}");
        Some(serde_json::from_str(&body).unwrap())
    }

    /// Polls the state until it is as `condition` says.
    #[track_caller]
    pub(crate) fn wait(
        &self,
        what: &str,
        condition: impl Fn(&TunnelsState) -> bool,
    ) -> TunnelsState {
        until(what, PATIENCE, || match self.state() {
            Some(state) if condition(&state) => Ok(state),
            state => Err(state.map(Box::new)),
        })
    }

    pub(crate) fn edge(&self, name: &str) -> &Edge {
        self.edges.iter().find(|edge| edge.name == name).unwrap()
    }

    /// Whether the target answers.
    pub(crate) fn ping(&self) -> bool {
        let target = if self.v6 { TARGET6 } else { TARGET };
        // One answer is enough: a machine that is busy keeps one waiting at times.
        self.node.run("ping", &["-c", "3", "-i", "0.2", "-W", "1", "-n", target]).status.success()
    }

    /// What `ip -j …` says in the node's namespace.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = self.node.ip(&[&["-j"], args].concat());
        if out.trim().is_empty() {
            return serde_json::Value::Array(Vec::new());
        }
        serde_json::from_str(&out).unwrap()
    }

    /// The one member of the nexthop group.
    pub(crate) fn group_member(&self) -> Option<u64> {
        let nexthops = self.json(&["nexthop", "show"]);
        let group = nexthops.as_array()?.iter().find(|n| n["id"] == 0x4846_0000)?;
        group["group"][0]["id"].as_u64()
    }
}

pub(crate) fn of<'a>(state: &'a TunnelsState, edge: &str) -> Option<&'a TunnelState> {
    state.tunnels.iter().find(|tunnel| tunnel.edge == edge)
}

pub(crate) fn active(state: &TunnelsState) -> &str {
    state.tunnels.iter().find(|tunnel| tunnel.active).map_or("", |tunnel| &tunnel.edge)
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.root.path().join("log"))
        {
            eprintln!("---- log of tunneld\n{log}");
        }
    }
}

/// A namespace with a unique name.
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) net: NetNs,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let random = getrandom::u32().unwrap();
        let name = format!("hft-{}-{serial}-{random:08x}", std::process::id());
        let net = NetNs::create(&name).unwrap();
        Namespace { name, net }
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs ip(8) inside; it must succeed.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        let out = Command::new("ip").args(["-n", &self.name]).args(args).output().unwrap();
        assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

/// Records what liveness says.
struct Quiet;

impl Follower<&'static str> for Quiet {
    fn changed(&mut self, _key: &&'static str, _change: Change, _now: Instant) {}
}

/// A regional edge: WireGuard, passive BFD, probes.
pub(crate) struct Edge {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    domain: &'static str,
    n: u8,
    v6: bool,
    timers: BfdTimers,
    key: PrivateKey,
    port: u16,
    probe: SocketAddr,
    device: Option<Device>,
    bfd: Option<Service<&'static str>>,
    stop: Arc<AtomicBool>,
    responder: Option<std::thread::JoinHandle<()>>,
}

impl Edge {
    fn new(
        n: u8,
        plan: Plan,
        v6: bool,
        timers: BfdTimers,
        node: &Namespace,
        node_key: &PrivateKey,
    ) -> Self {
        let namespace = Namespace::new();
        let (near, far) = (format!("up{n}"), "wan");
        node.ip(&[
            "link",
            "add",
            &near,
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            &namespace.name,
        ]);
        node.ip(&["addr", "add", &format!("10.77.{n}.1/24"), "dev", &near]);
        node.ip(&["link", "set", &near, "up"]);
        namespace.ip(&["addr", "add", &format!("10.77.{n}.2/24"), "dev", far]);
        namespace.ip(&["link", "set", far, "up"]);
        namespace.ip(&["link", "set", "lo", "up"]);
        // So that a rule can come before the look-up of what is local; see `cut`.
        namespace.ip(&["rule", "add", "pref", "10", "lookup", "local"]);
        namespace.ip(&["rule", "del", "pref", "0"]);
        namespace.ip(&["addr", "add", &format!("{TARGET}/32"), "dev", "lo"]);
        if v6 {
            namespace.ip(&["addr", "add", &format!("{TARGET6}/128"), "dev", "lo"]);
        }

        let probes = namespace
            .net
            .enter(|| UdpSocket::bind(SocketAddr::from(([10, 77, n, 2], 0))).unwrap())
            .unwrap();
        let mut edge = Edge {
            name: format!("re-{n}"),
            namespace,
            domain: plan.domain,
            n,
            v6,
            timers,
            key: PrivateKey::generate().unwrap(),
            port: 0,
            probe: probes.local_addr().unwrap(),
            device: None,
            bfd: None,
            stop: Arc::new(AtomicBool::new(false)),
            responder: None,
        };
        edge.start(node_key);
        let stop = Arc::clone(&edge.stop);
        edge.responder =
            Some(std::thread::spawn(move || respond(&probes, plan.probe_delay, &stop)));
        edge
    }

    /// Brings the edge's tunnel end up; again after [`Edge::crash`] with the same key and port.
    pub(crate) fn start(&mut self, node_key: &PrivateKey) {
        let name: netd::LinkName = "hf-wg0".parse().unwrap();
        let options = Options {
            name: name.to_string(),
            private_key: self.key.clone(),
            listen_port: self.port,
            fwmark: 0,
            handshakes_per_second: 100,
            tuning: Tuning::default(),
        };
        let device = self
            .namespace
            .net
            .enter(|| Device::start(LinkEnd::open(&name).unwrap(), options).unwrap())
            .unwrap();
        self.port = device.listen_port();
        let overlay = self.overlay().to_string();
        let node = node_overlay(self.v6);
        self.namespace.ip(&["addr", "add", &overlay, "dev", "hf-wg0", "nodad"][..if self.v6 { 6 } else { 5 }]);
        self.namespace.ip(&["link", "set", "hf-wg0", "up", "mtu", "1420"]);
        self.namespace.ip(&["route", "add", &node.to_string(), "dev", "hf-wg0", "src", &overlay]);

        let bfd = Service::start(u64::from(self.n), Quiet).unwrap();
        let link =
            self.namespace.net.enter(|| bfd.open_link("hf-wg0", self.overlay()).unwrap()).unwrap();
        let settings = Settings::new(self.timers, Role::Passive).unwrap();
        bfd.insert("node", link, node, settings);
        self.device = Some(device);
        self.expects(&node_key.public());
        self.bfd = Some(bfd);
    }

    /// Runs its sessions through its device, as an edge whose kernel has no WireGuard.
    pub(crate) fn run_through_device(&mut self) {
        let device = self.device.as_ref().unwrap();
        let bfd = Service::start(u64::from(self.n), Quiet).unwrap();
        let link = bfd.open_device(device, self.overlay());
        let settings = Settings::new(self.timers, Role::Passive).unwrap();
        bfd.insert("node", link, node_overlay(self.v6), settings);
        self.bfd = Some(bfd);
    }

    /// Ends without a word: sessions and link are gone.
    pub(crate) fn crash(&mut self) {
        // Silence first: the end of the service would say "AdminDown" otherwise.
        self.cut();
        self.bfd = None;
        self.device = None;
        self.heal();
    }

    /// The node will have this key.
    pub(crate) fn expects(&self, node: &PublicKey) {
        let allowed_ips = [ipnet::IpNet::from(node_overlay(self.v6))].into();
        let config = PeerConfig { allowed_ips, ..PeerConfig::default() };
        self.device.as_ref().unwrap().set_peer(*node, config);
    }

    /// Nobody has this key any more.
    pub(crate) fn forgets(&self, node: &PublicKey) {
        self.device.as_ref().unwrap().remove_peer(node);
    }

    /// How long ago the node with this key shook hands.
    pub(crate) fn handshake_of(&self, node: &PublicKey) -> Option<Duration> {
        self.device.as_ref().unwrap().peer(node)?.handshake_age
    }

    /// Drops everything that comes in from outside, silently.
    pub(crate) fn cut(&self) {
        self.namespace.ip(&["rule", "add", "pref", "1", "iif", "wan", "blackhole"]);
    }

    pub(crate) fn heal(&self) {
        self.namespace.ip(&["rule", "del", "pref", "1"]);
    }

    fn overlay(&self) -> IpAddr {
        match self.v6 {
            false => [100, 64, 0, self.n].into(),
            true => format!("fd00:64::{}", self.n).parse().unwrap(),
        }
    }

    pub(crate) fn candidate(&self) -> EdgeCandidate {
        EdgeCandidate {
            name: self.name.clone(),
            failure_domain: self.domain.to_string(),
            endpoint: SocketAddr::from(([10, 77, self.n, 2], self.port)),
            probe: self.probe,
            public_key: self.key.public(),
            overlay_address: self.overlay(),
        }
    }
}

impl World {
    /// An edge that crashed comes back.
    pub(crate) fn restart_edge(&mut self, name: &str) {
        let key = self.key.clone();
        self.edges.iter_mut().find(|edge| edge.name == name).unwrap().start(&key);
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(responder) = self.responder.take() {
            let _ = responder.join();
        }
    }
}

/// Answers probes after `delay`, as an edge that is so far away.
fn respond(socket: &UdpSocket, delay: Duration, stop: &AtomicBool) {
    const LOOKS_UP: Duration = Duration::from_millis(20);
    let mut buffer = [0; 64];
    let mut due: VecDeque<(Instant, [u8; tunnels::probe::PACKET_BYTES], SocketAddr)> =
        VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let next =
            due.front().map_or(LOOKS_UP, |(at, ..)| at.saturating_duration_since(Instant::now()));
        if next.is_zero() {
            let (_, reply, to) = due.pop_front().unwrap();
            let _ = socket.send_to(&reply, to);
            continue;
        }
        socket.set_read_timeout(Some(next.min(LOOKS_UP))).unwrap();
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some(reply) = tunnels::probe::answer(&buffer[..bytes]) else { continue };
        due.push_back((Instant::now() + delay, reply, from));
    }
}
