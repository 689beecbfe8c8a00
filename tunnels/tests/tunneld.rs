//! The real `tunneld` in a network namespace, with real packets.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod world;

use holdfast_api::Reason;
use holdfast_api::tunnel::{BfdState, TunnelKind, TunnelsState, TunnelsVersion};
use nix::sys::signal::Signal;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tunnels::wireguard::PrivateKey;
use world::{Namespace, World, active, need_rights, of, wait_for};

/// Whether the kernel has the devices, as it does where it can.
fn in_kernel(state: &TunnelsState) -> bool {
    state.tunnels.iter().all(|tunnel| tunnel.kind == TunnelKind::WireguardKernel)
}

#[test]
fn two_nearest_tunnels_come_up_and_traffic_flows() {
    need_rights!();
    let mut world = World::three();
    let config = world.config();
    world.write(&config);
    let start = Instant::now();
    world.start();
    let state = world.wait("two tunnels up", |state| state.up() == 2);
    eprintln!("two tunnels up {:?} after the start of the process", start.elapsed());
    let chosen: Vec<_> =
        state.candidates.iter().filter(|c| c.chosen).map(|c| c.edge.as_str()).collect();
    assert_eq!(chosen, ["re-1", "re-2"], "the nearest two");
    assert_eq!((state.generation, state.reason), (1, None), "{}", state.message);
    assert!(world.ping());
    let state = world.state().unwrap();
    assert_eq!(
        (active(&state), state.failovers),
        ("re-1", 0),
        "the nearest, however the handshakes raced"
    );

    assert_eq!(world.group_member(), Some(0x4846_0001));
    let rules = world.json(&["rule", "show"]);
    let rule = rules.as_array().unwrap().iter().find(|rule| rule["priority"] == 7200).unwrap();
    assert_eq!((&rule["table"], &rule["fwmask"]), (&"7200".into(), &"0x2000".into()), "{rule}");
    let routes = world.json(&["route", "show", "table", "7200"]);
    let route = routes
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["dst"] == "10.200.0.0/16" && r["type"] != "blackhole");
    assert_eq!(route.unwrap()["prefsrc"], "100.64.1.1");
    let edge = routes.as_array().unwrap().iter().find(|r| r["dst"] == "100.64.0.2").unwrap();
    assert_eq!(edge["dev"], "hf-wg1");
    let link = &world.json(&["-d", "link", "show", "dev", "hf-wg0"])[0];
    let kind = if in_kernel(&state) { "wireguard" } else { "tun" };
    assert_eq!((&link["mtu"], &link["linkinfo"]["info_kind"]), (&1420.into(), &kind.into()));
    let metrics = world.metrics();
    assert!(metrics.contains("holdfast_tunnel_up{edge=\"re-2\",link=\"hf-wg1\"} 1\n"), "{metrics}");
    wait_for("nothing to be done", || world.state().filter(|state| state.pending.is_empty()));
}

#[test]
fn wg_sees_and_changes_a_userspace_device() {
    need_rights!();
    let mut world = World::three();
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    world.write(&config);
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2);
    let dir = world.root.path().join("run/wireguard");
    // wg(8) looks in /run/wireguard whatever our root is.
    let wg = |args: &str| {
        let script = format!(
            "mkdir -p /run/wireguard && mount --bind {} /run/wireguard && wg {args}",
            dir.display()
        );
        let out = world.node.run("unshare", &["-m", "sh", "-c", &script]);
        assert!(out.status.success(), "wg {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let edge = world.edge("re-1").candidate();
    // In the order in which the directory has them.
    let shown = wg("show interfaces");
    let mut shown: Vec<&str> = shown.split_whitespace().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["hf-wg0", "hf-wg1"]);
    assert_eq!(wg("show hf-wg0 endpoints"), format!("{}\t{}\n", edge.public_key, edge.endpoint));
    assert_eq!(wg("show hf-wg0 fwmark"), "0x2000\n");
    let handshake = wg("show hf-wg0 latest-handshakes");
    assert!(!handshake.trim_end().ends_with("\t0"), "{handshake}");
    assert!(wg("show hf-wg0").contains("allowed ips: 0.0.0.0/0, ::/0"));
    wg(&format!("set hf-wg0 peer {} persistent-keepalive 25", edge.public_key));
    assert_eq!(wg("show hf-wg0 persistent-keepalive"), format!("{}\t25\n", edge.public_key));
    let port = wg("show hf-wg0 listen-port");
    wg("set hf-wg0 listen-port 0");
    assert_ne!(wg("show hf-wg0 listen-port"), port);
    world.wait("up on the other port", |state| state.up() == 2);
    assert!(world.ping());
}

