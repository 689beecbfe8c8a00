//! The real daemon in a network namespace of its own, below a root of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use holdfast_api::Reason;
use holdfast_api::local::{
    HealthReport, ItemReport, ItemState, NodeReport, PlanReport, Stage, TokenInput,
};
use holdfast_api::paths::Root;
use holdfast_api::resources::{HostEntry, LinkIntent, LinkMake, NetworkIntent, NodeConfigSpec};
use holdfast_api::token::{CaFingerprint, Envelope, TokenId, TokenSecret};
use holdfast_api::tunnel::{BfdTimers, TunnelIntent, TunnelsConfig, TunnelsState};
use holdfast_client::unix::{self, UnixError};
use holdfast_durable::Slots;
use holdfast_identity::KnownTime;
use holdfast_poll::retry;
use netd::netns::NetNs;
use serde::de::DeserializeOwned;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A box: a namespace and a root, gone with the test.
struct Box {
    netns: NetNs,
    dir: tempfile::TempDir,
    root: Root,
    daemon: Option<Child>,
}

impl Box {
    /// None where namespaces cannot be made, after saying so.
    fn new(test: &str) -> Option<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name = format!("hfm-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: {test}: it needs root for a network namespace");
            return None;
        }
        let netns = NetNs::create(&name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let new = Box { netns, dir, root, daemon: None };
        new.put("etc/hosts", "127.0.0.1 localhost\n");
        new.put(
            "etc/holdfast/config.d/50-test.toml",
            "pass_secs = 1\n[tunneld]\nstart = 'external'\n",
        );
        Some(new)
    }

    fn put(&self, path: &str, text: &str) {
        holdfast_durable::write(&self.root.join(path), text.as_bytes(), 0o644).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    fn desire(&self, spec: &NodeConfigSpec) {
        Slots::new(self.root.ledger(), 0o600).store(spec).unwrap();
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfastd"));
        command.arg("--root").arg(self.dir.path()).stdin(Stdio::null());
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        command.stderr(log);
        self.daemon = Some(self.netns.enter(|| command.spawn().unwrap()).unwrap());
        self.until("the daemon answers", || self.get::<NodeReport>("/v1/status").is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, UnixError> {
        run(unix::get_json(&self.root.manager_socket(), path))
    }

    fn report(&self) -> NodeReport {
        self.get("/v1/status").unwrap()
    }

    fn set_token(&self, token: &str, controller: Option<String>) -> Result<(), UnixError> {
        let input = TokenInput { token: token.into(), controller };
        run(unix::put_json(&self.root.manager_socket(), "/v1/token", &input))
    }

    fn ip(&self, line: &str) -> String {
        let run = || Command::new("ip").args(line.split(' ')).output().unwrap();
        let output = self.netns.enter(run).unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let met = retry(Duration::from_secs(60), || if holds() { Ok(()) } else { Err(()) });
        assert!(met.is_ok(), "{what} did not come true\n{}", self.read("log"));
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn token() -> Envelope {
    Envelope {
        tenant: "acme".into(),
        ca: CaFingerprint([7; 16]),
        id: TokenId([1; 5]),
        secret: TokenSecret::new([2; 10]),
    }
}

fn spec(generation: u64) -> NodeConfigSpec {
    NodeConfigSpec {
        generation,
        site: "ce01".into(),
        node: "ce01".into(),
        hosts: vec![HostEntry { address: "192.0.2.1".parse().unwrap(), names: vec!["box".into()] }],
        network: Some(NetworkIntent {
            links: vec![LinkIntent {
                name: "hf-lan".into(),
                make: Some(LinkMake::Bridge),
                addresses: vec!["10.128.0.1/24".parse().unwrap()],
                ..LinkIntent::default()
            }],
            routes: Vec::new(),
        }),
        tunnels: Some(TunnelIntent {
            overlay_address: "100.64.0.1".parse().unwrap(),
            site_prefixes: Vec::new(),
            routes: vec!["10.254.0.0/16".parse().unwrap()],
            candidates: Vec::new(),
            bfd: BfdTimers::default(),
            want: 2,
        }),
        ..NodeConfigSpec::default()
    }
}

fn tunnels(of: &Box) -> Option<TunnelsConfig> {
    serde_json::from_str(&of.read("run/holdfast/tunnels.json")).ok()
}

#[test]
fn an_unknown_box_without_anything_says_what_it_waits_for() {
    let Some(mut new) = Box::new("an_unknown_box_without_anything_says_what_it_waits_for") else {
        return;
    };
    new.start();
    let report = new.report();
    assert_eq!((report.stage, report.reason), (Stage::NoToken, Some(Reason::TokenMissing)));
    assert_eq!(report.profile, "generic");
    assert!(!report.next_step.is_empty());
    new.until("the hardware is reported", || !new.report().items.is_empty());
    let hardware = new.report().items.into_iter().find(|item| item.domain == "hardware").unwrap();
    assert!(hardware.reason.is_some(), "an empty /sys is worth a word: {hardware:?}");
    let health: HealthReport = new.get("/v1/health").unwrap();
    assert!(!health.healthy);
}

#[test]
fn a_mistyped_token_names_its_group_and_is_not_kept() {
    let Some(mut new) = Box::new("a_mistyped_token_names_its_group_and_is_not_kept") else {
        return;
    };
    new.start();
    let good = token().encode();
    let mut typed: Vec<char> = good.chars().collect();
    typed[8] = if typed[8] == 'A' { 'B' } else { 'A' };
    let error = new.set_token(&typed.iter().collect::<String>(), None).unwrap_err();
    assert_eq!(error.reason(), Reason::TokenMistypedGroup);
    assert!(error.to_string().contains("group 2"), "{error}");
    assert!(!new.root.join("var/lib/holdfast/token").exists());
    assert_eq!(new.report().stage, Stage::NoToken);
}

#[test]
fn an_absent_controller_is_tried_again() {
    let Some(mut new) = Box::new("an_absent_controller_is_tried_again") else { return };
    new.ip("link set lo up");
    new.start();
    // Somebody listens and hangs up: each attempt is one connection.
    let listener = new.netns.enter(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let controller = format!("https://{}", listener.local_addr().unwrap());
    new.set_token(&token().encode(), Some(controller)).unwrap();
    let mut attempts = 0;
    new.until("three attempts", || {
        attempts += u32::from(listener.accept().is_ok());
        attempts >= 3
    });
    new.until("it says so", || new.report().reason == Some(Reason::ControllerUnreachable));
    assert_eq!(new.report().stage, Stage::Registering);
    let secret = new.read("log");
    assert!(
        !secret.contains(token().credential().as_str())
            && !secret.contains(token().encode().as_str())
    );
}

#[test]
fn the_ledger_is_followed_without_a_controller_and_drift_is_mended() {
    let Some(mut new) = Box::new("the_ledger_is_followed_without_a_controller_and_drift_is_mended")
    else {
        return;
    };
    new.desire(&spec(3));
    new.start();
    new.until("hosts block", || new.read("etc/hosts").contains("192.0.2.1\tbox"));
    assert!(new.read("etc/hosts").starts_with("127.0.0.1 localhost\n"), "what is not ours stays");
    new.until("address", || new.ip("-br address show").contains("10.128.0.1/24"));
    new.until("tunnels", || tunnels(&new).is_some_and(|config| config.generation == 3));
    assert_eq!(new.report().generation, 3);

    new.ip("address del 10.128.0.1/24 dev hf-lan");
    new.until("the address is put back", || new.ip("-br address show").contains("10.128.0.1/24"));
    new.put("etc/hosts", "127.0.0.1 localhost");
    new.until("the block is put back", || new.read("etc/hosts").contains("192.0.2.1\tbox"));
    new.ip("link del hf-lan");
    new.until("the link is put back", || new.ip("-br address show").contains("10.128.0.1/24"));
    // This root has no /proc/sys to write to.
    let left = |plan: PlanReport| plan.steps.into_iter().any(|step| step.domain != "sysctl");
    new.until("nothing is left to do", || !left(new.get("/v1/plan").unwrap()));
}

#[test]
fn a_killed_manager_carries_on_where_it_was() {
    let Some(mut new) = Box::new("a_killed_manager_carries_on_where_it_was") else { return };
    new.desire(&spec(3));
    new.start();
    new.until("address", || new.ip("-br address show").contains("10.128.0.1/24"));
    new.until("tunnels", || tunnels(&new).is_some());
    let index = new.ip("-o link show hf-lan");
    new.kill();
    assert!(new.ip("-br address show").contains("10.128.0.1/24"), "nothing goes with the manager");
    new.start();
    new.until("a pass", || !new.report().items.is_empty());
    assert_eq!(new.ip("-o link show hf-lan"), index, "the link was kept, not made again");
    assert_eq!(new.report().generation, 3);
}

#[test]
fn a_ledger_cut_short_by_power_loss_costs_one_generation() {
    let Some(mut new) = Box::new("a_ledger_cut_short_by_power_loss_costs_one_generation") else {
        return;
    };
    new.desire(&spec(3));
    new.desire(&spec(4));
    let whole = std::fs::read(new.root.ledger()).unwrap();
    holdfast_durable::write(&new.root.ledger(), &whole[..whole.len() / 2], 0o600).unwrap();
    new.start();
    let report = new.report();
    assert_eq!(report.generation, 3);
    new.until("the tunnels of the last good one", || {
        tunnels(&new).is_some_and(|config| config.generation == 3)
    });
}

#[test]
fn a_fragment_with_a_typo_is_told_and_the_last_good_settings_stay() {
    let Some(mut new) = Box::new("a_fragment_with_a_typo_is_told_and_the_last_good_settings_stay")
    else {
        return;
    };
    new.start();
    new.kill();
    new.put("etc/holdfast/config.d/60-bad.toml", "poll_secs = 10\npol_secs = 3\n");
    new.start();
    new.until("the file is named", || {
        let items = new.report().items;
        items.iter().any(|item| {
            item.domain == "settings"
                && item.reason == Some(Reason::ConfigInvalid)
                && item.message.contains("60-bad.toml line 2")
        })
    });
    let health: HealthReport = new.get("/v1/health").unwrap();
    assert!(!health.healthy, "{health:?}");
    // With the defaults it would have begun to start a tunnel daemon of its own.
    assert!(!new.read("log").contains("cannot start tunneld"), "{}", new.read("log"));
}

/// As a panic does in a release, which ends the whole process.
#[test]
fn a_tunnel_daemon_that_aborts_is_missed_and_started_again() {
    let Some(mut new) = Box::new("a_tunnel_daemon_that_aborts_is_missed_and_started_again") else {
        return;
    };
    let program = new.root.join("tunneld");
    let text = "#!/bin/sh\nulimit -c 0\necho begun >>\"$2/begun\"\nkill -ABRT $$\n";
    holdfast_durable::write(&program, text.as_bytes(), 0o755).unwrap();
    let settings = format!("[tunneld]\nstart = 'child'\nprogram = '{}'\n", program.display());
    new.put("etc/holdfast/config.d/60-tunneld.toml", &settings);
    new.start();
    new.until("it is started a third time", || new.read("begun").lines().count() >= 3);
    match new.get::<TunnelsState>("/v1/tunnels") {
        Err(UnixError::Refused { problem }) => {
            assert_eq!(problem.reason, Reason::TunnelDaemonDown);
        }
        other => panic!("{other:?}"),
    }
    assert!(new.read("log").contains("tunneld ended"), "{}", new.read("log"));
}

/// Both copies of the ledger are gone and the controller is away: what the box has it keeps.
#[test]
fn an_admitted_node_without_its_ledger_takes_nothing_away() {
    let Some(mut new) = Box::new("an_admitted_node_without_its_ledger_takes_nothing_away") else {
        return;
    };
    let member = holdfastd::uplink::Membership {
        controller: "https://192.0.2.9:1".into(),
        tenant: "acme".into(),
        site: "ce01".into(),
        node: "ce01".into(),
    };
    let slots = Slots::new(new.root.identity_dir().join("membership.json"), 0o600);
    slots.store(&member).unwrap();
    new.desire(&spec(3));
    new.start();
    new.until("address", || new.ip("-br address show").contains("10.128.0.1/24"));
    let index = new.ip("-o link show hf-lan");
    new.kill();
    let state = new.root.state_dir();
    std::fs::remove_file(new.root.ledger()).unwrap();
    let _ = std::fs::remove_file(state.join("ledger.json.last"));
    new.start();
    new.until("a pass", || !new.report().items.is_empty());
    assert_eq!(new.ip("-o link show hf-lan"), index);
    assert!(new.ip("-br address show").contains("10.128.0.1/24"));
}

/// A clock in 1970 to a box that knows better: the known time is a year ahead of it.
#[test]
fn a_clock_that_is_wrong_is_told_and_holds_nothing_up() {
    let Some(mut new) = Box::new("a_clock_that_is_wrong_is_told_and_holds_nothing_up") else {
        return;
    };
    let known = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(365 * 24);
    KnownTime::new(&new.root.identity_dir()).record(known).unwrap();
    new.desire(&spec(3));
    new.start();
    new.until("the clock is named", || {
        let items = new.report().items;
        items.iter().any(|item| item.reason == Some(Reason::ClockImplausible))
    });
    new.until("address", || new.ip("-br address show").contains("10.128.0.1/24"));
}

#[test]
fn what_was_found_and_mended_is_told_once() {
    let Some(mut new) = Box::new("what_was_found_and_mended_is_told_once") else { return };
    new.desire(&spec(3));
    new.start();
    new.until("address", || new.ip("-br address show").contains("10.128.0.1/24"));
    new.until("a quiet pass", || {
        new.report()
            .items
            .iter()
            .any(|item| item.domain == "network" && item.state == ItemState::Ok)
    });
    new.ip("address del 10.128.0.1/24 dev hf-lan");
    new.until("drift is told", || new.read("log").contains("net.drift"));
    let hosts = new.read("etc/hosts");
    let (rest, _) = hosts.split_once("# END").unwrap();
    new.put("etc/hosts", rest);
    new.until("the markers are told", || new.read("log").contains("hosts.markers-damaged"));
    new.until("and no more", || {
        let mended = |item: &&ItemReport| ["hosts", "network"].contains(&item.domain.as_str());
        new.report().items.iter().filter(mended).all(|item| item.reason.is_none())
    });
}

#[test]
fn a_typed_token_is_for_the_controller_that_is_known_or_refused() {
    let Some(mut new) = Box::new("a_typed_token_is_for_the_controller_that_is_known_or_refused")
    else {
        return;
    };
    new.start();
    let error = new.set_token(&token().encode(), None).unwrap_err();
    assert!(error.to_string().contains("names a controller"), "{error}");
    new.put(
        "etc/holdfast/token",
        &format!("{}\ncontroller=https://192.0.2.9:1\n", *token().encode()),
    );
    new.set_token(&token().encode(), None).unwrap();
    new.until("it is tried", || new.report().controller == "https://192.0.2.9:1");
}

#[test]
fn hosts_that_cannot_be_written_do_not_hold_up_the_rest() {
    let Some(mut new) = Box::new("hosts_that_cannot_be_written_do_not_hold_up_the_rest") else {
        return;
    };
    // A directory in its place: not even root can write a file there.
    std::fs::remove_file(new.root.join("etc/hosts")).unwrap();
    std::fs::create_dir(new.root.join("etc/hosts")).unwrap();
    new.desire(&spec(3));
    new.start();
    new.until("the network is made", || new.ip("-br address show").contains("10.128.0.1/24"));
    new.until("hosts failed", || {
        let items = new.report().items;
        items.iter().any(|item| {
            item.domain == "hosts"
                && item.state == ItemState::Failed
                && item.reason == Some(Reason::HostsUnwritable)
        })
    });
}
