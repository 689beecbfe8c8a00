//! The whole story with real programs: two edges enrol with a real controller, a node is admitted,
//! its tunnels end on both, and the controller and an edge are killed.

#![allow(clippy::unwrap_used)]

mod world;

use holdfast_api::Reason;
use holdfast_api::resources::{
    ApprovalRule, NodeConfig, RegionalEdge, Registration, RegistrationSpec, Role, Token, TokenSpec,
};
use holdfast_api::token::Envelope;
use holdfast_api::tunnel::{BfdState, TunnelIntent};
use holdfast_client::{Client, Identity, Trust, unix};
use holdfast_controller::fleet::FleetSettings;
use holdfast_controller::http::{Server, Settings};
use holdfast_controller::trust::{Operator, Operators};
use holdfast_identity::DeviceKey;
use netd::netns::NetNs;
use regional_edge::state::{EdgeState, Way};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::runtime::Runtime;
use tunnels::wireguard::PrivateKey;
use world::{Node, PORT, World, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_regional-edge");
const CONTROLLER: &str = "10.255.0.1:6443";

/// A runtime whose sockets are in a namespace.
struct Inside(Runtime);

impl Inside {
    fn new(namespace: &NetNs) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let build = || builder.worker_threads(1).enable_all().build().unwrap();
        Inside(namespace.enter(build).unwrap())
    }

    /// Runs on a thread of the runtime, which is in the namespace, and not on the caller's.
    fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        self.0.block_on(self.0.spawn(task)).unwrap()
    }
}

struct Controller {
    inside: Inside,
    server: Option<Server>,
    data: PathBuf,
}

impl Controller {
    fn start(world: &World) -> Self {
        let inside = Inside::new(&world.edges[0]);
        let data = world.dir.path().join("controller");
        let settings = Settings {
            data: data.clone(),
            listen: CONTROLLER.parse().unwrap(),
            names: vec!["10.255.0.1".into()],
            fleet: FleetSettings::default(),
            history: 100,
            clock: holdfast_controller::system_clock(),
        };
        let server = inside.run(async { Server::start(settings).await.unwrap() });
        Controller { inside, server: Some(server), data }
    }

    fn operator(&self) -> Client {
        let operator = Operator { name: "test".into(), tenant: None };
        let (bearer, _) = Operators::new(&self.data).issue(&operator, None).unwrap();
        let ca = std::fs::read_to_string(self.data.join("ca/ca.crt")).unwrap();
        let endpoint = format!("https://{CONTROLLER}").parse().unwrap();
        Client::new(endpoint, Trust::pem(&ca).unwrap(), Identity::Bearer(bearer)).unwrap()
    }

    fn token(&self, role: Role, uses: u32) -> Envelope {
        let client = self.operator();
        let spec =
            TokenSpec { uses, role, approval: ApprovalRule::Automatic, ..Default::default() };
        let mut token = Token::new(Some("acme"), "", spec);
        token.metadata.generate_name = Some("token-".into());
        let made = self.inside.run(async move { client.create(&token, None).await.unwrap() });
        Envelope::parse(&made.status.unwrap().token.unwrap()).unwrap()
    }

    fn edge(&self, name: &str) -> RegionalEdge {
        let (client, name) = (self.operator(), name.to_string());
        self.inside.run(async move { client.get(None, &name).await.unwrap() })
    }

    /// Admits a device as a node does; what its tunnels shall be.
    fn admit_node(&self, world: &World, key: &PrivateKey) -> TunnelIntent {
        let token = self.token(Role::Node, 1);
        let device = DeviceKey::load_or_create(&world.dir.path().join("node")).unwrap();
        let name = device.registration_name();
        let spec = RegistrationSpec {
            hostname: "ce01-1".into(),
            csr: device.csr_pem(&name).unwrap(),
            wireguard_public_key: Some(key.public()),
            ..RegistrationSpec::default()
        };
        let registration = Registration::new(Some("acme"), &name, spec);
        let endpoint: holdfast_client::Endpoint = format!("https://{CONTROLLER}").parse().unwrap();
        let identity = Identity::Certificate {
            chain: device.self_signed_pem().unwrap(),
            key: device.key_pem(),
        };
        let client = Client::new(endpoint.clone(), Trust::Pinned(token.ca), identity).unwrap();
        self.inside.run(async move {
            let made = client.create(&registration, Some(&token.credential())).await.unwrap();
            let status = made.status.unwrap();
            let identity =
                Identity::Certificate { chain: status.certificate.unwrap(), key: device.key_pem() };
            let trust = Trust::pem(&status.ca.unwrap()).unwrap();
            let client = Client::new(endpoint, trust, identity).unwrap();
            let node = status.node.unwrap();
            let config: NodeConfig = client.get(Some("acme"), &node).await.unwrap();
            config.spec.tunnels.unwrap()
        })
    }

    fn stop(&mut self) {
        let server = self.server.take().unwrap();
        self.inside.run(server.stop());
    }
}

/// The program `regional-edge`.
struct Program {
    child: Child,
    root: PathBuf,
}

