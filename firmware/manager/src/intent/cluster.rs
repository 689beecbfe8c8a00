//! What of Kubernetes is wanted on this node, as `holdfast-cluster` wants it.

use crate::inputs::Inputs;
use crate::settings::KubernetesStart;
use holdfast_api::local::Problem;
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::{NodeWants, Wish};
use hugepages::{Have, ObserveError};
use std::collections::BTreeMap;

/// What this node is to run. Where nobody says, what runs is left as it is: the desired state was
/// not given yet or is lost, or the local settings keep us out. `pools` are the kernel's huge pages
/// as they are now, and are asked for only when they matter.
///
/// # Errors
/// The controller asks for something that cannot be had; what runs goes on.
pub fn wish(
    inputs: &Inputs,
    pools: impl FnOnce() -> Result<Have, ObserveError>,
) -> Result<Wish, Problem> {
    let Some(desired) = inputs.desired.as_deref() else { return Ok(Wish::Unknown) };
    if inputs.settings.kubernetes.start == KubernetesStart::Off {
        return Ok(Wish::Unknown);
    }
    let Some(intent) = &desired.kubernetes else { return Ok(Wish::Off) };
    let pools = pools().map_err(|error| Problem::new(error.reason(), chain(&error)))?;
    NodeWants::new(&desired.node, intent, &inputs.profile.kubernetes, pages(&pools))
        .map(|wants| Wish::Run(Box::new(wants)))
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
