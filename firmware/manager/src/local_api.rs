//! The local API: HTTP/1.1 with JSON on a Unix socket (`holdfast_api::local` has the table).
//!
//! Requests that read are answered from the latest report; a dry run and a new token go to the
//! manager's loop. Only root can connect: the socket is mode 0600.

use crate::cluster::{self, Ask};
use crate::tunnel_daemon::TunnelDaemon;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use holdfast_api::Reason;
use holdfast_api::local::{
    HealthReport, NodeReport, PlanReport, Problem, ReleaseInput, RestoreInput, StartInput,
    TokenInput,
};
use holdfast_cluster::status::metrics::CONTENT_TYPE;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

/// Longest body with manifests. A release has at most 768 KiB of them, of which JSON may make six
/// times as much (every character escaped).
const PLAN_LIMIT: usize = 5 << 20;

/// What a client may ask of the manager's loop.
#[derive(Debug)]
pub enum Request {
    /// A dry run.
    Plan(oneshot::Sender<PlanReport>),
    /// A token to register with.
    SetToken(TokenInput, oneshot::Sender<Result<(), Problem>>),
    /// A pass at once.
    Reconcile,
}

/// What the server answers from.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The latest report.
    pub report: watch::Receiver<NodeReport>,
    /// The manager's loop. Bounded: a flood of requests waits at the socket.
    pub requests: mpsc::Sender<Request>,
    /// When the manager started.
    pub started: Instant,
    /// Asked for counters and round-trip times, which reports hold only as they were a while ago.
    pub tunnels: TunnelDaemon,
    /// Kubernetes.
    pub cluster: cluster::Client,
}

/// Binds the socket, in place of one that a killed manager left.
///
/// # Errors
/// The directory or the socket cannot be made.
pub fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The routes.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/health", get(async |State(h): State<Handle>| Json(health(&h.report.borrow()))))
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/plan", get(plan))
        .route("/v1/token", put(token))
        .route("/v1/reconcile", post(reconcile))
        .route("/v1/kubernetes", get(kubernetes))
        .route("/v1/kubernetes/plan", post(plan_release).layer(DefaultBodyLimit::max(PLAN_LIMIT)))
        .route("/v1/kubernetes/snapshot", post(snapshot))
        .route("/v1/kubernetes/drill", post(drill))
        .route("/v1/kubernetes/restore", post(restore))
        .route("/v1/kubernetes/stored", get(stored))
        .route("/v1/kubernetes/stop", post(stop))
        .route("/v1/kubernetes/start", post(start))
        .route("/metrics", get(metrics))
        .with_state(handle)
}

async fn status(State(handle): State<Handle>) -> Json<NodeReport> {
    let mut report = handle.report.borrow().clone();
    if report.tunnels.is_some() {
        report.tunnels = handle.tunnels.state().await.or(report.tunnels);
    }
    report.uptime_ms = u64::try_from(handle.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Json(report)
}

fn health(report: &NodeReport) -> HealthReport {
    crate::report::health(report)
}

async fn tunnels(State(handle): State<Handle>) -> Response {
    match handle.tunnels.state().await {
        Some(tunnels) => Json(tunnels).into_response(),
        None => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            Problem::new(Reason::TunnelDaemonDown, "tunneld does not answer"),
        ),
    }
}

async fn plan(State(handle): State<Handle>) -> Response {
    let (answer, wait) = oneshot::channel();
    match ask(&handle, Request::Plan(answer), wait).await {
        Ok(plan) => Json(plan).into_response(),
        Err(response) => response,
    }
}

async fn token(State(handle): State<Handle>, Json(input): Json<TokenInput>) -> Response {
    let (answer, wait) = oneshot::channel();
    match ask(&handle, Request::SetToken(input, answer), wait).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(problem)) => failed(StatusCode::UNPROCESSABLE_ENTITY, problem),
        Err(response) => response,
    }
}

async fn reconcile(State(handle): State<Handle>) -> StatusCode {
    match handle.requests.send(Request::Reconcile).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn kubernetes(State(handle): State<Handle>) -> Response {
    match handle.cluster.state() {
        Some(state) => Json(state).into_response(),
        None => failed(
            StatusCode::NOT_FOUND,
            Problem::new(Reason::KubernetesAbsent, "nobody asks this node to run Kubernetes"),
        ),
    }
}

async fn plan_release(State(handle): State<Handle>, Json(input): Json<ReleaseInput>) -> Response {
    match handle.cluster.ask(|answer| Ask::Plan(input, answer)).await {
        Ok(plan) => Json(plan).into_response(),
        Err(problem) => failed(StatusCode::UNPROCESSABLE_ENTITY, problem),
    }
}

async fn snapshot(State(handle): State<Handle>) -> Response {
    begun(handle.cluster.ask(Ask::Snapshot).await)
}

async fn drill(State(handle): State<Handle>) -> Response {
    begun(handle.cluster.ask(Ask::Drill).await)
}

async fn restore(State(handle): State<Handle>, Json(input): Json<RestoreInput>) -> Response {
    begun(handle.cluster.ask(|answer| Ask::Restore(input, answer)).await)
}

async fn stored(State(handle): State<Handle>) -> Response {
    match handle.cluster.ask(Ask::Stored).await {
        Ok(stored) => Json(stored).into_response(),
        Err(problem) => failed(StatusCode::CONFLICT, problem),
    }
}

async fn stop(State(handle): State<Handle>) -> Response {
    begun(handle.cluster.ask(Ask::Stop).await)
}

async fn start(State(handle): State<Handle>, Json(input): Json<StartInput>) -> Response {
    begun(handle.cluster.ask(|answer| Ask::Start(input, answer)).await)
}

fn begun(answer: Result<(), Problem>) -> Response {
    match answer {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(problem) => failed(StatusCode::CONFLICT, problem),
    }
}

/// In the text format of Prometheus; content type as its exposition format says.
async fn metrics(State(handle): State<Handle>) -> Response {
    let (uptime, now) = (handle.started.elapsed(), jiff::Timestamp::now());
    let text = crate::metrics::render(&handle.report.borrow(), uptime, now);
    ([("content-type", CONTENT_TYPE)], text).into_response()
}

async fn ask<T>(
    handle: &Handle,
    request: Request,
    wait: oneshot::Receiver<T>,
) -> Result<T, Response> {
    let ended = |_| {
        failed(
            StatusCode::SERVICE_UNAVAILABLE,
            Problem::new(Reason::ManagerUnreachable, "the manager is ending"),
        )
    };
    handle.requests.send(request).await.map_err(|_| ended(()))?;
    wait.await.map_err(|_| ended(()))
}

fn failed(status: StatusCode, problem: Problem) -> Response {
    (status, Json(problem)).into_response()
}