#[test]
fn a_cut_moves_traffic_and_healing_brings_it_back_after_a_while() {
    need_rights!();
    // Nobody takes the place of one that is away for long.
    let world = World::of(&[("a", 0), ("b", 150)]).up();
    world.wait("the nearest active", |state| active(state) == "re-1");
    world.edge("re-1").cut();
    let cut = Instant::now();
    let state = world.wait("traffic on the second", |state| active(state) == "re-2");
    eprintln!("traffic moved {:?} after the cut (20 × 100 ms)", cut.elapsed());
    world.edge("re-1").heal();
    assert!(world.ping());
    let last = state.last_failover.unwrap();
    assert_eq!((last.from.as_deref(), last.to.as_deref()), (Some("re-1"), Some("re-2")));
    assert_eq!(state.reason, Some(Reason::TunnelSingle), "{}", state.message);
    let up = world.wait("the first up again", |state| state.up() == 2);
    assert_eq!(active(&up), "re-2", "not yet");
    let state = world.wait("traffic back", |state| active(state) == "re-1");
    assert!(of(&state, "re-1").unwrap().since_ms >= 4_900);
    assert!(world.ping());
}

#[test]
fn a_third_edge_takes_over_from_one_that_is_dead_for_good() {
    need_rights!();
    let world = World::three().up();
    world.edge("re-1").cut();
    world.wait("the third is chosen", |state| of(state, "re-3").is_some());
    let state = world.wait("the third instead of the first", |state| {
        state.up() == 2 && of(state, "re-1").is_none()
    });
    assert_eq!(active(&state), "re-2");
    assert_eq!(state.reason, None, "{}", state.message);
    assert!(world.ping());
    // And the second goes as well.
    world.edge("re-2").cut();
    world.wait("traffic on the third", |state| active(state) == "re-3");
    assert!(world.ping());
}

#[test]
fn an_edge_that_restarts_is_reached_again_soon() {
    need_rights!();
    let mut world = World::three().up();
    let edge = world.edges.iter_mut().find(|edge| edge.name == "re-2").unwrap();
    edge.crash();
    world.wait("it is down", |state| of(state, "re-2").is_some_and(|t| t.state != BfdState::Up));
    world.restart_edge("re-2");
    let restarted = Instant::now();
    world.wait("it is up", |state| of(state, "re-2").is_some_and(|t| t.state == BfdState::Up));
    eprintln!("up {:?} after the edge's restart", restarted.elapsed());
}