impl Program {
    fn start(world: &World, n: u8) -> Self {
        let root = world.dir.path().join(format!("re-{n}"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(world.dir.path().join(format!("re-{n}.log")))
            .unwrap();
        let spawn = || {
            Command::new(PROGRAM)
                .arg("--root")
                .arg(&root)
                .args(["--log", "debug"])
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let child = world.edges[usize::from(n - 1)].enter(spawn).unwrap();
        Program { child, root }
    }

    fn state(&self) -> Option<EdgeState> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = self.root.join("run/holdfast/edge.sock");
        runtime.block_on(unix::get_json(&socket, "/v1/state")).ok()
    }

    fn is(&self, holds: impl Fn(&EdgeState) -> bool) -> bool {
        self.state().is_some_and(|state| holds(&state))
    }

    fn has_node(&self) -> bool {
        self.is(|state| state.data.nodes_up() == 1)
    }

    fn metrics(&self) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = self.root.join("run/holdfast/edge.sock");
        runtime.block_on(unix::get_text(&socket, "/v1/metrics")).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGKILL: what a power cut leaves to the next start.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.root.with_extension("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- {}\n{}", self.root.display(), tail.join("\n"));
        }
    }
}

fn settings(world: &World, n: u8, token: &Envelope) {
    let text = format!(
        "controller = 'https://{CONTROLLER}'\nname = 're-{n}'\ntoken_file = '/etc/holdfast/token'\n\
         endpoint = '192.0.2.{}:{PORT}'\nbackbone = '10.255.0.{n}:7246'\nheartbeat_ms = 100\n\
         kinds = ['wireguard-userspace']\nroutes = ['172.16.1.0/24']\n",
        4 * n - 3
    );
    let etc = world.dir.path().join(format!("re-{n}/etc/holdfast"));
    holdfast_durable::write(&etc.join("edge.toml"), text.as_bytes(), 0o644).unwrap();
    holdfast_durable::write(&etc.join("token"), token.encode().as_bytes(), 0o600).unwrap();
}

/// The node's tunnels as the controller wants them, and the address of a host behind it.
fn tunnels(world: &World, key: PrivateKey, intent: &TunnelIntent) -> (Node, String) {
    let site = intent.site_prefixes[0];
    let host = site.hosts().next().unwrap().to_string();
    world.ip("node", &["addr", "add", &format!("{host}/{}", site.prefix_len()), "dev", "lo"]);
    let number = |address: IpAddr| if address == IpAddr::from([192, 0, 2, 1]) { 1 } else { 2 };
    let edges: Vec<_> = intent
        .candidates
        .iter()
        .map(|edge| (number(edge.endpoint.ip()), edge.public_key, edge.overlay_address))
        .collect();
    (world.node_with(key, intent.overlay_address, &edges), host)
}

#[test]
fn from_tokens_to_traffic_and_through_every_death() {
    or_skip!();
    if !Path::new(PROGRAM).exists() {
        // The tests' executables may have been taken to another machine.
        eprintln!("skipped: {PROGRAM} is not here");
        return;
    }
    let world = World::new();
    let mut controller = Controller::start(&world);
    let token = controller.token(Role::RegionalEdge, 2);
    settings(&world, 1, &token);
    settings(&world, 2, &token);
    let one = Program::start(&world, 1);
    let two = Program::start(&world, 2);
    for (edge, other) in [(&one, "re-2"), (&two, "re-1")] {
        eventually("admitted, with a device", || {
            edge.is(|s| s.controller.admitted && s.data.kind.is_some())
        });
        eventually("the mesh", || {
            edge.is(|s| s.data.edges.iter().any(|e| e.edge == other && e.heard))
        });
    }

    let key = PrivateKey::generate().unwrap();
    let intent = controller.admit_node(&world, &key);
    assert_eq!(intent.candidates.len(), 2);
    let (node, host) = tunnels(&world, key, &intent);
    eventually("both tunnels", || one.has_node() && two.has_node());
    eventually("traffic", || world.client_reaches(&host));
    eventually("the controller knows", || {
        ["re-1", "re-2"].iter().all(|name| {
            let status = controller.edge(name).status.unwrap_or_default();
            (status.peers, status.peers_up) == (1, 1)
        })
    });
    assert!(one.metrics().contains("holdfast_edge_nodes_up 1"));

    // The controller dies: nothing changes for traffic.
    controller.stop();
    eventually("noticed", || {
        one.is(|s| s.controller.reason == Some(Reason::ControllerUnreachable))
    });
    assert!(world.client_reaches(&host));
    eventually("the node is served", || one.has_node());

    // Edge 1 dies as well: its kernel goes on to send what comes there over the backbone.
    drop(one);
    world.ip("node", &["route", "del", "172.16.1.0/24", "dev", "hf-wg1"]);
    eventually("over the backbone", || world.client_reaches(&host));

    // It comes back with the controller still away, and knows whom to serve.
    let one = Program::start(&world, 1);
    eventually("the device", || one.is(|s| s.data.kind.is_some() && s.data.nodes.len() == 1));
    let edge_key = intent.candidates.iter().find(|c| c.name == "re-1").unwrap().public_key;
    node.renew(1, edge_key);
    eventually("the tunnel again", || one.has_node());
    assert!(!one.state().unwrap().controller.reachable);
    eventually("the way", || {
        one.is(|s| s.data.nodes[0].state == BfdState::Up && s.data.nodes[0].way == Way::Tunnel)
    });
    eventually("the mesh again", || one.is(|s| s.data.edges.iter().any(|e| e.heard)));
    eventually("traffic again", || world.client_reaches(&host));
}
