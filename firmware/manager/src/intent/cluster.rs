//! What of Kubernetes is wanted on this node, as `holdfast-cluster` wants it.

use crate::inputs::Inputs;
use crate::settings::KubernetesStart;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_cluster::distribution::model::NodeWants;
use hugepages::Have;
use std::collections::BTreeMap;

/// What this node is to run; none when nobody asks for Kubernetes, or the local settings keep it
/// off. `pools` are the kernel's huge pages as they are now.
///
/// # Errors
/// The controller asks for something that cannot be had; what runs goes on.
pub fn wanted(inputs: &Inputs, pools: Option<&Have>) -> Result<Option<NodeWants>, Problem> {
    if inputs.settings.kubernetes.start == KubernetesStart::Off {
        return Ok(None);
    }
    let Some(desired) = inputs.desired.as_deref() else { return Ok(None) };
    let Some(intent) = &desired.kubernetes else { return Ok(None) };
    let pages = pools.map(pages).unwrap_or_default();
    NodeWants::new(&desired.node, intent, &inputs.profile.kubernetes, pages)
        .map(Some)
        .map_err(|error| Problem::new(error.reason(), error.to_string()))
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
