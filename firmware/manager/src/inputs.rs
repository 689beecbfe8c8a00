//! The snapshot that a pass works on: taken once, the same for every domain.

use crate::settings::Settings;
use holdfast_api::paths::Root;
use holdfast_api::resources::NodeConfigSpec;
use hw_profiles::{Facts, Profile};
use netd::{LinkName, Network};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that plans depend on.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Where everything is.
    pub root: Root,
    /// Local settings.
    pub settings: Arc<Settings>,
    /// Desired state, once the controller has given one.
    pub desired: Option<Arc<NodeConfigSpec>>,
    /// The node was admitted, so there was a desired state; without one it is lost, and what was
    /// made by it is better than nothing.
    pub admitted: bool,
    /// What the machine is.
    pub facts: Arc<Facts>,
    /// The profile that fits it.
    pub profile: Arc<Profile>,
    /// What DHCP servers gave, by link; a link that asks and is not here waits for an answer.
    pub leases: BTreeMap<LinkName, Network>,
}

#[cfg(test)]
impl Inputs {
    /// A box about which nothing is known, without a configuration.
    pub(crate) fn for_tests() -> Self {
        let facts = Facts::default();
        let catalogue = hw_profiles::Catalogue::shipped();
        let settings =
            crate::settings::validate(crate::settings::merge([])).expect("defaults are valid");
        Inputs {
            root: Root::new("/nonexistent"),
            settings: Arc::new(settings),
            desired: None,
            admitted: false,
            profile: Arc::new(hw_profiles::select(&catalogue, &facts).profile),
            facts: Arc::new(facts),
            leases: BTreeMap::new(),
        }
    }
}
