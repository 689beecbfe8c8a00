//! The reboot lock's outer face (FleetLock): on a Unix socket for this machine, and by HTTPS on an
//! address for others of the site, who show that they know its join token.

use super::Wanted;
use holdfast_api::kubernetes::Secret;
use holdfast_api::marks::FLEET_LOCK_PORT;
use holdfast_cluster::nodes::fleetlock::{Key, router};
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::outside;
use holdfast_cluster::nodes::service::RebootLock;
use holdfast_cluster::paths::ClusterPaths;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::{info, warn};

/// An address that is not there yet (its link is being made) is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// Where others of the site ask this server: as the local settings say, else at its address in the
/// cluster, if there are others.
pub(super) fn address(wanted: &Wanted, setting: Option<SocketAddr>) -> Option<SocketAddr> {
    let intent = wanted.server()?;
    let own = intent.node_ip.filter(|_| intent.nodes.len() > 1);
    setting.or_else(|| own.map(|ip| SocketAddr::new(ip, FLEET_LOCK_PORT)))
}

/// Serves until it is dropped.
pub(super) async fn serve(
    lock: Arc<RebootLock<KubeCluster>>,
    socket: PathBuf,
    outside: Option<(SocketAddr, Secret)>,
    paths: ClusterPaths,
) {
    let here = async {
        let listener = match crate::local_api::bind(&socket) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, socket = %socket.display(), "no reboot lock"),
        };
        if let Err(error) = axum::serve(listener, router(lock.clone(), None)).await {
            warn!(%error, "the reboot lock's socket ended");
        }
    };
    let there = async {
        let Some((address, token)) = outside else { return };
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => warn!(%error, %address, "reboot lock"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        info!(%address, "reboot lock");
        outside::serve(listener, paths, router(lock.clone(), Some(Key::of_site(&token.0)))).await;
    };
    tokio::join!(here, there);
}
