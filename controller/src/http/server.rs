//! The server: what it is made of, its socket, its start and its end.

use super::connection::{self, Limits, Serving};
use super::dispatch::App;
use crate::Clock;
use crate::fleet::{self, Fleet, FleetSettings};
use crate::store::{Embedded, Store, StoreError};
use crate::trust::server::ServerCertificate;
use crate::trust::server::tls_config;
use crate::trust::{Authority, Operators, PeerVerifier, TrustError};
use holdfast_api::Reason;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Time that open requests have to end at shutdown.
const FAREWELL: Duration = Duration::from_secs(5);
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
        Self::start_within(settings, Limits::default()).await
    }

    /// As [`Server::start`], with other limits for clients.
    ///
    /// # Errors
    /// Whatever is in the way; nothing runs then.
    pub async fn start_within(settings: Settings, limits: Limits) -> Result<Server, ServerError> {
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
        let serving = Serving { app, acceptor, verifier, limits };
        let tasks = vec![
            tokio::spawn(controllers),
            tokio::spawn(renewal),
            tokio::spawn(accept(Arc::new(serving), listener, shutdown)),
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
    serving: Arc<Serving>,
    listener: TcpListener,
    mut shutdown: signal::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while !*shutdown.borrow() {
        // Accepting and reaping lose nothing when dropped.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    connections.spawn(connection::serve(serving.clone(), stream, from));
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