/// The routes of edges may cover the node's own network; that stays where it is.
#[test]
fn a_wide_route_does_not_take_the_nodes_own_network_away() {
    need_rights!();
    let mut world = World::three();
    let mut config = world.config();
    config.intent.site_prefixes = vec!["10.200.7.0/24".parse().unwrap()];
    world.write(&config);
    world.node.ip(&["link", "add", "name", "lan0", "type", "bridge"]);
    world.node.ip(&["link", "set", "dev", "lan0", "up"]);
    world.node.ip(&["address", "add", "10.200.7.1/24", "dev", "lan0"]);
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2);
    let way = |to: &str| {
        let out = world.node.run("ip", &["route", "get", to]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(way("10.200.7.9").contains("dev lan0"), "{}", way("10.200.7.9"));
    assert!(way("10.200.8.9").contains("dev hf-wg"), "{}", way("10.200.8.9"));
    assert!(world.ping());
}

/// Whoever waits for a change is answered by the change, and not before it.
#[test]
fn changes_are_told_when_they_happen() {
    need_rights!();
    let world = World::three().up();
    let version = |path: &str| -> TunnelsVersion {
        let (code, body) = world.request(path).unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let mut known = version("GET /v1/changes");
    assert_ne!(version("GET /v1/changes?after=0").version, 0, "known already: answered at once");
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let wait_after = |known: TunnelsVersion| {
            let tell = tell.clone();
            scope.spawn(move || {
                tell.send(version(&format!("GET /v1/changes?after={}", known.version))).unwrap();
            });
        };
        wait_after(known);
        // What follows from coming up comes first.
        while let Ok(news) = told.recv_timeout(Duration::from_millis(500)) {
            known = news;
            wait_after(known);
        }
        world.edge("re-1").cut();
        assert_ne!(told.recv_timeout(Duration::from_secs(60)).unwrap(), known);
    });
    world.wait("traffic on the second", |state| active(state) == "re-2");
}

#[test]
fn killed_and_started_again_it_takes_up_where_it_was() {
    need_rights!();
    takes_up_after(Signal::SIGKILL);
}

/// As a panic of any thread does in a release, which ends all of them: no worker is dead by itself.
#[test]
fn aborted_and_started_again_it_takes_up_where_it_was() {
    need_rights!();
    takes_up_after(Signal::SIGABRT);
}

fn takes_up_after(signal: Signal) {
    let mut world = World::three().up();
    let by_kernel = in_kernel(&world.state().unwrap());
    world.signal(signal);
    world.ended();
    assert!(world.state().is_none(), "nobody says that all is well");
    if by_kernel {
        assert!(world.ping(), "the kernel's tunnels go on by themselves");
    } else {
        // Nothing leaves in the clear meanwhile: the routes to nowhere have taken over.
        wait_for("the links to go", || {
            (!world.json(&["link", "show"]).to_string().contains("hf-wg")).then_some(())
        });
        let out = world.node.run("ip", &["route", "get", world::TARGET]);
        assert!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2);
    assert!(world.ping());
    let rules = world.json(&["rule", "show"]);
    let ours = rules.as_array().unwrap().iter().filter(|rule| rule["priority"] == 7200).count();
    assert_eq!(ours, 1, "{rules}");
}

#[test]
fn asked_to_end_it_leaves_nothing_behind_and_tells_the_edges() {
    need_rights!();
    let mut world = World::three().up();
    world.node.ip(&[
        "route",
        "add",
        "10.99.0.0/16",
        "dev",
        "up1",
        "proto",
        "static",
        "table",
        "7300",
    ]);
    world.signal(Signal::SIGTERM);
    world.ended();
    let all = [
        world.json(&["rule", "show"]).to_string(),
        world.json(&["nexthop", "show"]).to_string(),
        world.json(&["link", "show"]).to_string(),
    ];
    assert!(
        all.iter().all(|text| !text.contains("7200")
            && !text.contains("hf-wg")
            && !text.contains("12127")),
        "{all:?}"
    );
    assert_eq!(world.node.run("ip", &["route", "show", "table", "7200"]).stdout, b"");
    assert!(
        world.node.ip(&["route", "show", "table", "7300"]).contains("10.99.0.0/16"),
        "not ours"
    );
    assert!(!world.root.path().join("run/holdfast/tunneld.sock").exists());
    // It is made for userspace devices.
    let sockets = std::fs::read_dir(world.root.path().join("run/wireguard"));
    assert!(sockets.into_iter().flatten().next().is_none());
}

