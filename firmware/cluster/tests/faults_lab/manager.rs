//! The manager, as far as releases go: an engine on a real target, in a process that is killed.
//!
//! It is this test program once more, told by a variable to be that process. Releases come in on
//! its input, states go out on its output, one line of JSON each. Where a list of deaths is kept,
//! it kills itself at every point of a step that is not on it yet.

use super::PATIENCE;
use futures_util::future::BoxFuture;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseState};
use holdfast_api::paths::Root;
use holdfast_api::{Reason, chain};
use holdfast_cluster::images::{OwnNode, PrePuller, Runtime};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::leader::LeaderLock;
use holdfast_cluster::nodes::restored::Reboots;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::engine::ReleaseEngine;
use holdfast_cluster::release::journal::Kept;
use holdfast_cluster::release::live::{Later, Live, Manager as Checks, lead};
use holdfast_cluster::release::target::{Check, Failure, Lead};
use holdfast_cluster::snapshots::distribution::Refusal;
use holdfast_cluster::snapshots::take::{Of, take};
use holdfast_cluster::snapshots::{Distribution, Paused, Stamp, Why};
use holdfast_lab_kubernetes::cache::BUILD_VARIABLE;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span;

const VARIABLE: &str = "HOLDFAST_FAULTS_MANAGER";

/// Where a manager is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Surroundings {
    /// Root of its paths.
    pub seat: PathBuf,
    /// PID 1 of the node.
    pub node: u32,
    /// What takes k3s' command line.
    pub k3s: PathBuf,
    /// The laboratory's Kubernetes.
    pub build: PathBuf,
    /// Snapshots are taken, which costs more than most releases of these tests.
    pub snapshots: bool,
}

/// A point of a step at which a process died.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Death {
    /// `begins`: the step is noted. `over`: it was carried out, which is not noted.
    pub edge: String,
    /// Kind of the step.
    pub kind: String,
    /// The step in words.
    pub step: String,
    /// The last good release is put back.
    pub back: bool,
}

/// A running one; killed when it is dropped.
pub struct Manager {
    child: Child,
    input: ChildStdin,
    said: mpsc::Receiver<ReleaseState>,
    state: ReleaseState,
}

impl Manager {
    pub fn start(surroundings: &Surroundings) -> Self {
        let own_name = concat!(module_path!(), "::process");
        // The first part is the program's own.
        let own_name = own_name.split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", own_name, "--nocapture", "--quiet"])
            .env(VARIABLE, serde_json::to_string(surroundings).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // What the harness says goes to the same place.
                let Some(start) = line.find('{') else { continue };
                let Ok(state) = serde_json::from_str(&line[start..]) else { continue };
                if says.send(state).is_err() {
                    break;
                }
            }
        });
        Manager { child, input, said, state: ReleaseState::default() }
    }

    pub fn want(&mut self, kept: &Kept) {
        // One that has died does not listen any more.
        let _died = writeln!(self.input, "{}", serde_json::to_string(kept).unwrap());
    }

    /// Waits for a state; none when the process died by its own hand.
    pub fn reach_or_die(
        &mut self,
        what: &str,
        is: impl Fn(&ReleaseState) -> bool,
    ) -> Option<ReleaseState> {
        let deadline = Instant::now() + PATIENCE;
        while !is(&self.state) {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(state) => self.state = state,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("not: {what}: {:#?}", self.state),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().unwrap();
                    assert_eq!(status.signal(), Some(9), "{what}: it ended: {status}");
                    return None;
                }
            }
        }
        Some(self.state.clone())
    }

    pub fn reach(&mut self, what: &str, is: impl Fn(&ReleaseState) -> bool) -> ReleaseState {
        self.reach_or_die(what, is).unwrap_or_else(|| panic!("it died: {what}"))
    }

    /// Wants a release, and waits until it is decided.
    pub fn bring(&mut self, what: &str, kept: &Kept) -> ReleaseState {
        self.want(kept);
        self.reach(what, |state| is_decided(state, kept))
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn is_decided(state: &ReleaseState, kept: &Kept) -> bool {
    state.wanted == kept.release
        && match state.phase {
            ReleasePhase::Committed => state.good.as_ref() == Some(&kept.release),
            ReleasePhase::RolledBack | ReleasePhase::Refused => true,
            _ => false,
        }
}

/// From now on every manager dies at each point of a step once.
pub fn arm(seat: &Path) {
    File::create(seat.join("deaths")).unwrap();
}

/// From now on they live; how they died.
pub fn disarm(seat: &Path) -> Vec<Death> {
    let deaths = deaths(seat);
    std::fs::remove_file(seat.join("deaths")).unwrap();
    deaths
}

pub fn deaths(seat: &Path) -> Vec<Death> {
    let text = std::fs::read_to_string(seat.join("deaths")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The process. Nothing, unless it was started as one.
#[test]
fn process() {
    let Some(surroundings) = std::env::var_os(VARIABLE) else { return };
    let surroundings: Surroundings =
        serde_json::from_slice(surroundings.as_encoded_bytes()).unwrap();
    tracing::subscriber::set_global_default(Fate::of(&surroundings.seat)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(surroundings));
}

async fn serve(surroundings: Surroundings) {
    let paths = ClusterPaths::new(&Root::new(&surroundings.seat));
    let runtime = Runtime::connect(&paths.containerd_socket());
    let own = OwnNode::new(paths.kubelet_kubeconfig(), "node1");
    let api = Api::connect(&paths.admin_kubeconfig()).unwrap();
    let cluster = Arc::new(KubeCluster::new(api.clone()));
    let lock = Mutex::new(LeaderLock::of_releases(cluster, "node1"));
    let beside = Beside { surroundings, paths: paths.clone(), lock };
    let live = Live::new(api, "node1", PrePuller::start(runtime, own), beside);
    let (engine, handle) = ReleaseEngine::open(&paths, Arc::new(live));
    let mut report = handle.report();
    // Dropped with the runtime.
    let _engine = tokio::spawn(engine.run());
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            handle.want(Some(serde_json::from_str(&line).unwrap()));
        }
        // Whoever started it is gone.
        std::process::exit(0);
    });
    loop {
        let state = serde_json::to_string(&report.borrow_and_update().state).unwrap();
        println!("{state}");
        if report.changed().await.is_err() {
            return;
        }
    }
}

