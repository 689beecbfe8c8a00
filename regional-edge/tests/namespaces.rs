//! The data plane against the real kernel: tunnels, liveness, routes and the backbone.

#![allow(clippy::unwrap_used)]

mod world;

use holdfast_api::Reason;
use holdfast_api::tunnel::{BfdState, TunnelKind};
use regional_edge::dataplane::Event;
use regional_edge::mesh::Heard;
use regional_edge::names;
use regional_edge::nodes::NodeKey;
use regional_edge::state::Way;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use tokio::sync::watch;
use tunnels::wireguard::PrivateKey;
use world::{SITE_HOST, TestEdge, World, eventually};

const BOTH: &[&str] = &["re-1", "re-2"];

fn table(world: &World, edge: &str, table: u32) -> String {
    // ip(8) fails for a table that was never used.
    let name = world.name(edge);
    let show = ["-n", name, "route", "show", "table", &table.to_string()];
    let output = std::process::Command::new("ip").args(show).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Carries between two edges what the mesh would.
struct Wire(Option<watch::Sender<()>>, Vec<std::thread::JoinHandle<()>>);

impl Wire {
    fn between(edges: [&TestEdge; 2]) -> Self {
        let (ends, end) = watch::channel(());
        let carry = |from: &TestEdge, name: &str, to: &TestEdge| {
            let (mut up, events, mut end) =
                (from.dataplane.up(), to.dataplane.sender(), end.clone());
            let name = name.to_string();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let carry = async move {
                let mut told = None;
                loop {
                    let now = up.borrow_and_update().clone();
                    if told.as_ref() != Some(&now) {
                        let heard = Heard::All((*now).clone());
                        let _ = events.send(Event::Mesh { edge: name.clone(), heard });
                        told = Some(now);
                    }
                    tokio::select! {
                        Ok(()) = up.changed() => {}
                        _ended = end.changed() => return,
                    }
                }
            };
            std::thread::spawn(move || runtime.block_on(carry))
        };
        let threads = vec![carry(edges[0], "re-1", edges[1]), carry(edges[1], "re-2", edges[0])];
        Wire(Some(ends), threads)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0 = None;
        self.1.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn an_edge_serves_a_node_and_its_site() {
    or_skip!();
    let world = World::new();
    let edge = world.edge(1);
    let node = world.node(&[(1, edge.public_key)]);
    edge.dataplane.tell(Event::Peers(Vec::new()));
    eventually("the device", || edge.state().kind.is_some());
    assert!(!world.client_reaches(SITE_HOST), "nobody is served yet");

    edge.serve(&node, BOTH);
    eventually("liveness on both sides", || edge.node_is(BfdState::Up) && node.up(1));
    eventually("the way", || edge.state().nodes[0].way == Way::Tunnel);
    eventually("traffic", || world.client_reaches(SITE_HOST));
    eventually("traffic", || world.client_reaches("100.64.1.1"));
    let state = edge.state();
    assert_eq!(state.reason, None, "{}", state.message);
    eventually("what it has done", || {
        let state = edge.state();
        let counted = state.handshakes.is_some_and(|handshakes| handshakes.taken > 0);
        let node = &state.nodes[0];
        counted && node.rx_bytes > 0 && node.handshake_age_secs.is_some()
    });

    // Not served any more: nothing is left but what belongs to the edge itself.
    edge.dataplane.tell(Event::Peers(Vec::new()));
    eventually("no routes", || {
        [names::LOCAL_TABLE, names::BACKBONE_TABLE, names::LAST_TABLE]
            .iter()
            .all(|t| table(&world, "re1", *t).is_empty())
    });
    eventually("the node notices", || !node.up(1));
}

#[test]
fn a_dead_tunnel_moves_traffic_over_the_backbone_and_back() {
    or_skip!();
    let world = World::new();
    let (one, two) = (world.edge(1), world.edge(2));
    let node = world.node(&[(1, one.public_key), (2, two.public_key)]);
    one.serve(&node, BOTH);
    two.serve(&node, BOTH);
    let _wire = Wire::between([&one, &two]);
    eventually("both tunnels", || one.node_is(BfdState::Up) && two.node_is(BfdState::Up));
    eventually("the way stands ready while it is not needed", || {
        table(&world, "re1", names::BACKBONE_TABLE).contains("10.1.0.0/24")
    });
    eventually("traffic", || world.client_reaches(SITE_HOST));

    // The node answers over whichever tunnel it uses; that is its business.
    world.ip("node", &["link", "set", "wan0", "down"]);
    eventually("edge 1 notices", || one.node_is(BfdState::Down));
    eventually("the other way", || {
        one.state().nodes[0].way == Way::Backbone { edge: "re-2".into() }
    });
    world.ip("node", &["route", "del", "172.16.1.0/24", "dev", "hf-wg1"]);
    eventually("the site is reached through edge 2", || world.client_reaches(SITE_HOST));
    assert!(!table(&world, "re1", names::LOCAL_TABLE).contains("10.1.0.0/24"));

    world.ip("node", &["link", "set", "wan0", "up"]);
    eventually("edge 1 has it again", || one.node_is(BfdState::Up));
    eventually("the tunnel again", || one.state().nodes[0].way == Way::Tunnel);
    eventually("traffic", || world.client_reaches(SITE_HOST));
}

/// As when its address was mistyped at the controller.
#[test]
fn a_neighbour_that_cannot_be_reached_keeps_nobody_from_being_served() {
    or_skip!();
    let world = World::new();
    let (one, two) = (world.edge(1), world.edge(2));
    let edges = [
        ("re-0".to_owned(), [198, 51, 100, 9].into()),
        ("re-2".to_owned(), world::backbone(2)),
        ("re-9".to_owned(), [198, 51, 100, 10].into()),
    ];
    one.dataplane.tell(Event::Edges { backbone: edges.into(), protected: [].into() });
    let node = world.node(&[(1, one.public_key), (2, two.public_key)]);
    one.serve(&node, BOTH);
    two.serve(&node, BOTH);
    let _wire = Wire::between([&one, &two]);
    eventually("both tunnels", || one.node_is(BfdState::Up) && two.node_is(BfdState::Up));
    eventually("traffic", || world.client_reaches(SITE_HOST));
    eventually("the way over the edge that can be reached", || {
        table(&world, "re1", names::BACKBONE_TABLE).contains("10.1.0.0/24")
    });
    eventually("what is wrong is told", || {
        let state = one.state();
        state.reason == Some(Reason::NetApplyFailed) && state.message.contains("198.51.100.9")
    });

    one.dataplane.tell(Event::Edges {
        backbone: [("re-2".to_owned(), world::backbone(2))].into(),
        protected: [].into(),
    });
    eventually("nothing is wrong any more", || one.state().reason.is_none());
    assert!(one.node_is(BfdState::Up) && world.client_reaches(SITE_HOST));
}

/// `ipv6.disable=1` of the kernel's command line.
#[test]
fn a_kernel_without_ipv6_serves_nodes() {
    or_skip!();
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("skipped: this kernel has IPv6; `cargo lab machine test` starts one without");
        return;
    }
    let world = World::new();
    let (one, two) = (world.edge(1), world.edge(2));
    let node = world.node(&[(1, one.public_key), (2, two.public_key)]);
    let mut peer = world::peer(node.public_key, BOTH);
    peer.spec.site_prefixes.push("fd00:7::/48".parse().unwrap());
    for edge in [&one, &two] {
        edge.dataplane.tell(Event::Peers(vec![peer.clone()]));
    }
    let _wire = Wire::between([&one, &two]);
    eventually("both tunnels", || one.node_is(BfdState::Up) && two.node_is(BfdState::Up));
    eventually("what is left out is told", || {
        let state = one.state();
        state.reason == Some(Reason::NetIpv6Off) && state.message.ends_with(" fd00:7::/48")
    });
    eventually("the way stands ready while it is not needed", || {
        table(&world, "re1", names::BACKBONE_TABLE).contains("10.1.0.0/24")
    });
    eventually("traffic", || world.client_reaches(SITE_HOST));
}

/// As hardened images of clouds have it.
#[test]
fn where_ipv6_is_off_on_links_it_is_on_where_tunnels_end() {
    or_skip!();
    let world = World::new();
    let set_ipv6 = |off: u8| {
        let script = format!("echo {off} > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let name = world.name("re1");
        let set = Command::new("ip").args(["netns", "exec", name, "sh", "-c", &script]).status();
        assert!(set.unwrap().success());
    };
    set_ipv6(1);
    let edge = world.edge(1);
    let node = world.node(&[(1, edge.public_key)]);
    let mut peer = world::peer(node.public_key, BOTH);
    peer.spec.site_prefixes.push("fd00:7::/48".parse().unwrap());
    edge.dataplane.tell(Event::Peers(vec![peer]));
    let leads_there = || {
        let all = world.ip("re1", &["-6", "route", "show", "table", "all"]);
        let into_tunnel =
            |route: &str| route.starts_with("fd00:7::/48 ") && route.contains("table 7210");
        all.lines().any(into_tunnel)
    };
    for off in [0, 1] {
        eventually("liveness", || edge.node_is(BfdState::Up));
        eventually("all of it", || edge.state().reason.is_none() && leads_there());
        eventually("traffic", || world.client_reaches(SITE_HOST));
        set_ipv6(off);
    }
    eventually("all of it", || edge.state().reason.is_none() && leads_there());
    eventually("traffic", || world.client_reaches(SITE_HOST));
}

#[test]
fn what_came_over_the_backbone_does_not_go_back() {
    or_skip!();
    let world = World::new();
    let (one, two) = (world.edge(1), world.edge(2));
    let node = world.node(&[]);
    one.serve(&node, BOTH);
    two.serve(&node, BOTH);
    // Each believes that the other has the node; nobody has.
    let all = [NodeKey::new("acme", "ce01-1").unwrap()];
    for (edge, other) in [(&one, "re-2"), (&two, "re-1")] {
        let heard = Heard::All(all.clone().into());
        edge.dataplane.tell(Event::Mesh { edge: other.into(), heard });
    }
    for edge in ["re1", "re2"] {
        eventually("the backbone route", || {
            table(&world, edge, names::BACKBONE_TABLE).contains("10.1.0.0/24")
        });
    }
    let received = |edge: &str| {
        let text = world.ip(edge, &["-s", "-j", "link", "show", "dev", "bb0"]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    };
    // Neighbours are resolved and counters settle.
    world.client_reaches(SITE_HOST);
    let before = (received("re1"), received("re2"));
    assert!(!world.client_reaches(SITE_HOST));
    let (back, forth) = (received("re1") - before.0, received("re2") - before.1);
    // Three requests over; the answer is at most an "unreachable" for each and neighbour discovery. A
    // loop would be sixty-four of each.
    assert!((1..=16).contains(&forth) && back <= 16, "forth {forth}, back {back}");
}

#[test]
fn what_others_change_is_mended_and_what_is_theirs_is_left() {
    or_skip!();
    let world = World::new();
    let edge = world.edge(1);
    let node = world.node(&[(1, edge.public_key)]);
    edge.serve(&node, BOTH);
    eventually("liveness", || edge.node_is(BfdState::Up));
    world.ip("re1", &["route", "add", "198.51.100.0/24", "via", "192.0.2.2"]);
    world.ip("re1", &["rule", "add", "priority", "5000", "lookup", "100"]);
    let t = names::LOCAL_TABLE.to_string();
    eventually("routes", || table(&world, "re1", names::LOCAL_TABLE).contains("10.1.0.0/24"));
    world.ip("re1", &["route", "del", "10.1.0.0/24", "table", &t]);
    world.ip("re1", &["rule", "del", "priority", &names::LAST_RULE.to_string()]);
    eventually("mended", || {
        table(&world, "re1", names::LOCAL_TABLE).contains("10.1.0.0/24")
            && world.ip("re1", &["rule"]).contains(&format!("{}:", names::LAST_RULE))
    });
    assert!(world.ip("re1", &["route"]).contains("198.51.100.0/24"));
    assert!(world.ip("re1", &["rule"]).contains("5000:"));

    // The device itself is taken away: everything is made anew, liveness included. Taken
    // elsewhere it works on, for nobody.
    let client = world.name("client");
    let elsewhere = ["link", "set", names::LINK, "netns", client, "name", "stray"];
    for taken in [&["link", "del", names::LINK][..], &elsewhere] {
        world.ip("re1", taken);
        eventually("gone", || !edge.node_is(BfdState::Up) && !node.up(1));
        eventually("a new device", || edge.state().kind.is_some() && edge.state().reason.is_none());
        node.renew(1, edge.public_key);
        eventually("back", || edge.node_is(BfdState::Up) && world.client_reaches(SITE_HOST));
    }
}

#[test]
fn a_restart_finds_its_own_and_the_backup_carries_on_meanwhile() {
    or_skip!();
    let world = World::new();
    let (one, two) = (world.edge(1), world.edge(2));
    let node = world.node(&[(1, one.public_key), (2, two.public_key)]);
    one.serve(&node, BOTH);
    two.serve(&node, BOTH);
    let wire = Wire::between([&one, &two]);
    eventually("both tunnels", || one.node_is(BfdState::Up) && two.node_is(BfdState::Up));
    eventually("the way over", || {
        table(&world, "re1", names::BACKBONE_TABLE).contains("10.1.0.0/24")
    });
    drop(wire);
    let TestEdge { dataplane, public_key, private_key } = one;
    drop(dataplane);
    // The device went with the process, and with it what pointed at it. The rest still stands.
    world.ip("node", &["route", "del", "172.16.1.0/24", "dev", "hf-wg1"]);
    eventually("over the backbone", || world.client_reaches(SITE_HOST));

    let one = world.edge_with(1, public_key, private_key, TunnelKind::WireguardUserspace);
    one.serve(&node, BOTH);
    eventually("the device", || one.state().kind.is_some());
    node.renew(1, one.public_key);
    eventually("liveness", || one.node_is(BfdState::Up));
    eventually("the tunnel", || world.client_reaches(SITE_HOST));
    let rules = world.ip("re1", &["rule"]);
    assert_eq!(rules.matches(&format!("{}:", names::LOCAL_RULE)).count(), 1, "{rules}");
}

/// Set for the process that [`holds_a_thread_still`]: whose thread it is.
const HOLD: &str = "HOLDFAST_TEST_HOLDS_THREAD";

/// No test by itself: a process of its own, for nobody can hold a thread of his own process still.
/// The thread goes on when nobody writes to us any more.
#[test]
fn holds_a_thread_still() {
    use nix::sys::{ptrace, wait};
    let Some(thread) = std::env::var(HOLD).ok().and_then(|id| id.parse().ok()) else { return };
    let thread = nix::unistd::Pid::from_raw(thread);
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    wait::waitpid(thread, Some(wait::WaitPidFlag::__WALL)).unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ptrace::detach(thread, None).unwrap();
}

/// A thread of this process that is held still, until this is dropped.
struct HeldStill(Child);

impl HeldStill {
    fn new(thread: &str) -> Self {
        let mut holder = Command::new(std::env::current_exe().unwrap());
        holder.args(["--exact", "holds_a_thread_still"]).env(HOLD, thread);
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let held = HeldStill(holder);
        // As proc_pid_status(5) has it of one that a tracer has stopped.
        eventually("the thread is held", || {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status"));
            status.unwrap().contains("State:\tt ")
        });
        held
    }
}

impl Drop for HeldStill {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The threads of this process that move the packets of edges.
fn threads_of_edges() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == names::LINK)
    };
    tasks.filter(named).map(|task| task.file_name().unwrap().to_str().unwrap().into()).collect()
}

/// A thread that stands still cannot say so, and its nodes would be up for ever.
#[test]
fn a_thread_that_stands_still_moves_the_nodes_to_the_other_edge_and_back() {
    or_skip!();
    let world = World::new();
    let one = world.edge(1);
    one.dataplane.tell(Event::Peers(Vec::new()));
    eventually("the first device", || one.state().kind.is_some());
    let [first] = &threads_of_edges()[..] else { panic!("one edge has one device") };
    let two = world.edge(2);
    let node = world.node(&[(1, one.public_key), (2, two.public_key)]);
    one.serve(&node, BOTH);
    two.serve(&node, BOTH);
    let _wire = Wire::between([&one, &two]);
    eventually("both tunnels", || one.node_is(BfdState::Up) && two.node_is(BfdState::Up));
    eventually("the tunnel", || one.state().nodes[0].way == Way::Tunnel);
    eventually("traffic", || world.client_reaches(SITE_HOST));

    let held = HeldStill::new(first);
    eventually("edge 1 notices", || one.node_is(BfdState::Down));
    eventually("the backbone", || {
        one.state().nodes[0].way == Way::Backbone { edge: "re-2".into() }
    });
    eventually("no way into the tunnel", || {
        !table(&world, "re1", names::LOCAL_TABLE).contains("10.1.0.0/24")
    });
    eventually("the node notices", || !node.up(1));
    eventually("the other edge goes on", || node.up(2) && two.node_is(BfdState::Up));
    world.ip("node", &["route", "del", "172.16.1.0/24", "dev", "hf-wg1"]);
    eventually("the site is reached through edge 2", || world.client_reaches(SITE_HOST));

    drop(held);
    eventually("back", || {
        node.renew(1, one.public_key);
        one.node_is(BfdState::Up) && one.state().nodes[0].way == Way::Tunnel
    });
    eventually("traffic through edge 1", || world.client_reaches(SITE_HOST));
    assert_eq!(one.state().reason, None, "{}", one.state().message);
}

#[test]
fn the_kernels_wireguard_serves_as_well() {
    or_skip!();
    let world = World::new();
    if !world.kernel_has_wireguard() {
        eprintln!("skipped: this kernel has no WireGuard");
        return;
    }
    let key = PrivateKey::generate().unwrap();
    let path = world.dir.path().join("key");
    holdfast_durable::write(&path, key.to_base64().as_bytes(), 0o600).unwrap();
    let start = || world.edge_with(1, key.public(), path.clone(), TunnelKind::WireguardKernel);
    let edge = start();
    let node = world.node(&[(1, edge.public_key)]);
    edge.serve(&node, BOTH);
    eventually("liveness", || edge.node_is(BfdState::Up) && node.up(1));
    assert_eq!(edge.state().kind, Some(TunnelKind::WireguardKernel));
    eventually("traffic", || world.client_reaches(SITE_HOST));
    eventually("counters", || edge.state().nodes[0].rx_bytes > 0);
    assert_eq!(edge.state().reason, None, "{}", edge.state().message);

    // The device outlives the process, and the sessions in it outlive both.
    drop(edge);
    assert!(world.client_reaches(SITE_HOST), "nobody is needed for traffic");
    let edge = start();
    // Whatever it does before it is told its peers again: the device keeps them.
    eventually("it knows its neighbour", || !edge.state().edges.is_empty());
    assert!(world.client_reaches(SITE_HOST), "a session was lost");
    edge.serve(&node, BOTH);
    eventually("liveness again", || edge.node_is(BfdState::Up));
    eventually("traffic again", || world.client_reaches(SITE_HOST));
    edge.dataplane.tell(Event::Peers(Vec::new()));
    eventually("not served any more", || {
        let name = world.name("re1");
        let show = ["netns", "exec", name, "wg", "show", names::LINK, "peers"];
        let output = std::process::Command::new("ip").args(show).output().unwrap();
        output.status.success() && output.stdout.is_empty()
    });
}