#[test]
fn a_bad_configuration_leaves_the_last_good_one_in_force() {
    need_rights!();
    let mut world = World::three().up();
    world.write_bytes(b"{\"generation\": 9, \"kin");
    let (code, body) = world.reload();
    assert_eq!(code, 422);
    assert!(body.contains("tunnel.config-invalid"), "{body}");
    let state = world
        .wait("the trouble is told", |state| state.reason == Some(Reason::TunnelConfigInvalid));
    assert_eq!((state.generation, state.up()), (1, 2), "{}", state.message);
    assert!(world.ping());
    // A restart finds the bad file and takes the last good one.
    world.signal(Signal::SIGKILL);
    world.ended();
    world.start();
    let state = world.wait("two tunnels up", |state| state.up() == 2);
    assert_eq!((state.generation, state.reason), (1, Some(Reason::TunnelConfigInvalid)));
    // So does one that finds no file at all, and then nothing is wrong.
    std::fs::remove_file(world.config_path()).unwrap();
    world.signal(Signal::SIGKILL);
    world.ended();
    world.start();
    let state = world.wait("two tunnels up", |state| state.up() == 2);
    assert_eq!((state.generation, state.reason), (1, None), "{}", state.message);
}

#[test]
fn a_new_configuration_does_not_interrupt_what_stays() {
    need_rights!();
    let mut world = World::three().up();
    let before = world.state().unwrap();
    let mut config = world.config();
    config.intent.routes.push("10.201.0.0/16".parse().unwrap());
    config.intent.bfd.interval_ms = 50;
    config.intent.candidates.retain(|edge| edge.name != "re-2");
    world.write(&config);
    assert_eq!(world.reload().0, 204);
    let state = world.wait("re-3 instead of re-2", |state| {
        state.generation == 2
            && of(state, "re-2").is_none()
            && of(state, "re-3").is_some_and(|t| t.state == BfdState::Up)
    });
    let (old, new) = (of(&before, "re-1").unwrap(), of(&state, "re-1").unwrap());
    assert!(
        new.state == BfdState::Up && new.since_ms > old.since_ms && new.rx_bytes > old.rx_bytes
    );
    assert_eq!(state.failovers, before.failovers);
    let routes = world.json(&["route", "show", "table", "7200"]).to_string();
    assert!(routes.contains("10.201.0.0/16"), "{routes}");
    // The file is followed without being told, too.
    let mut config = world.config();
    config.intent.routes.clear();
    world.write(&config);
    world.wait("the file is noticed", |state| state.generation == 3);
    wait_for("the routes to go", || {
        (!world.json(&["route", "show", "table", "7200"]).to_string().contains("10.20"))
            .then_some(())
    });
}

#[test]
fn what_somebody_changes_is_put_back() {
    need_rights!();
    let mut world = World::three();
    let mut config = world.config();
    config.intent.candidates.truncate(2);
    world.write(&config);
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2 && active(state) == "re-1");
    let spoil: [&[&str]; 6] = [
        &["route", "del", "10.200.0.0/16", "table", "7200", "proto", "72", "metric", "0"],
        &["rule", "del", "pref", "7200"],
        &["nexthop", "replace", "id", "1212547072", "group", "1212547074"],
        &["addr", "flush", "dev", "hf-wg1"],
        &["link", "set", "hf-wg0", "mtu", "1300"],
        &["nexthop", "flush"],
    ];
    let snapshot = |world: &World| {
        let text = |args: &[&str]| world.node.ip(args);
        let routes = text(&["route", "show", "table", "7200"]);
        let mut routes: Vec<_> = routes.lines().map(str::trim).map(String::from).collect();
        routes.sort();
        (
            routes,
            text(&["rule"]),
            text(&["nexthop"]),
            text(&["addr", "show", "dev", "hf-wg1", "scope", "global"]),
            text(&["link", "show", "dev", "hf-wg0"]),
        )
    };
    let good = wait_for("rest", || {
        let one = snapshot(&world);
        let state = world.state()?;
        // On a slow machine a session may bounce at first; traffic comes back a while later.
        let is_settled = state.pending.is_empty() && state.up() == 2 && active(&state) == "re-1";
        (is_settled && snapshot(&world) == one).then_some(one)
    });
    for args in spoil {
        world.node.ip(args);
        wait_for(&format!("mending after ip {args:?}"), || {
            (snapshot(&world) == good).then_some(())
        });
    }
    assert!(world.metrics().contains("holdfast_tunnel_network_mended_total"));
    let at_rest = || {
        let state = world.wait("traffic where it belongs", |state| {
            state.up() == 2 && active(state) == "re-1" && state.pending.is_empty()
        });
        state.failovers
    };
    // A link that is deleted takes its tunnel with it; both come back.
    let failovers = at_rest();
    world.node.ip(&["link", "del", "hf-wg0"]);
    world.wait("traffic left it and both are up again", |state| {
        state.failovers > failovers && state.up() == 2
    });
    // One that is taken elsewhere leaves a device behind whose BFD goes on.
    let elsewhere = Namespace::new();
    let failovers = at_rest();
    world.node.ip(&["link", "set", "hf-wg0", "netns", &elsewhere.name]);
    world.wait("traffic left it as well and both are up again", |state| {
        state.failovers > failovers && state.up() == 2
    });
    wait_for("traffic", || world.ping().then_some(()));
    world.node.ip(&["link", "set", "hf-wg1", "down"]);
    wait_for("the link to be up", || {
        (world.json(&["link", "show", "dev", "hf-wg1"])[0]["flags"].to_string().contains("\"UP\""))
            .then_some(())
    });
    world.wait("two tunnels up", |state| state.up() == 2);
    wait_for("traffic", || world.ping().then_some(()));
}

