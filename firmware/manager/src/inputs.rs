//! The snapshot that a pass works on: taken once, the same for every domain.

use crate::settings::Settings;
use holdfast_api::paths::Root;
use holdfast_api::resources::NodeConfigSpec;
use hw_profiles::{Facts, Profile};
use netd::dhcp::Lease;
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
    /// What the machine is.
    pub facts: Arc<Facts>,
    /// The profile that fits it.
    pub profile: Arc<Profile>,
    /// What DHCP servers gave, by link.
    pub leases: BTreeMap<String, Lease>,
}
