//! Reboots that a restored datastore tells of. A snapshot that was taken while a node was down for
//! a reboot says so for ever: its lock is never given back, for the node knows nothing of it any
//! more, and reboot locks do not expire ([`super::service`]).
//!
//! What came with the snapshot is told by the versions of its locks, not by any clock: ask for
//! [`reboots`] as soon as the API server answers, and have those forgotten, whenever that succeeds.
//! A holder that reboots again meanwhile writes its lock anew, so that one is of today.

use super::cluster::{Answer, Cluster, ClusterError, Lease};
use super::service::{Group, release};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Reboots that a datastore tells of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboots {
    /// Leases of reboot locks that are held, and their `resourceVersion`.
    pub leases: BTreeMap<String, String>,
    /// Nodes that we cordoned.
    pub cordoned: BTreeSet<String>,
}

/// The reboots that the cluster tells of now.
///
/// # Errors
/// It does not answer.
pub async fn reboots<K: Cluster>(cluster: &K) -> Answer<Reboots> {
    let leases = held(cluster).await?.into_iter().map(|lease| (lease.name, lease.version));
    let nodes = cluster.nodes().await?.into_iter().filter(|node| node.cordoned_by_us);
    Ok(Reboots { leases: leases.collect(), cordoned: nodes.map(|node| node.name).collect() })
}

/// Takes these locks from their holders and our cordon from these Nodes, as after a restore: what a
/// restored datastore says of reboots is of another time. A lock that was written since stays, and
/// the cordon of its holder.
///
/// # Errors
/// The cluster does not answer.
pub async fn forget_reboots<K: Cluster>(cluster: &K, of_before: &Reboots) -> Answer<()> {
    let is_of_before = |lease: &Lease| of_before.leases.get(&lease.name) == Some(&lease.version);
    let (past, present): (Vec<Lease>, Vec<Lease>) =
        held(cluster).await?.into_iter().partition(is_of_before);
    for node in cluster.nodes().await? {
        let reboots = present.iter().any(|lease| lease.record.holder == node.name);
        if node.cordoned_by_us && of_before.cordoned.contains(&node.name) && !reboots {
            cluster.cordon(&node.name, false).await?;
            tracing::info!(node = node.name, "cordoned before the restore, it takes pods again");
        }
    }
    for lease in past {
        match release(cluster, &lease).await {
            // Somebody lives who changed it: it is of this time.
            Ok(()) | Err(ClusterError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The reboot locks that somebody has.
async fn held<K: Cluster>(cluster: &K) -> Answer<Vec<Lease>> {
    let mut leases = cluster.leases().await?;
    leases
        .retain(|lease| Group::of_lease(&lease.name).is_some() && !lease.record.holder.is_empty());
    Ok(leases)
}
