//! A world as it is now, for people and for programs (`lab status -o json`).

use crate::emulator::Cut;
use crate::fleet;
use crate::measure::{self, Usage};
use crate::world::{Host, StageTime, World, WorldError};
use holdfast_api::Reason;
use holdfast_api::kubernetes::KubernetesState;
use holdfast_api::local::{NodeReport, Stage};
use holdfast_api::tunnel::TunnelsState;
use serde::Serialize;

/// A whole world.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorldStatus {
    /// Its name.
    pub world: String,
    /// Whether it was brought up to the end.
    pub complete: bool,
    /// How long bringing it up took, stage by stage.
    pub stages: Vec<StageTime>,
    /// Its nodes.
    pub nodes: Vec<NodeState>,
    /// Its processes.
    pub processes: Vec<ProcessState>,
    /// Names of the processes that should run and do not, in the order of their names.
    pub not_running: Vec<String>,
    /// Its links; none while the link emulator does not answer, when nothing passes anywhere.
    pub links: Option<Vec<LinkSummary>>,
}

/// A node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its host.
    pub name: String,
    /// Stage of its life; none while its manager does not answer.
    pub stage: Option<Stage>,
    /// When it reached which stage, in milliseconds since its manager started.
    pub stages: Vec<holdfast_api::local::StageTime>,
    /// The worst thing to say of it.
    pub reason: Option<Reason>,
    /// For people.
    pub message: String,
    /// Name of its hardware profile.
    pub profile: String,
    /// Its Kubernetes; none where none is asked for, or while its manager does not answer.
    pub kubernetes: Option<KubernetesState>,
    /// Its tunnels, asked of `tunneld`; none while that does not answer.
    pub tunnels: Option<TunnelsState>,
}

/// A process.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// Name of the service.
    pub name: String,
    /// Its host; none for the machine itself.
    pub host: Option<String>,
    /// Its number; none when it does not run.
    pub pid: Option<i32>,
    /// Whether it runs: `running`, `frozen` or `ended`.
    pub state: &'static str,
    /// What it takes; none when it does not run.
    pub usage: Option<Usage>,
    /// Average share of one core since its start.
    pub cpu_share: Option<f64>,
}

/// A link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkSummary {
    /// Its name.
    pub name: String,
    /// One-way delay in microseconds.
    pub delay_us: u64,
    /// Share of frames lost at random.
    pub loss: f64,
    /// Bits per second; 0 for no limit.
    pub rate_bits: u64,
    /// Directions that pass nothing.
    pub cut: Cut,
    /// Bytes passed, both ways together.
    pub passed_bytes: u64,
    /// Frames lost to anything, both ways together.
    pub dropped: u64,
}

const RUNNING: &str = "running";

/// Looks at a world. What does not answer is shown as such and is no error.
///
/// # Errors
/// The world is not there, or its state is damaged.
pub fn observe(world: &World) -> Result<WorldStatus, WorldError> {
    let absent = || WorldError::Absent(world.home().world().clone());
    let file = world.home().load()?.ok_or_else(absent)?;
    let processes = processes(world)?;
    let not_running = processes.iter().filter(|process| process.state != RUNNING);
    Ok(WorldStatus {
        not_running: not_running.map(|process| process.name.clone()).collect(),
        world: world.home().world().to_string(),
        complete: file.complete,
        stages: file.stages,
        nodes: (1..=world.spec().nodes).map(|number| node(world, Host::Node(number))).collect(),
        processes,
        links: links(world),
    })
}

fn node(world: &World, host: Host) -> NodeState {
    let report: Option<NodeReport> =
        fleet::ask(&fleet::manager_socket(world, host), "/v1/status").ok();
    let tunnels = fleet::ask(&fleet::tunneld_socket(world, host), "/v1/state").ok();
    let unheard = "its manager does not answer".to_owned();
    NodeState {
        name: host.to_string(),
        stage: report.as_ref().map(|report| report.stage),
        stages: report.as_ref().map(|report| report.stages.clone()).unwrap_or_default(),
        reason: report.as_ref().map_or(Some(Reason::ManagerUnreachable), |report| report.reason),
        profile: report.as_ref().map(|report| report.profile.clone()).unwrap_or_default(),
        kubernetes: report.as_ref().and_then(|report| report.kubernetes.clone()),
        message: report.map_or(unheard, |report| report.message),
        tunnels,
    }
}

fn processes(world: &World) -> Result<Vec<ProcessState>, WorldError> {
    let services = world.home().services()?;
    let state = |(name, (service, process)): (
        String,
        (crate::world::Service, Option<crate::process::ProcessId>),
    )| {
        let alive = process.filter(|process| !process.ended());
        let usage = alive.and_then(|process| measure::usage(process.pid).ok());
        ProcessState {
            name,
            host: service.host,
            pid: alive.map(|process| process.pid),
            state: match alive {
                None => "ended",
                Some(process) if process.stopped() => "frozen",
                Some(_) => RUNNING,
            },
            cpu_share: usage.map(|usage| usage.cpu_share()),
            usage,
        }
    };
    Ok(services.into_iter().map(state).collect())
}

fn links(world: &World) -> Option<Vec<LinkSummary>> {
    let states = world.links().ok()?.list().ok()?;
    let summary = |state: crate::emulator::LinkState| {
        let model = state.link.model;
        let both = [state.a_to_b, state.b_to_a];
        LinkSummary {
            name: state.link.name,
            delay_us: model.delay_us,
            loss: model.loss,
            rate_bits: model.rate_bits,
            cut: model.cut,
            passed_bytes: both.iter().map(|way| way.passed_bytes).sum(),
            dropped: both.iter().map(|way| way.cut + way.lost + way.queue_full).sum(),
        }
    };
    Some(states.into_iter().map(summary).collect())
}
