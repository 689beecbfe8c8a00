//! The server: sockets, TLS, connections.

use super::dispatch::{App, respond};
use crate::Clock;
use crate::fleet::{self, Fleet, FleetSettings};
use crate::store::{Embedded, Store, StoreError};
use crate::trust::server::ServerCertificate;
use crate::trust::server::tls_config;
use crate::trust::{Authority, Operators, PeerVerifier, TrustError, peer};
use holdfast_api::Reason;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as signal;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A handshake that takes longer is a client that does not mean it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time that open requests have to end at shutdown.
const FAREWELL: Duration = Duration::from_secs(5);
/// A client that is silent for so long on HTTP/2 is asked whether it is there, and has as long to
/// answer.
const ARE_YOU_THERE: Duration = Duration::from_secs(20);
/// Unacknowledged data for so long means that the client is gone (tcp(7), TCP_USER_TIMEOUT).
const GONE: Duration = Duration::from_secs(60);
/// Requests that one HTTP/2 connection may have open; kubectl and controllers hold many watches.
const STREAMS: u32 = 1_000;
/// How often the server certificate is looked at.
const RENEW: Duration = Duration::from_secs(3_600);

/// What a server needs.
#[derive(Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Where to listen; port 0 for any.
    pub listen: SocketAddr,
    /// DNS names and addresses of the server certificate, beside `localhost`.
    pub names: Vec<String>,
    /// Numbers of the fleet.
    pub fleet: FleetSettings,
    /// Changes of each kind that watches can catch up with.
    pub history: usize,
    /// The time.
    pub clock: Clock,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store.
    #[error("cannot open the store")]
    Store(#[source] StoreError),
    /// Keys and certificates.
    #[error("cannot set up certificates")]
    Trust(#[source] TrustError),
    /// The socket.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file that tells the address.
    #[error("cannot write the address")]
    Address(#[source] holdfast_durable::WriteError),
}

impl ServerError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            ServerError::Store(error) => error.reason(),
            ServerError::Trust(error) => error.reason(),
            ServerError::Listen { .. } => Reason::ConfigInvalid,
            ServerError::Address(error) if error.disk_full() => Reason::StateDiskFull,
            ServerError::Address(_) => Reason::StateUnwritable,
        }
    }
}

/// A running server. Dropping it aborts it; [`Server::stop`] ends it in order.
pub struct Server {
    address: SocketAddr,
    store: Store,
    stop: signal::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the store, makes or loads the CA, and listens.
    ///
    /// # Errors
    /// Whatever is in the way; nothing runs then.
    pub async fn start(settings: Settings) -> Result<Server, ServerError> {
        let data = settings.data.clone();
        let now = (settings.clock)();
        let authority =
            Authority::load_or_make(&data.join("ca"), now).map_err(ServerError::Trust)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = PeerVerifier::new(authority.der(), provider.clone())
            .map_err(|error| ServerError::Trust(TrustError::Tls(error)))?;
        let verifier = Arc::new(verifier);
        let mut names = settings.names.clone();
        names.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
        let certificate = ServerCertificate::load_or_make(
            &data.join("server"),
            &names,
            &authority,
            provider.clone(),
            now,
        )
        .map_err(ServerError::Trust)?;
        let tls = tls_config(certificate.clone(), verifier.clone(), provider)
            .map_err(ServerError::Trust)?;
        let fail = |source| ServerError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let store = Store::open(Embedded::new(&data), settings.clock.clone(), settings.history)
            .map_err(ServerError::Store)?;
        holdfast_durable::write(&data.join("address"), format!("{address}\n").as_bytes(), 0o644)
            .map_err(ServerError::Address)?;

        let (stop, shutdown) = signal::channel(false);
        let app = Arc::new(App {
            store: store.clone(),
            fleet: Arc::new(Fleet::new(authority, settings.fleet)),
            operators: Operators::new(&data),
            clock: settings.clock,
            shutdown: shutdown.clone(),
        });
        let controllers =
            fleet::task::run(store.clone(), app.fleet.clone(), app.clock.clone(), shutdown.clone());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let renewal = renew(app.clone(), certificate, shutdown.clone());
        let tasks = vec![
            tokio::spawn(controllers),
            tokio::spawn(renewal),
            tokio::spawn(accept(app, listener, acceptor, verifier, shutdown)),
        ];
        tracing::info!(%address, data = %data.display(), "serving");
        Ok(Server { address, store, stop, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets open requests end, and closes the store.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task ended badly");
            }
        }
        let store = self.store.clone();
        // Joins the writer's thread, which may have to sync.
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("the store was not closed in order");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn renew(
    app: Arc<App>,
    certificate: Arc<ServerCertificate>,
    mut shutdown: signal::Receiver<bool>,
) {
    while !*shutdown.borrow() {
        if let Err(error) = certificate.renew(&app.fleet.authority, (app.clock)()) {
            tracing::warn!(%error, "the server certificate was not renewed");
        }
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            _ = shutdown.changed() => {}
        }
    }
}

async fn accept(
    app: Arc<App>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    verifier: Arc<PeerVerifier>,
    mut shutdown: signal::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while !*shutdown.borrow() {
        // Accepting and reaping lose nothing when dropped.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let (app, acceptor) = (app.clone(), acceptor.clone());
                    connections.spawn(connection(app, stream, from, acceptor, verifier.clone()));
                }
                // Out of file descriptors, for one: others have to end first.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = shutdown.changed() => {}
        }
    }
    drop(listener);
    let farewell = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::info!("requests were cut off");
    }
}

async fn connection(
    app: Arc<App>,
    stream: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    verifier: Arc<PeerVerifier>,
) {
    // Both only make things better.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(GONE));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%from, "handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = Arc::new(peer::identify(&verifier, certificates, (app.clock)()));
    let mut shutdown = app.shutdown.clone();
    let service = service_fn(move |request| {
        let (app, identity) = (app.clone(), identity.clone());
        async move { Ok::<_, Infallible>(respond(&app, &identity, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ARE_YOU_THERE)
        .keep_alive_timeout(ARE_YOU_THERE)
        .max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stopped = async {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    // Waiting for the signal loses nothing; the connection itself is never dropped here.
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%from, %error, "connection ended");
    }
}
