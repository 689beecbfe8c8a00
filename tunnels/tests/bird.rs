//! Our BFD against that of BIRD, over a veth pair between two namespaces.
#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

#[path = "world/mod.rs"]
mod world;

use holdfast_api::tunnel::{BfdState, BfdTimers};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tunnels::bfd::{Change, Diag, Follower, Role, Service, Settings};
use world::{Namespace, wait_for};

/// Sends each change to the test.
struct Tell(std::sync::mpsc::Sender<(Change, Instant)>);

impl Follower<()> for Tell {
    fn changed(&mut self, _key: &(), change: Change, now: Instant) {
        let _ = self.0.send((change, now));
    }
}

struct Bird {
    process: Child,
    dir: tempfile::TempDir,
}

impl Bird {
    fn start(namespace: &Namespace, interval_ms: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "router id 10.0.0.2;\nprotocol device {{}}\nprotocol bfd {{\n  interface \"there\" {{\n    \
             interval {interval_ms} ms; multiplier 3; idle tx interval 1 s;\n  }};\n  neighbor 10.0.0.1 dev \"there\";\n}}\n"
        );
        let path = dir.path().join("bird.conf");
        holdfast_durable::write(&path, config.as_bytes(), 0o644).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", &namespace.name, "bird", "-f", "-c"])
            .arg(&path)
            .arg("-s")
            .arg(dir.path().join("ctl"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Bird { process, dir }
    }

    fn sessions(&self) -> String {
        let out = Command::new("birdc")
            .arg("-s")
            .arg(self.dir.path().join("ctl"))
            .args(["show", "bfd", "sessions"])
            .output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default()
    }

    fn is_up(&self) -> bool {
        self.sessions().lines().any(|line| line.starts_with("10.0.0.1") && line.contains(" Up "))
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn bird_and_we_understand_each_other() {
    if let Some(why) = world::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    if !Path::new("/usr/sbin/bird").exists() {
        eprintln!("skipped: BIRD is not installed (apt-get install bird2)");
        return;
    }
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    ours.ip(&[
        "link",
        "add",
        "here",
        "type",
        "veth",
        "peer",
        "name",
        "there",
        "netns",
        &theirs.name,
    ]);
    for (namespace, link, address) in
        [(&ours, "here", "10.0.0.1/24"), (&theirs, "there", "10.0.0.2/24")]
    {
        namespace.ip(&["addr", "add", address, "dev", link]);
        namespace.ip(&["link", "set", link, "up"]);
    }
    let bird = Bird::start(&theirs, 100);
    let (tell, told) = std::sync::mpsc::channel();
    let service = Service::start(1, Tell(tell)).unwrap();
    let local: IpAddr = [10, 0, 0, 1].into();
    let link = ours.net.enter(|| service.open_link("here", local).unwrap()).unwrap();
    let fast = Settings::new(BfdTimers::default(), Role::Active).unwrap();
    service.insert((), link, [10, 0, 0, 2].into(), fast);

    wait_for("both to be up", || {
        (service.status(&())?.state == BfdState::Up && bird.is_up()).then_some(())
    });
    let agreed = |ms| {
        wait_for("agreed timers", || {
            (service.status(&())?.detection_time? == Duration::from_millis(ms)).then_some(())
        })
    };
    agreed(300);
    // A poll sequence of ours, while it is up: slower, and faster again.
    let timers = |interval_ms| {
        Settings::new(BfdTimers { interval_ms, multiplier: 3 }, Role::Active).unwrap()
    };
    service.insert((), link, [10, 0, 0, 2].into(), timers(300));
    agreed(900);
    wait_for("BIRD to agree", || bird.sessions().contains("0.900").then_some(()));
    service.insert((), link, [10, 0, 0, 2].into(), fast);
    agreed(300);
    assert!(bird.is_up());
    while let Ok((change, _)) = told.try_recv() {
        assert_ne!(change.from, BfdState::Up, "it never went down: {change:?}");
    }

    // It falls silent.
    let stopped = Instant::now();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(bird.process.id()).unwrap()),
        nix::sys::signal::Signal::SIGSTOP,
    )
    .unwrap();
    let (change, at) = told.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!((change.to, change.diag), (BfdState::Down, Diag::DETECTION_TIME_EXPIRED));
    eprintln!("silence noticed {:?} after it began (3 × 100 ms)", at - stopped);
    drop(bird);

    // And back, this time we are told to go down by us.
    let bird = Bird::start(&theirs, 100);
    wait_for("both to be up again", || {
        (service.status(&())?.state == BfdState::Up && bird.is_up()).then_some(())
    });
    service.remove(&());
    wait_for("BIRD to hear of our end", || (!bird.is_up()).then_some(()));
}
