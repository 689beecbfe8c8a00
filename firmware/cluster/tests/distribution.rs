//! The distribution with a real Kubernetes: readiness, the death of the manager, the death of k3s, a
//! change, a taken port, a full disk, an expired certificate, a torn database of containerd, the end.
//! One story on one node.
//!
//! The test runs itself again inside of `lab-k3s isolate`, where `/etc`, `/var`, the processes and
//! the network are its own, and a third time as the manager that is killed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesPhase, Secret};
use holdfast_api::paths::Root;
use holdfast_cluster::distribution::binary::{Download, Fetch};
use holdfast_cluster::distribution::service::{Later, StayThere};
use holdfast_cluster::distribution::{
    ApiProbe, Distribution, DistributionState, Handle, Helpers, How, NodeWants, Settings, Wish,
};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::cache::BUILD_VARIABLE;
use holdfast_lab_kubernetes::cgroups::Cgroup;
use holdfast_lab_kubernetes::server::outer::GROUP_VARIABLE;
use holdfast_poll::until_async;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Which part of the story this process plays.
const PART: &str = "HOLDFAST_TEST_PART";
/// The program, told to the parts.
const PROGRAM: &str = "HOLDFAST_TEST_PROGRAM";
/// More arguments for it.
const ARGUMENTS: &str = "HOLDFAST_TEST_ARGUMENTS";
const NAME: &str = "kubernetes_outlives_its_manager_and_is_kept_as_it_is_wanted";
/// Where the manager that is killed tells that the node is ready.
const TOLD: &str = "/run/ready";
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn kubernetes_outlives_its_manager_and_is_kept_as_it_is_wanted() {
    match std::env::var(PART).as_deref() {
        Ok("story") => runtime().block_on(story()),
        Ok(_) => runtime().block_on(manager_that_is_killed()),
        Err(_) => isolated(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Removes the node's control group, whatever happened.
struct Group(Cgroup);

impl Drop for Group {
    fn drop(&mut self) {
        self.0.remove(Duration::from_secs(60)).unwrap();
    }
}

/// Runs the story where it can harm nobody.
fn isolated() {
    let Some(kubernetes) = kubernetes(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let id = format!("{}-distribution", std::process::id());
    let group = Group(Cgroup::named(&id));
    let mut arguments = String::new();
    if kubernetes.is_real() {
        group.0.make().unwrap();
        arguments = format!("--kubelet-arg=cgroup-root={}", group.0.root());
    }
    let status = Command::new(kubernetes.lab_k3s())
        .arg("isolate")
        .arg("--state")
        .arg(folder.path())
        .args(["--until-eof", "--hostname", "node1", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(PART, "story")
        .env(PROGRAM, kubernetes.k3s())
        .env(ARGUMENTS, arguments)
        .env(GROUP_VARIABLE, &id)
        .env(BUILD_VARIABLE, kubernetes.built().root())
        // It ends with us: its input does.
        .stdin(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            let _lifeline = child.stdin.take();
            let status = child.wait();
            drop(_lifeline);
            status
        })
        .unwrap();
    assert!(status.success(), "{status}");
}

fn wants(part: &str) -> Wish {
    let intent = KubernetesIntent {
        token: Secret("a-token-of-the-test".into()),
        disable: vec!["traefik".into(), part.into()],
        ..KubernetesIntent::default()
    };
    let profile = hw_profiles::profile::Kubernetes::default();
    Wish::Run(Box::new(NodeWants::new("node1", &intent, &profile, BTreeMap::new()).unwrap()))
}

struct NoNetwork;

impl Fetch for NoNetwork {
    fn fetch<'a>(&'a self, _url: &'a str, _start: u64) -> Later<'a, Result<Download, String>> {
        Box::pin(std::future::ready(Err("there is none".into())))
    }
}

fn manager(wishes: &watch::Sender<Wish>) -> Handle {
    let paths = ClusterPaths::new(&Root::default());
    let helpers = Helpers {
        probe: Arc::new(ApiProbe::new(&paths)),
        fetch: Arc::new(NoNetwork),
        workloads: Arc::new(StayThere),
    };
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let settings = Settings {
        how: How::Child,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        ..Settings::new(paths, PathBuf::from(std::env::var_os(PROGRAM).unwrap()))
    };
    Distribution::start(settings, helpers, wishes.subscribe())
}

async fn until(
    handle: &Handle,
    what: &str,
    holds: impl FnMut(&DistributionState) -> bool,
) -> DistributionState {
    let mut state = handle.state();
    match tokio::time::timeout(PATIENCE, state.wait_for(holds)).await {
        Ok(found) => found.unwrap().clone(),
        Err(_) => {
            let log = std::fs::read_to_string("/var/lib/holdfast/cluster/distribution/k3s.log");
            panic!("not: {what}: {:?}\n{}", handle.state().borrow(), log.unwrap_or_default());
        }
    }
}

async fn ready(handle: &Handle) -> DistributionState {
    until(handle, "ready", |state| state.phase == KubernetesPhase::Ready && state.pid.is_some())
        .await
}

/// Starts Kubernetes, tells that it is ready, and waits for its own end.
async fn manager_that_is_killed() {
    let wishes = watch::Sender::new(wants("one"));
    let manager = manager(&wishes);
    let state = ready(&manager).await;
    let told = format!("{} {:?}", state.pid.unwrap(), state.ready_after.unwrap());
    holdfast_durable::write(Path::new(TOLD), told.as_bytes(), 0o600).unwrap();
    std::future::pending().await
}

/// Ends with the test.
struct Killed(Child);

impl Killed {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(PART, "manager");
        Killed(command.spawn().unwrap())
    }

    async fn told(&mut self) -> String {
        until_async("the manager's node is ready", PATIENCE, async || {
            assert!(self.0.try_wait().unwrap().is_none(), "the manager ended");
            std::fs::read_to_string(TOLD)
        })
        .await
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// A line of a shell that works.
fn run(line: &str) {
    assert!(Command::new("sh").args(["-ec", line]).status().unwrap().success(), "{line}");
}

const DATA: &str = "/var/lib/rancher/k3s";

/// An authority that ended yesterday, with the key of the one that is there.
fn expired(folder: &str) -> String {
    let key = std::fs::read_to_string(format!("{folder}/server-ca.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "k3s-server-ca");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let now = jiff::Timestamp::now().as_second().unsigned_abs();
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    (params.not_before, params.not_after) = (at(now - 172_800), at(now - 86_400));
    params.self_signed(&key).unwrap().pem()
}

/// What else keeps it from coming up, each told by its reason; in the end it is Ready.
async fn does_not_come_up(manager: &Handle, passed: impl Fn(&str)) {
    let told = async |reason: Reason| {
        let state =
            until(manager, reason.code(), |state| state.reason == Some(reason) && state.starts > 0);
        let state = state.await;
        passed(&format!("{reason}: {}", state.message));
        state
    };
    let pause = manager.pause().await.unwrap();
    run(&format!("mount -t tmpfs -o size=8m none {DATA}/server/db"));
    drop(pause);
    told(Reason::KubernetesDiskFull).await;

    let pause = manager.pause().await.unwrap();
    run(&format!("umount {DATA}/server/db"));
    let tls = format!("{DATA}/server/tls");
    let authority = PathBuf::from(format!("{tls}/server-ca.crt"));
    let valid = std::fs::read(&authority).unwrap();
    holdfast_durable::write(&authority, expired(&tls).as_bytes(), 0o644).unwrap();
    drop(pause);
    let state = told(Reason::KubernetesCertificateExpired).await;
    assert!(state.message.contains("server-ca.crt expired at "), "{}", state.message);

    let pause = manager.pause().await.unwrap();
    holdfast_durable::write(&authority, &valid, 0o644).unwrap();
    let database = format!("{DATA}/agent/containerd/io.containerd.metadata.v1.bolt/meta.db");
    holdfast_durable::write(Path::new(&database), &[7; 40_000], 0o644).unwrap();
    drop(pause);
    told(Reason::KubernetesContainerdDamaged).await;
    let state = ready(manager).await;
    assert_eq!(state.reason, None, "{}", state.message);
    passed("containerd began anew and the node is Ready");
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

async fn story() {
    let begin = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", begin.elapsed().as_secs_f64());
    let wishes = watch::Sender::new(Wish::Unknown);

    let mut first = Killed::start();
    let told = first.told().await;
    passed(&format!("the node is Ready (process and time: {told})"));
    drop(first);
    let pid: u32 = told.split(' ').next().unwrap().parse().unwrap();
    assert!(runs(pid), "Kubernetes ended with its manager");

    let manager = manager(&wishes);
    wishes.send_replace(wants("one"));
    let state = ready(&manager).await;
    assert_eq!((state.pid, state.starts, state.ends), (Some(pid), 0, 0));
    passed("the manager was killed and the next one has adopted it");

    signal(pid, Signal::SIGKILL);
    let state = until(&manager, "a pause", |state| state.phase == KubernetesPhase::Backoff).await;
    assert_eq!(state.reason, Some(Reason::KubernetesExited));
    let state = ready(&manager).await;
    // The first start may find a port that the old one still has.
    assert!(state.starts >= 1 && state.starts == state.ends, "{state:?}");
    assert!(state.version.contains("1."), "{:?}", state.version);
    let pid = state.pid.unwrap();
    passed("k3s was killed and is up again");

    wishes.send_replace(wants("two"));
    let state = until(&manager, "restarted", |state| {
        state.starts == state.ends + 1 && state.phase == KubernetesPhase::Ready
    })
    .await;
    assert!(!runs(pid));
    let pid = state.pid.unwrap();
    passed("another part is left out, and it was restarted");

    let pause = manager.pause().await.unwrap();
    assert!(!runs(pid));
    passed("it is paused");
    let listener = std::net::TcpListener::bind("0.0.0.0:6443").unwrap();
    drop(pause);
    let state = until(&manager, "why", |state| {
        state.reason == Some(Reason::KubernetesPortTaken) && !state.message.is_empty()
    })
    .await;
    assert!(state.message.starts_with("port 6443 is taken by "), "{}", state.message);
    assert!(
        state.message.ends_with(&format!("(process {})", std::process::id())),
        "{}",
        state.message
    );
    passed(&state.message);
    drop(listener);
    ready(&manager).await;
    passed("the port is free and the node is Ready");
    does_not_come_up(&manager, passed).await;
    let pid = ready(&manager).await.pid.unwrap();

    wishes.send_replace(Wish::Off);
    until(&manager, "off", |state| state.phase == KubernetesPhase::Off && state.pid.is_none())
        .await;
    assert!(!runs(pid));
    assert!(!Path::new("/etc/rancher/k3s/config.yaml.d/60-holdfast.yaml").exists());
    passed("it is off");
}
