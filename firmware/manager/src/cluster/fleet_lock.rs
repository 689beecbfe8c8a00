//! The reboot lock's outer face (FleetLock): on a Unix socket for this machine, and on an address
//! for others of the site, who show that they know its join token.

use holdfast_cluster::nodes::fleetlock::{Key, router};
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::service::RebootLock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::{info, warn};

/// An address that is not there yet (its link is being made) is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
pub(super) async fn serve(
    lock: Arc<RebootLock<KubeCluster>>,
    socket: PathBuf,
    outside: Option<(SocketAddr, String)>,
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
        let app = router(lock.clone(), Some(Key::of_site(&token)));
        if let Err(error) = axum::serve(listener, app).await {
            warn!(%error, "the reboot lock's address ended");
        }
    };
    tokio::join!(here, there);
}