/// Another key takes the place of the node's: the edges are told first, as the controller does.
#[test]
fn another_private_key_is_taken_in_place() {
    need_rights!();
    let mut world = World::three().up();
    let link = |world: &World| world.json(&["link", "show", "dev", "hf-wg0"])[0]["ifindex"].clone();
    let (before, old) = (link(&world), world.key.public());
    let new = PrivateKey::generate().unwrap();
    for edge in &world.edges {
        edge.expects(&new.public());
        assert!(edge.handshake_of(&new.public()).is_none(), "nobody has this key yet");
    }
    holdfast_durable::write(&world.root.path().join("key"), new.to_base64().as_bytes(), 0o600)
        .unwrap();
    let config = world.config();
    world.write(&config);
    assert_eq!(world.reload().0, 204);
    for edge in &world.edges[..2] {
        wait_for("a handshake with the new key", || edge.handshake_of(&new.public()));
        edge.forgets(&old);
    }
    let state = world.wait("two tunnels up", |state| state.generation == 2 && state.up() == 2);
    assert_eq!(state.reason, None, "{}", state.message);
    wait_for("traffic", || world.ping().then_some(()));
    assert_eq!(link(&world), before, "the link was made anew");
}

/// Somewhere on the way what is larger vanishes, and nobody says so.
#[test]
fn what_passes_whole_is_found_out_and_the_link_takes_no_more() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 60)]);
    world.edges.iter_mut().for_each(world::Edge::run_through_device);
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    // Our end goes on to send what the other one does not take. What is no probe goes in fragments,
    // as if the kernel had learned it.
    world.node.ip(&["route", "replace", "10.77.1.0/24", "dev", "up1", "mtu", "1400"]);
    world.edge("re-1").namespace.ip(&["link", "set", "dev", "wan", "mtu", "1400"]);
    world.write(&config);
    world.start();
    let state = world.wait("both paths are known", |state| {
        let known = |edge| of(state, edge).and_then(|tunnel| tunnel.path_mtu);
        known("re-1").is_some_and(|mtu| mtu > 1300) && known("re-2").is_some()
    });
    let path = |edge| of(&state, edge).unwrap().path_mtu.unwrap();
    assert!((1337..=1340).contains(&path("re-1")), "1400 less 60: {}", path("re-1"));
    assert_eq!(path("re-2"), 1420);
    let mtu = |link: &str| world.json(&["link", "show", "dev", link])[0]["mtu"].as_u64();
    wait_for("the link's MTU", || (mtu("hf-wg0") == Some(path("re-1").into())).then_some(()));
    assert_eq!(mtu("hf-wg1"), Some(1420));
    assert_eq!(active(&state), "re-1");
    for bytes in ["1000", "1310", "1380", "5000"] {
        let out = world.node.run("ping", &["-c", "1", "-W", "5", "-s", bytes, world::TARGET]);
        assert!(out.status.success(), "{bytes} bytes");
    }
    // As something that somebody changed.
    world.node.ip(&["link", "set", "dev", "hf-wg0", "mtu", "1420"]);
    wait_for("the link's MTU again", || (mtu("hf-wg0") == Some(path("re-1").into())).then_some(()));
}

