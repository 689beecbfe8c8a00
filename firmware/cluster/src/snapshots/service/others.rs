//! The other servers of a site: whether one still holds the datastore.

use super::super::error::SnapshotError;
use futures_util::future::join_all;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long one may take to accept a connection inside of the site.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes sure that none of them answers. With one that does, a restore would leave two datastores,
/// and the next node that joins would choose between them.
///
/// # Errors
/// [`SnapshotError::OtherServers`] with those that do.
pub(super) async fn are_silent(servers: &[SocketAddr]) -> Result<(), SnapshotError> {
    let asked = servers.iter().map(|server| async move {
        let answers = tokio::time::timeout(PATIENCE, TcpStream::connect(server)).await;
        matches!(answers, Ok(Ok(_))).then_some(*server)
    });
    let answering: Vec<SocketAddr> = join_all(asked).await.into_iter().flatten().collect();
    match answering.is_empty() {
        true => Ok(()),
        false => Err(SnapshotError::OtherServers { answering }),
    }
}