/// What the manager does for an engine, as far as it matters here.
struct Beside {
    surroundings: Surroundings,
    paths: ClusterPaths,
    lock: Mutex<LeaderLock<KubeCluster>>,
}

impl Checks for Beside {
    fn check(&self, check: Check) -> Later<'_, ()> {
        Box::pin(async move {
            if check != Check::Snapshot || !self.surroundings.snapshots {
                return Ok(());
            }
            let (why, now) = (Why::Release("shop".into()), Timestamp::now());
            let of =
                Of { site: "here", node: "node1", stamp: Stamp::next(None, now), why: &why, now };
            let taken = take(&Program(self.surroundings.clone()), &self.paths, &of).await;
            taken.map(drop).map_err(|error| Failure::always(error.reason(), chain(&error)))
        })
    }

    fn lead(&self) -> Later<'_, Lead> {
        Box::pin(async move { lead(self.lock.lock().await.attempt().await) })
    }
}

/// k3s' program inside of the node.
struct Program(Surroundings);

impl Distribution for Program {
    fn command(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("nsenter");
        command
            .arg(format!("--target={}", self.0.node))
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--"])
            .arg(&self.0.k3s)
            .args(words)
            .env(BUILD_VARIABLE, &self.0.build);
        command
    }

    fn version(&self) -> String {
        "v1.20.2".into()
    }

    fn pause(&self) -> BoxFuture<'_, Result<Paused, Refusal>> {
        Box::pin(async { Err(Reason::Internal.sentence().into()) })
    }

    fn wait_ready(&self, _: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn reboots(&self) -> BoxFuture<'_, Result<Reboots, Refusal>> {
        Box::pin(async { Ok(Reboots::default()) })
    }

    fn forget_reboots<'a>(&'a self, _: &'a Reboots) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }
}

/// Hears what the engine says of its steps, and kills the process at those that are not in the
/// list of deaths yet. Nothing of the process runs after that, so this is what the kernel's
/// `kill -9` or a power cut would do.
struct Fate {
    list: PathBuf,
    /// None: nobody is to die.
    had: Option<BTreeSet<Death>>,
}

impl Fate {
    fn of(seat: &Path) -> Self {
        let list = seat.join("deaths");
        let had = list.exists().then(|| super::manager::deaths(seat).into_iter().collect());
        Fate { list, had }
    }

    fn meet(&self, death: &Death) {
        if self.had.as_ref().is_none_or(|had| had.contains(death)) {
            return;
        }
        let mut list = File::options().append(true).open(&self.list).unwrap();
        writeln!(list, "{}", serde_json::to_string(death).unwrap()).unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        unreachable!("nobody survives it");
    }
}

impl tracing::Subscriber for Fate {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("holdfast_cluster")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut heard = Heard::default();
        event.record(&mut heard);
        if *event.metadata().level() <= tracing::Level::WARN && self.had.is_none() {
            eprintln!("          {}", heard.words);
        }
        if let ("begins" | "over", Some(back)) = (heard.message.as_str(), heard.back) {
            let Heard { message: edge, kind, step, .. } = heard;
            self.meet(&Death { edge, kind, step, back });
        }
    }
}

#[derive(Default)]
struct Heard {
    message: String,
    kind: String,
    step: String,
    back: Option<bool>,
    words: String,
}

impl Visit for Heard {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "back" {
            self.back = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.words += &format!("{}={text} ", field.name());
        match field.name() {
            "message" => self.message = text,
            "kind" => self.kind = text,
            "step" => self.step = text,
            _ => {}
        }
    }
}