/// Links of our names are ours. Whose program has one at the start loses it.
#[test]
fn a_device_of_our_name_that_another_program_has_is_taken_from_it() {
    need_rights!();
    let mut world = World::three();
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    world.write(&config);
    let open = || tunnels::wireguard::LinkEnd::open(&"hf-wg0".parse().unwrap()).unwrap();
    let _taken = world.node.net.enter(open).unwrap();
    let before = world.json(&["link", "show", "dev", "hf-wg0"])[0]["ifindex"].clone();
    world.start();
    let state = world.wait("two tunnels up", |state| state.up() == 2);
    assert_eq!(state.reason, None, "{}", state.message);
    assert!(world.ping());
    assert_ne!(world.json(&["link", "show", "dev", "hf-wg0"])[0]["ifindex"], before);
}

#[test]
fn a_default_route_into_the_tunnels_does_not_swallow_the_tunnels() {
    need_rights!();
    let mut world = World::three();
    let mut config = world.config();
    config.intent.routes = vec!["0.0.0.0/0".parse().unwrap()];
    world.write(&config);
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2);
    assert!(world.ping());
    let state = world
        .wait("probes still measure", |state| state.candidates.iter().all(|c| c.rtt_us.is_some()));
    assert_eq!(state.reason, None);
}

#[test]
fn with_all_edges_away_traffic_goes_nowhere_and_the_reason_is_told() {
    need_rights!();
    let world = World::of(&[("a", 0), ("b", 10)]).up();
    world.edges.iter().for_each(world::Edge::cut);
    world.wait("all down", |state| {
        state.up() == 0 && state.reason == Some(Reason::TunnelNoEdgeAnswers)
    });
    assert_eq!(world.group_member(), Some(0x4846_0100));
    assert!(!world.ping());
    // The kernel describes routes that lead nowhere in another way, and nobody else changed them.
    let mended = || world.counter("holdfast_tunnel_network_mended_total");
    let before = mended();
    for times in 1..=5 {
        world.node.ip(&["rule", "del", "pref", "7200"]);
        wait_for("the rule again", || {
            let rules = world.json(&["rule", "show"]);
            rules.as_array()?.iter().any(|rule| rule["priority"] == 7200).then_some(())
        });
        wait_for("that it was put back", || (mended() >= before + times).then_some(()));
        assert_eq!(mended(), before + times, "nothing else was put back");
    }
    world.edges.iter().for_each(world::Edge::heal);
    let state = world.wait("all up again", |state| state.up() == 2);
    assert_eq!(state.reason, None, "{}", state.message);
    assert!(world.ping());
}

#[test]
fn edges_that_are_away_at_the_start_are_found_when_they_come() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 10)]);
    world.edges.iter().for_each(world::Edge::cut);
    let config = world.config();
    world.write(&config);
    world.start();
    world.wait("nobody answers", |state| state.reason == Some(Reason::TunnelNoEdgeAnswers));
    world.edges.iter().for_each(world::Edge::heal);
    world.wait("two tunnels up", |state| state.up() == 2);
    assert!(world.ping());
}

#[test]
fn one_failure_domain_is_used_twice_rather_than_one_tunnel_less() {
    need_rights!();
    let world = World::of(&[("a", 0), ("a", 10)]).up();
    let state = world.state().unwrap();
    assert_eq!(state.reason, Some(Reason::TunnelSharedDomain), "{}", state.message);
}

