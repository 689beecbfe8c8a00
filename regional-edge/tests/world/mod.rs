//! Network namespaces with an edge or two, a node made of the tunnels library, and a client.
//!
//! ```text
//!   client ──172.16.1.0/24── edge 1 ──192.0.2.0/30── node (10.1.0.0/24 behind it)
//!                              │ 10.255.0.0/24         │
//!                            edge 2 ──192.0.2.4/30─────┘
//! ```
// Each test file uses another part of it.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

use holdfast_api::resources::{TunnelPeer, TunnelPeerSpec};
use holdfast_api::tunnel::{BfdState, BfdTimers, Pages, PublicKey, TunnelKind};
use ipnet::IpNet;
use netd::netns::NetNs;
use regional_edge::dataplane::{Dataplane, Event, Options};
use regional_edge::state::DataState;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tunnels::bfd::{self, Role, Settings};
use tunnels::wireguard::{self, LinkEnd, PeerConfig, PrivateKey};

pub(crate) const SITE: &str = "10.1.0.0/24";
pub(crate) const SITE_HOST: &str = "10.1.0.1";
pub(crate) const NODE_OVERLAY: [u8; 4] = [100, 64, 1, 1];
pub(crate) const PORT: u16 = 51820;
/// So that a machine that is busy takes no session down.
const TIMERS: BfdTimers = BfdTimers { interval_ms: 100, multiplier: 20 };

pub(crate) fn edge_overlay(n: u8) -> IpAddr {
    [100, 64, 0, n].into()
}

pub(crate) fn backbone(n: u8) -> IpAddr {
    [10, 255, 0, n].into()
}

/// Why the tests of this file cannot run here.
pub(crate) fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("no ip(8)");
    }
    None
}

