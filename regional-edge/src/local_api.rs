//! The Unix socket `run/holdfast/edge.sock`: HTTP/1.1, for people and monitors on this machine.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/state` | [`EdgeState`] |
//! | `GET /v1/metrics` | Prometheus' text format |

use crate::state::EdgeState;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Gives the state of now.
pub type Describe = Arc<dyn Fn() -> EdgeState + Send + Sync>;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct SocketError {
    /// The socket.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Makes the socket; one that a killed process left is replaced. Only root may connect.
///
/// # Errors
/// The directory or the socket cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |source| SocketError { path: path.into(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Answers until dropped.
///
/// # Errors
/// The socket cannot be served any more.
pub async fn serve(listener: UnixListener, describe: Describe) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/state", get(state))
        .route("/v1/metrics", get(metrics))
        .with_state(describe);
    axum::serve(listener, router).await
}

async fn state(State(describe): State<Describe>) -> Json<EdgeState> {
    Json(describe())
}

async fn metrics(State(describe): State<Describe>) -> impl axum::response::IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], describe().metrics())
}