#[test]
fn overlay_and_routes_may_be_ipv6() {
    need_rights!();
    let plan =
        |domain, ms| world::Plan { domain, probe_delay: std::time::Duration::from_millis(ms) };
    let world = World::new(&[plan("a", 0), plan("b", 10)], true).up();
    assert!(world.ping());
    world.edge("re-1").cut();
    world.wait("traffic on the second", |state| active(state) == "re-2");
    assert!(world.ping());
}

/// `ipv6.disable=1` of the kernel's command line.
#[test]
fn a_kernel_without_ipv6_holds_tunnels() {
    need_rights!();
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("skipped: this kernel has IPv6; `cargo lab machine test` starts one without");
        return;
    }
    let mut world = World::of(&[("a", 0), ("b", 40)]);
    let mut config = world.config();
    config.intent.routes.insert(0, "fd00:1::/48".parse().unwrap());
    world.write(&config);
    world.start();
    let state = world.wait("all but IPv6", |state| {
        let off = state.reason == Some(Reason::NetIpv6Off);
        state.up() == 2 && off && state.pending.is_empty()
    });
    assert!(state.message.ends_with("no way leads to fd00:1::/48"), "{}", state.message);
    assert!(world.ping());
    world.edge("re-1").cut();
    world.wait("traffic on the second", |state| active(state) == "re-2");
    assert!(world.ping());
}

/// With `net.ipv6.conf.<what>.disable_ipv6` as said. `all` is `lo`, too, and `default` is what links
/// that come later take over.
fn set_ipv6(world: &World, what: &str, is_on: bool) {
    let off = u8::from(!is_on);
    let script = format!("echo {off} > /proc/sys/net/ipv6/conf/{what}/disable_ipv6");
    let out = world.node.run("sh", &["-c", &script]);
    assert!(out.status.success(), "{out:?}");
}

/// Whether there is a way to `prefix` over the tunnels, and whether what has none goes nowhere.
fn leads_to(world: &World, prefix: &str) -> [bool; 2] {
    // All, for a table of one family is not there without routes.
    let routes = world.json(&["-6", "route", "show", "table", "all"]);
    let is_it = |it: &&serde_json::Value| it["table"] == "7200" && it["dst"] == prefix;
    let routes: Vec<_> = routes.as_array().unwrap().iter().filter(is_it).collect();
    [false, true].map(|alone| routes.iter().any(|it| it["nhid"].is_null() == alone))
}

#[test]
fn routes_over_ipv6_come_and_go() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 10)]).up();
    let usual = world.config();
    let mut with = usual.clone();
    with.intent.routes.push("fd00:1::/48".parse().unwrap());
    for config in [&with, &usual, &with] {
        world.write(config);
        assert_eq!(world.reload().0, 204);
        let is_wanted = config.intent.routes.len() > usual.intent.routes.len();
        wait_for("the routes, and nothing to be done", || {
            let state = world.state()?;
            let done = state.pending.is_empty() && state.reason.is_none() && state.up() == 2;
            (leads_to(&world, "fd00:1::/48") == [is_wanted; 2] && done).then_some(())
        });
        assert!(world.ping());
    }
}

#[test]
fn ipv6_that_links_do_not_have_by_default_is_on_where_a_route_needs_it() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 40)]);
    set_ipv6(&world, "default", false);
    let mut config = world.config();
    config.intent.routes.insert(0, "fd00:1::/48".parse().unwrap());
    world.write(&config);
    world.start();
    let state = world.wait("two tunnels up", |state| state.up() == 2);
    assert_eq!(state.reason, None, "{}", state.message);
    assert!(world.ping());
    assert_eq!(leads_to(&world, "fd00:1::/48"), [true, true]);
}

#[test]
fn without_ipv6_all_that_is_ipv4_is_in_force() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 40)]);
    set_ipv6(&world, "all", false);
    let mut config = world.config();
    config.intent.routes.insert(0, "fd00:1::/48".parse().unwrap());
    world.write(&config);
    world.start();
    for what in ["all", "lo", "all"] {
        all_but_ipv6(&world, 2);
        assert!(world.ping());
        set_ipv6(&world, what, true);
        all_of_it(&world, 2);
        assert!(world.ping());
        set_ipv6(&world, what, false);
    }
}

