//! The local API: HTTP on a Unix socket that only root reaches.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/state` | [`TunnelsState`](holdfast_api::tunnel::TunnelsState) |
//! | `GET /v1/changes?after=N` | [`TunnelsVersion`], once it is another than `N`, at the latest after [`LONGEST_WAIT`] |
//! | `GET /v1/metrics` | Prometheus text |
//! | `POST /v1/reload` | 204 once the file was read and its consequences are under way |
//!
//! Failures are answered with a [`Problem`].

use super::Question;
use anyhow::Context;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::tunnel::TunnelsVersion;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A connection that waits longer without a word could be one that nobody holds any more.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What whoever asks for changes knows.
#[derive(serde::Deserialize)]
struct Known {
    after: Option<u64>,
}

/// The server; its socket goes when it is dropped.
pub(super) struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at `path`; a socket that is left of an earlier process is replaced. The caller
    /// has seen to it that there is no other process.
    pub(super) fn open(
        path: &Path,
        questions: mpsc::Sender<Question>,
        version: watch::Receiver<u64>,
    ) -> anyhow::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        let router = axum::Router::new()
            .route("/v1/state", get(state))
            .route("/v1/changes", get(changes).with_state(version))
            .route("/v1/metrics", get(metrics))
            .route("/v1/reload", post(reload))
            .with_state(questions);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the local API ended");
            }
        });
        Ok(Server { path: path.to_path_buf(), task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "socket left behind");
        }
    }
}

async fn ask<T>(
    questions: &mpsc::Sender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, Response> {
    let (answer, answered) = oneshot::channel();
    let gone = || refuse(&Problem::new(Reason::TunnelDaemonDown, "tunneld is ending"));
    questions.send(question(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

async fn state(State(questions): State<mpsc::Sender<Question>>) -> Result<Response, Response> {
    Ok(Json(ask(&questions, Question::State).await?).into_response())
}

async fn changes(
    State(mut version): State<watch::Receiver<u64>>,
    Query(Known { after }): Query<Known>,
) -> Json<TunnelsVersion> {
    // Nothing new, or the end of the process: either is answered with what there is.
    let _ = timeout(LONGEST_WAIT, version.wait_for(|version| Some(*version) != after)).await;
    let version = *version.borrow();
    Json(TunnelsVersion { version })
}

async fn metrics(State(questions): State<mpsc::Sender<Question>>) -> Result<Response, Response> {
    let text = ask(&questions, Question::Metrics).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn reload(State(questions): State<mpsc::Sender<Question>>) -> Result<Response, Response> {
    match ask(&questions, Question::Reload).await? {
        Ok(_generation) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(problem) => Err(refuse(&problem)),
    }
}

fn refuse(problem: &Problem) -> Response {
    let status = match problem.reason {
        Reason::TunnelDaemonDown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    (status, Json(problem)).into_response()
}
