//! The reboot lock on the site's network: HTTPS with the certificate that the distribution made
//! for its API server, so that whoever may join the site can tell that a server of it answers.
//!
//! The protocol itself is [`super::fleetlock`]'s. Certificates are read for every connection, for
//! k3s renews them when it restarts; a connection while there are none is closed. At most
//! [`CONNECTIONS`] are open at once, each for [`CONNECTION`] at most, so that nobody on the network
//! can hold them all for long.

use crate::kubernetes::kubeconfig;
use crate::paths::ClusterPaths;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{debug, warn};

/// Connections at once; a site has few nodes, and each asks once in a while.
pub const CONNECTIONS: usize = 32;
/// The longest that a connection lives. A request waits two seconds for a quick drain.
pub const CONNECTION: Duration = Duration::from_secs(60);
/// TCP and TLS, together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a connection that could not be taken (no file descriptors).
const AGAIN: Duration = Duration::from_secs(1);
/// A name that the certificate of every API server has, wherever the server is.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Serves `app` until it is dropped.
pub async fn serve(listener: TcpListener, paths: ClusterPaths, app: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "the reboot lock takes no connection");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let (paths, app) = (paths.clone(), app.clone());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(CONNECTION, answer(tcp, &paths, app)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, %error, "reboot lock"),
                Err(_) => debug!(%peer, "reboot lock: too slow"),
            }
        });
    }
}

async fn answer(tcp: TcpStream, paths: &ClusterPaths, app: Router) -> io::Result<()> {
    let acceptor = acceptor(paths)?;
    let tls = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await??;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(app))
        .await
        .map_err(io::Error::other)
}

fn acceptor(paths: &ClusterPaths) -> io::Result<TlsAcceptor> {
    let file = |name: &str| paths.data_dir().join("server/tls").join(name);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(file("serving-kube-apiserver.crt"))
            .and_then(Iterator::collect)
            .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(file("serving-kube-apiserver.key"))
        .map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server of the site, seen from another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// This node's kubeconfig: its authority must have signed the server's certificate.
    pub kubeconfig: PathBuf,
}

impl Server {
    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connector = connector(&self.kubeconfig)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let connect = async {
            let tcp = TcpStream::connect(self.address).await?;
            connector.connect(name, tcp).await
        };
        tokio::time::timeout(HANDSHAKE, connect).await?
    }
}

fn connector(kubeconfig: &Path) -> io::Result<TlsConnector> {
    let access = kubeconfig::read(kubeconfig)
        .map_err(|error| io::Error::other(format!("{}: {error}", kubeconfig.display())))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(access.roots);
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
