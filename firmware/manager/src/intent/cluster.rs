//! What of Kubernetes is wanted on this node, as `holdfast-cluster` wants it.

use crate::cluster::Usable;
use crate::inputs::Inputs;
use crate::settings::KubernetesStart;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole};
use holdfast_api::local::Problem;
use holdfast_api::paths::Root;
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::{NodeWants, Wish};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::snapshots;
use hugepages::{Have, ObserveError};
use std::collections::BTreeMap;

/// What the node has of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its kubelet joined one.
    pub was_node: bool,
    /// It holds a member of a datastore.
    pub is_member: bool,
    /// A snapshot is being put back, and the datastore is elsewhere meanwhile.
    pub is_restoring: bool,
}

impl Disk {
    /// Below `root`.
    pub fn observe(root: &Root) -> Disk {
        let paths = ClusterPaths::new(root);
        Disk {
            was_node: paths.kubelet_kubeconfig().exists(),
            is_member: paths.datastore_member().exists(),
            is_restoring: !matches!(snapshots::restore::pending(&paths), Ok(None)),
        }
    }
}

/// What this node is to run. Where nobody says, what runs is left as it is: the desired state was
/// not given yet or is lost, or the local settings keep us out. `pools` are the kernel's huge pages
/// as they are now, and are asked for only when they matter.
///
/// # Errors
/// The controller asks for something that cannot be had; what runs goes on.
pub fn wish(
    inputs: &Inputs,
    pools: impl FnOnce() -> Result<Have, ObserveError>,
    disk: impl FnOnce() -> Disk,
) -> Result<Wish, Problem> {
    let Some(desired) = inputs.desired.as_deref() else { return Ok(Wish::Unknown) };
    if inputs.settings.kubernetes.start == KubernetesStart::Off {
        return Ok(Wish::Unknown);
    }
    let Some(intent) = &desired.kubernetes else { return Ok(Wish::Off) };
    if let Some(problem) = second_cluster(intent, disk) {
        return Err(problem);
    }
    let pools = pools().map_err(|error| Problem::new(error.reason(), chain(&error)))?;
    NodeWants::new(&desired.node, intent, &inputs.profile.kubernetes, pages(&pools))
        .map(|wants| Wish::Run(Box::new(wants)))
        .map_err(|error| Problem::new(error.reason(), error.to_string()))
}

/// What could be used last, for a manager that knows nothing better.
pub fn again(
    last: &Usable,
    inputs: &Inputs,
    pools: impl FnOnce() -> Result<Have, ObserveError>,
) -> Option<Wish> {
    let pages = pools().map_or_else(|_| last.hugepages.clone(), |pools| pages(&pools));
    let wants = NodeWants::new(&last.node, &last.intent, &inputs.profile.kubernetes, pages);
    Some(Wish::Run(Box::new(wants.ok()?)))
}

/// A node that was of a cluster and has no datastore would begin an empty one, while the site's is
/// on the other servers. The controller keeps that from happening; it may be mistaken, and nothing
/// brings two clusters together again.
fn second_cluster(intent: &KubernetesIntent, disk: impl FnOnce() -> Disk) -> Option<Problem> {
    let others = || intent.servers.iter().any(|server| Some(*server) != intent.node_ip);
    if intent.role != KubernetesRole::ClusterInit || !others() {
        return None;
    }
    let Disk { was_node, is_member, is_restoring } = disk();
    (was_node && !is_member && !is_restoring).then(|| {
        let text = "the controller tells this node to begin the datastore, but it was of a cluster already, has no datastore, and the site has other servers";
        Problem::new(Reason::KubernetesSecondCluster, text)
    })
}

/// Huge pages of all NUMA nodes together, by size.
fn pages(have: &Have) -> BTreeMap<hw_profiles::PageSize, u64> {
    let mut sum: BTreeMap<hw_profiles::PageSize, u64> = BTreeMap::new();
    for (size, pool) in have.nodes.values().flat_map(|node| &node.pools) {
        if let Some(size) = hw_profiles::PageSize::from_bytes(size.kib() << 10) {
            *sum.entry(size).or_default() += pool.total;
        }
    }
    sum
}

/// Kubernetes was asked for and the local settings keep it off.
pub fn kept_off(inputs: &Inputs) -> Option<Problem> {
    let asked = inputs.desired.as_deref().is_some_and(|spec| spec.kubernetes.is_some());
    let off = inputs.settings.kubernetes.start == KubernetesStart::Off;
    (asked && off).then(|| {
        let text = "the local setting kubernetes.start = \"off\" keeps Kubernetes from starting";
        Problem::new(Reason::ConfigInvalid, text)
    })
}
