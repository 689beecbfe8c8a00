//! The connection to the API server.
//!
//! TLS is ours: rustls with ring, the CA of the kubeconfig as the only root, our client
//! certificate; no certificates of the machine, no proxy of the environment. One HTTP/2 connection
//! is kept while it is used. While an answer is awaited the server is asked for a sign of life
//! (HTTP/2 PING), so one that froze or vanished is noticed within [`PING_EVERY`] +
//! [`PING_TIMEOUT`], and a webhook behind it still gets its time ([`ANSWER_TIMEOUT`]).
//!
//! The kubeconfig and the files that it names are looked at before each request; when one changed
//! (k3s renews certificates when it starts) the connection is made anew. A changed file that cannot
//! be used leaves the old connection in place: k3s does not write it in one go.

use super::discovery::Discovery;
use super::error::ApiError;
use super::kubeconfig::{self, Access};
use crate::https::Stream;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::Service;

/// Patience for TCP and TLS together. The server is in the same site.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a server is asked for a sign of life while its answer is awaited.
pub const PING_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to give one.
pub const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// Patience for a whole answer: a webhook may take 30 s (`timeoutSeconds`, Kubernetes API
/// reference, ValidatingWebhookConfiguration).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// An unused connection is closed after this.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The door to an API server. Clones share connection and discovery.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    kubeconfig: Option<PathBuf>,
    session: Mutex<Arc<Session>>,
    discovery: Discovery,
}

/// A connection and what each request on it carries.
pub(super) struct Session {
    pub(super) client: kube::Client,
    pub(super) server: String,
    pub(super) bearer: Option<HeaderValue>,
    stamps: Vec<Stamp>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("kubeconfig", &self.shared.kubeconfig).finish_non_exhaustive()
    }
}

impl Api {
    /// Prepares to speak to the server that the kubeconfig at `path` names; nothing is sent yet.
    /// It must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ApiError::Kubeconfig`]; k3s writes the file when it starts.
    pub fn connect(path: &Path) -> Result<Api, ApiError> {
        let session = open(path)?;
        Ok(Api {
            shared: Arc::new(Shared {
                kubeconfig: Some(path.to_path_buf()),
                session: Mutex::new(Arc::new(session)),
                discovery: Discovery::default(),
            }),
        })
    }

    /// Speaks to whatever answers behind `client`, for tests.
    #[cfg(test)]
    pub(crate) fn with_client(client: kube::Client) -> Api {
        let session = Session { client, server: "test".into(), bearer: None, stamps: Vec::new() };
        Api {
            shared: Arc::new(Shared {
                kubeconfig: None,
                session: Mutex::new(Arc::new(session)),
                discovery: Discovery::default(),
            }),
        }
    }

    pub(super) fn discovery(&self) -> &Discovery {
        &self.shared.discovery
    }

    /// The connection of now.
    pub(super) fn session(&self) -> Arc<Session> {
        let mut session = self.shared.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.shared.kubeconfig
            && session.stamps.iter().any(Stamp::is_old)
        {
            match open(path) {
                Ok(fresh) => {
                    tracing::debug!(kubeconfig = %path.display(), "the kubeconfig changed");
                    *session = Arc::new(fresh);
                }
                Err(error) => tracing::debug!(%error, "the changed kubeconfig is not used"),
            }
        }
        Arc::clone(&session)
    }
}

/// A file as it was when it was read.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    seen: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let seen = fs::metadata(path)
            .ok()
            .map(|meta| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
        Stamp { path: path.to_path_buf(), seen }
    }

    fn is_old(&self) -> bool {
        Stamp::of(&self.path) != *self
    }
}

fn open(path: &Path) -> Result<Session, ApiError> {
    let refused = |why| ApiError::Kubeconfig { path: path.to_path_buf(), why };
    // Looked at before reading, so that a change in between is noticed the next time.
    let mut stamps = vec![Stamp::of(path)];
    let access = kubeconfig::read(path).map_err(refused)?;
    stamps.extend(access.files.iter().map(|file| Stamp::of(file)));
    let bearer = match &access.token {
        None => None,
        Some(token) => {
            let mut header = HeaderValue::try_from(format!("Bearer {}", token.as_str()))
                .map_err(|_| refused("its token is not text of a header".into()))?;
            header.set_sensitive(true);
            Some(header)
        }
    };
    let server = access.server.clone();
    let dialer = Dialer::new(access).map_err(|error| refused(error.to_string()))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(false)
        .build::<_, Body>(dialer);
    let client = kube::Client::new(
        tower::service_fn(move |request: Request<Body>| -> Answering {
            Box::pin(http.request(request))
        }),
        "default",
    );
    Ok(Session { client, server, bearer, stamps })
}

type Answering = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, hyper_util::client::legacy::Error>> + Send>,
>;

/// Makes connections to one server, whatever the request's URI says.
#[derive(Clone)]
struct Dialer {
    access: Arc<Access>,
    tls: TlsConnector,
}

impl Dialer {
    fn new(mut access: Access) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for root in &access.roots {
            roots.add(root.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match access.identity.take() {
            Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { access: Arc::new(access), tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn dial(self) -> io::Result<Stream> {
        let tcp = TcpStream::connect((self.access.host.as_str(), self.access.port)).await?;
        tcp.set_nodelay(true)?;
        let tls = self.tls.connect(self.access.server_name.clone(), tcp).await?;
        Ok(Stream::Tls(Box::new(TokioIo::new(tls))))
    }
}

impl Service<http::Uri> for Dialer {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            timeout(CONNECT_TIMEOUT, dialer.dial())
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}
