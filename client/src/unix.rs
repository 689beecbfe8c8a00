//! HTTP/1.1 with JSON over a Unix socket: how the daemons on one machine are asked.
//!
//! One connection per request, closed after the answer. A failure that the other side explains
//! ([`Problem`]) keeps its reason; a socket nobody answers on gets the reason of the daemon whose
//! socket it is.

use bytes::Bytes;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// A daemon on this machine answers within this time or is in trouble; a dry run of everything
/// is the slowest question.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one answer.
const MAX_ANSWER: usize = 16 << 20;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// Nobody answers on the socket.
    #[error("nobody answers on {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer took too long.
    #[error("no answer on {} within {} s", socket.display(), after.as_secs())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The daemon answered with a problem.
    #[error("{}", problem.message)]
    Refused {
        /// What it said.
        problem: Box<Problem>,
    },
    /// The answer could not be understood.
    #[error("the answer to {request} on {} cannot be understood: {why}", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        request: String,
        /// What is wrong.
        why: String,
    },
}

impl UnixError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            UnixError::Unreachable { socket, .. } | UnixError::TimedOut { socket, .. } => {
                let name = socket.file_name().unwrap_or_default();
                if name == "tunneld.sock" {
                    Reason::TunnelDaemonDown
                } else {
                    Reason::ManagerUnreachable
                }
            }
            UnixError::Refused { problem } => problem.reason,
            UnixError::Protocol { .. } => Reason::Internal,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, UnixError::Unreachable { .. } | UnixError::TimedOut { .. })
    }
}

/// `GET path`, the answer as `T`.
///
/// # Errors
/// Any [`UnixError`].
pub async fn get_json<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, UnixError> {
    get_json_within(socket, path, TIMEOUT).await
}

/// `GET path`, the answer as `T`, which may take until `limit`: for questions that are answered when
/// something happens.
///
/// # Errors
/// Any [`UnixError`].
pub async fn get_json_within<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    limit: Duration,
) -> Result<T, UnixError> {
    let body = exchange(socket, Method::GET, path, None, limit).await?;
    serde_json::from_slice(&body).map_err(|error| UnixError::Protocol {
        socket: socket.into(),
        request: format!("GET {path}"),
        why: error.to_string(),
    })
}

/// `PUT path` with `body` as JSON; what is answered beyond success is ignored.
///
/// # Errors
/// Any [`UnixError`].
pub async fn put_json<B: Serialize>(socket: &Path, path: &str, body: &B) -> Result<(), UnixError> {
    let body = encode(socket, &Method::PUT, path, body)?;
    exchange(socket, Method::PUT, path, Some(body), TIMEOUT).await.map(drop)
}

/// `POST path` with `body` as JSON; what is answered beyond success is ignored.
///
/// # Errors
/// Any [`UnixError`].
pub async fn post_json<B: Serialize>(socket: &Path, path: &str, body: &B) -> Result<(), UnixError> {
    let body = encode(socket, &Method::POST, path, body)?;
    exchange(socket, Method::POST, path, Some(body), TIMEOUT).await.map(drop)
}

/// `POST path` with `body` as JSON, the answer as `T`, which may take until `limit`.
///
/// # Errors
/// Any [`UnixError`].
pub async fn ask_json<B: Serialize, T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &B,
    limit: Duration,
) -> Result<T, UnixError> {
    let body = encode(socket, &Method::POST, path, body)?;
    let answer = exchange(socket, Method::POST, path, Some(body), limit).await?;
    serde_json::from_slice(&answer).map_err(|error| UnixError::Protocol {
        socket: socket.into(),
        request: format!("POST {path}"),
        why: error.to_string(),
    })
}

/// `POST path` without a body; what is answered beyond success is ignored.
///
/// # Errors
/// Any [`UnixError`].
pub async fn post(socket: &Path, path: &str) -> Result<(), UnixError> {
    post_within(socket, path, TIMEOUT).await
}

/// `POST path` without a body, which may take until `limit`; what is answered beyond success is
/// ignored.
///
/// # Errors
/// Any [`UnixError`].
pub async fn post_within(socket: &Path, path: &str, limit: Duration) -> Result<(), UnixError> {
    exchange(socket, Method::POST, path, None, limit).await.map(drop)
}

/// `GET path`, the answer as text (metrics).
///
/// # Errors
/// Any [`UnixError`].
pub async fn get_text(socket: &Path, path: &str) -> Result<String, UnixError> {
    let body = exchange(socket, Method::GET, path, None, TIMEOUT).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// `body` as JSON, in memory that is wiped: requests carry tokens and keys.
fn encode<B: Serialize>(
    socket: &Path,
    method: &Method,
    path: &str,
    body: &B,
) -> Result<Bytes, UnixError> {
    // Large enough that a secret is not left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    serde_json::to_writer(&mut *bytes, body).map_err(|error| UnixError::Protocol {
        socket: socket.into(),
        request: format!("{method} {path}"),
        why: error.to_string(),
    })?;
    Ok(Bytes::from_owner(bytes))
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Bytes>,
    limit: Duration,
) -> Result<Bytes, UnixError> {
    timeout(limit, converse(socket, method, path, body))
        .await
        .unwrap_or_else(|_| Err(UnixError::TimedOut { socket: socket.into(), after: limit }))
}

async fn converse(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Bytes>,
) -> Result<Bytes, UnixError> {
    let unreachable = |source| UnixError::Unreachable { socket: socket.into(), source };
    let protocol = |why| UnixError::Protocol {
        socket: socket.into(),
        request: format!("{method} {path}"),
        why,
    };
    let mut request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(body.unwrap_or_default()))
        .map_err(|error| protocol(error.to_string()))?;

    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(error.into()))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.into()))?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|e| unreachable(e.into()))?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| protocol(error.to_string()))?;
        Ok((code, body.to_bytes()))
    };
    // The connection is driven here and not by a task: it ends with this call, also when the
    // call is cancelled.
    let mut talk = std::pin::pin!(talk);
    let mut connection = std::pin::pin!(connection);
    let (code, body) = tokio::select! {
        biased;
        done = &mut talk => done?,
        // The connection may end before the answer has been looked at.
        _ = &mut connection => talk.await?,
    };
    if code.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(UnixError::Refused { problem: Box::new(problem) }),
        Err(_) if code == StatusCode::NOT_FOUND => Err(protocol("there is no such path".into())),
        Err(_) => Err(protocol(format!("HTTP status {code}"))),
    }
}