/// Leaves the test when it cannot run here.
#[macro_export]
macro_rules! or_skip {
    () => {
        if let Some(why) = world::missing() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

pub(crate) struct World {
    pub(crate) client: NetNs,
    pub(crate) edges: [NetNs; 2],
    pub(crate) node: NetNs,
    pub(crate) dir: tempfile::TempDir,
    names: [String; 4],
}

impl World {
    pub(crate) fn new() -> Self {
        let mark = holdfast_client::backoff::seed() & 0xffff;
        let name = |part: &str| format!("hfre-{}-{mark:x}-{part}", std::process::id());
        let names = [name("client"), name("re1"), name("re2"), name("node")];
        let [client, re1, re2, node] = &names;
        let make = |name: &String| NetNs::create(name).unwrap();
        let world = World {
            client: make(client),
            edges: [make(re1), make(re2)],
            node: make(node),
            dir: tempfile::tempdir().unwrap(),
            names: names.clone(),
        };
        for name in &names {
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let wire = |a: &str, a_link: &str, a_net: &str, b: &str, b_link: &str, b_net: &str| {
            ip(&[
                "-n", a, "link", "add", a_link, "type", "veth", "peer", "name", b_link, "netns", b,
            ]);
            for (name, link, net) in [(a, a_link, a_net), (b, b_link, b_net)] {
                ip(&["-n", name, "addr", "add", net, "dev", link]);
                ip(&["-n", name, "link", "set", link, "up"]);
            }
        };
        wire(client, "eth0", "172.16.1.2/24", re1, "lan0", "172.16.1.1/24");
        ip(&["-n", client, "route", "add", "default", "via", "172.16.1.1"]);
        wire(re1, "wan0", "192.0.2.1/30", node, "wan0", "192.0.2.2/30");
        wire(re2, "wan0", "192.0.2.5/30", node, "wan1", "192.0.2.6/30");
        wire(re1, "bb0", "10.255.0.1/24", re2, "bb0", "10.255.0.2/24");
        // How edge 2 reaches the client's network: plain routing beneath.
        ip(&["-n", re2, "route", "add", "172.16.1.0/24", "via", "10.255.0.1"]);
        ip(&["-n", node, "addr", "add", &format!("{SITE_HOST}/24"), "dev", "lo"]);
        world
    }

    pub(crate) fn name(&self, which: &str) -> &str {
        let index = ["client", "re1", "re2", "node"].iter().position(|n| *n == which).unwrap();
        &self.names[index]
    }

    /// The output of ip(8) in a namespace.
    pub(crate) fn ip(&self, which: &str, arguments: &[&str]) -> String {
        let mut all = vec!["-n", self.name(which)];
        all.extend(arguments);
        ip(&all)
    }

    /// Whether the client reaches `to`. One answer is enough: a machine that is busy keeps one
    /// waiting at times.
    pub(crate) fn client_reaches(&self, to: &str) -> bool {
        self.client
            .enter(|| {
                let ping = ["-c", "3", "-i", "0.2", "-W", "1", "-n", "-q", to];
                Command::new("ping").args(ping).output().unwrap().status.success()
            })
            .unwrap()
    }

    pub(crate) fn edge(&self, n: u8) -> TestEdge {
        let key = PrivateKey::generate().unwrap();
        let path = self.dir.path().join(format!("re{n}.key"));
        holdfast_durable::write(&path, key.to_base64().as_bytes(), 0o600).unwrap();
        self.edge_with(n, key.public(), path, TunnelKind::WireguardUserspace)
    }

    /// The kernel's WireGuard, where there is one.
    pub(crate) fn kernel_has_wireguard(&self) -> bool {
        let name = self.name("node");
        let add = ["-n", name, "link", "add", "hf-try", "type", "wireguard"];
        let made = Command::new("ip").args(add).output().unwrap().status.success();
        if made {
            ip(&["-n", name, "link", "del", "hf-try"]);
        }
        made
    }

    pub(crate) fn edge_with(
        &self,
        n: u8,
        public_key: PublicKey,
        private_key: PathBuf,
        kind: TunnelKind,
    ) -> TestEdge {
        let options = Options {
            edge: format!("re-{n}"),
            overlay: edge_overlay(n),
            private_key: private_key.clone(),
            listen_port: PORT,
            kinds: vec![kind],
            mtu: 1420,
            packet_pages: Pages::Usual,
            backbone: Some(backbone(n)),
            uapi: None,
        };
        let namespace = &self.edges[usize::from(n - 1)];
        // The thread lives in the namespace of the thread that starts it.
        let dataplane = namespace.enter(|| Dataplane::start(options).unwrap()).unwrap();
        let others = [1, 2].into_iter().filter(|other| *other != n);
        dataplane.tell(Event::Edges {
            backbone: others.map(|other| (format!("re-{other}"), backbone(other))).collect(),
            protected: [].into(),
        });
        TestEdge { dataplane, public_key, private_key }
    }

    /// A node with a tunnel to each of `edges`.
    pub(crate) fn node(&self, edges: &[(u8, PublicKey)]) -> Node {
        let key = PrivateKey::generate().unwrap();
        let edges: Vec<_> = edges.iter().map(|(n, key)| (*n, *key, edge_overlay(*n))).collect();
        self.node_with(key, NODE_OVERLAY.into(), &edges)
    }

    /// A node with this key and address, and a tunnel to each of `edges` with its key and address.
    pub(crate) fn node_with(
        &self,
        key: PrivateKey,
        overlay: IpAddr,
        edges: &[(u8, PublicKey, IpAddr)],
    ) -> Node {
        let node = self.node.enter(|| Node::start(key, overlay, edges)).unwrap();
        for link in node.links() {
            self.ip(
                "node",
                &["route", "add", "172.16.1.0/24", "dev", &link, "metric", &node.metric(&link)],
            );
        }
        node
    }
}

pub(crate) struct TestEdge {
    pub(crate) dataplane: Dataplane,
    pub(crate) public_key: PublicKey,
    pub(crate) private_key: PathBuf,
}

impl TestEdge {
    pub(crate) fn state(&self) -> Arc<DataState> {
        self.dataplane.state().borrow().clone()
    }

    pub(crate) fn serve(&self, node: &Node, edges: &[&str]) {
        self.dataplane.tell(Event::Peers(vec![peer(node.public_key, edges)]));
    }

    pub(crate) fn node_is(&self, want: BfdState) -> bool {
        self.state().nodes.first().is_some_and(|node| node.state == want)
    }
}

pub(crate) fn peer(public_key: PublicKey, edges: &[&str]) -> TunnelPeer {
    let spec = TunnelPeerSpec {
        node: "ce01-1".into(),
        site: "ce01".into(),
        public_key,
        overlay_address: NODE_OVERLAY.into(),
        site_prefixes: vec![SITE.parse().unwrap()],
        edges: edges.iter().map(ToString::to_string).collect(),
        bfd: TIMERS,
    };
    TunnelPeer::new(Some("acme"), "ce01-1", spec)
}

/// The node's half, by the pieces that tunneld is made of.
pub(crate) struct Node {
    pub(crate) public_key: PublicKey,
    tunnels: Vec<(u8, wireguard::Device)>,
    sessions: bfd::Service<u8>,
}

struct Nobody;
impl bfd::Follower<u8> for Nobody {
    fn changed(&mut self, _: &u8, _: bfd::Change, _: Instant) {}
}

impl Node {
    fn start(key: PrivateKey, overlay: IpAddr, edges: &[(u8, PublicKey, IpAddr)]) -> Self {
        let public_key = key.public();
        let sessions = bfd::Service::start(7, Nobody).unwrap();
        let mut tunnels = Vec::new();
        for (n, edge_key, edge_overlay) in edges {
            let link = link(*n);
            let end = LinkEnd::open(&link.parse().unwrap()).unwrap();
            let device = wireguard::Options {
                name: link.clone(),
                private_key: key.clone(),
                listen_port: 0,
                fwmark: 0,
                handshakes_per_second: 10,
                tuning: wireguard::Tuning::default(),
            };
            let device = wireguard::Device::start(end, device).unwrap();
            let endpoint: IpAddr = [192, 0, 2, 4 * n - 3].into();
            let config = PeerConfig {
                endpoint: Some(SocketAddr::new(endpoint, PORT)),
                allowed_ips: ["0.0.0.0/0".parse::<IpNet>().unwrap()].into(),
                eager: true,
                ..PeerConfig::default()
            };
            device.set_peer(*edge_key, config);
            let peer = edge_overlay.to_string();
            ip(&["addr", "add", &overlay.to_string(), "peer", &peer, "dev", &link]);
            ip(&["link", "set", &link, "up", "mtu", "1420"]);
            let id = sessions.open_link(&link, overlay).unwrap();
            let settings = Settings::new(TIMERS, Role::Active).unwrap();
            sessions.insert(*n, id, *edge_overlay, settings);
            tunnels.push((*n, device));
        }
        Node { public_key, tunnels, sessions }
    }

    /// Shakes hands with an edge anew, as tunneld does when liveness is lost: the edge has
    /// forgotten the session, and does not know where the node is.
    pub(crate) fn renew(&self, edge: u8, key: PublicKey) {
        self.tunnels.iter().filter(|(n, _)| *n == edge).for_each(|(_, device)| device.renew(&key));
    }

    pub(crate) fn links(&self) -> Vec<String> {
        self.tunnels.iter().map(|(n, _)| link(*n)).collect()
    }

    fn metric(&self, link: &str) -> String {
        format!("1{}", link.trim_start_matches("hf-wg"))
    }

    pub(crate) fn up(&self, edge: u8) -> bool {
        self.sessions.status(&edge).is_some_and(|status| status.state == BfdState::Up)
    }
}

fn link(edge: u8) -> String {
    format!("hf-wg{edge}")
}

pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `holds`, at most ten seconds.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    holdfast_poll::holds(what, Duration::from_secs(60), holds);
}