fn all_but_ipv6(world: &World, up: usize) {
    wait_for("all but IPv6", || {
        let state = world.state()?;
        let is_told = state.message.contains("no way leads to fd00:1::/48");
        let is_worst = up == 0 || state.reason == Some(Reason::NetIpv6Off);
        let done = state.up() == up && state.pending.is_empty() && is_told && is_worst;
        (done && leads_to(world, "fd00:1::/48") == [false, true]).then_some(())
    });
}

fn all_of_it(world: &World, up: usize) {
    wait_for("all of it", || {
        let state = world.state()?;
        let done = state.up() == up && state.pending.is_empty() && !state.message.contains("IPv6");
        (done && leads_to(world, "fd00:1::/48") == [true, true]).then_some(())
    });
}

#[test]
fn ipv6_goes_and_comes_while_no_tunnel_is_up() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 40)]);
    let mut config = world.config();
    config.intent.routes.insert(0, "fd00:1::/48".parse().unwrap());
    world.write(&config);
    world.start();
    all_of_it(&world, 2);
    let cut = || world.edges.iter().for_each(world::Edge::cut);
    let heal = || world.edges.iter().for_each(world::Edge::heal);
    cut();
    all_of_it(&world, 0);
    set_ipv6(&world, "all", false);
    all_but_ipv6(&world, 0);
    heal();
    all_but_ipv6(&world, 2);
    assert!(world.ping());
    cut();
    all_but_ipv6(&world, 0);
    set_ipv6(&world, "all", true);
    all_of_it(&world, 0);
    heal();
    all_of_it(&world, 2);
    assert!(world.ping());
}

/// What is wanted of IPv6 no longer, while all routes lead nowhere.
#[test]
fn the_last_route_over_ipv6_goes_while_no_tunnel_is_up() {
    need_rights!();
    let mut world = World::of(&[("a", 0), ("b", 40)]);
    let usual = world.config();
    let mut with = usual.clone();
    with.intent.routes.insert(0, "fd00:1::/48".parse().unwrap());
    world.write(&with);
    world.start();
    all_of_it(&world, 2);
    world.edges.iter().for_each(world::Edge::cut);
    all_of_it(&world, 0);
    world.write(&usual);
    assert_eq!(world.reload().0, 204);
    wait_for("no route over IPv6", || {
        let done = world.state()?.pending.is_empty();
        (done && leads_to(&world, "fd00:1::/48") == [false, false]).then_some(())
    });
    world.edges.iter().for_each(world::Edge::heal);
    world.wait("two tunnels up", |state| state.up() == 2 && state.pending.is_empty());
    assert!(world.ping());
}

#[test]
fn a_kernel_without_wireguard_is_a_reason_when_nothing_else_is_allowed() {
    need_rights!();
    let mut world = World::of(&[("a", 0)]);
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardKernel];
    world.write(&config);
    world.start();
    let state = world.wait("a reason or a tunnel", |state| {
        state.reason == Some(Reason::TunnelEngineFailed) || state.up() == 1
    });
    if state.up() == 1 {
        eprintln!("skipped: this kernel has WireGuard");
    } else {
        assert!(state.message.contains("kernel has no WireGuard"), "{}", state.message);
    }
}

#[test]
fn a_second_one_ends_by_itself_and_harms_nothing() {
    need_rights!();
    let world = World::three().up();
    let out = world
        .node
        .run(env!("CARGO_BIN_EXE_tunneld"), &["--root", &world.root.path().display().to_string()]);
    assert!(!out.status.success());
    let text = String::from_utf8_lossy(&out.stderr).to_string();
    assert!(text.contains("another tunneld runs"), "{text}");
    assert_eq!(world.state().unwrap().up(), 2);
    assert!(world.ping());
}
