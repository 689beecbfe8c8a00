//! What the desired state, the profile, the settings and the leases say, in each domain's words.
//!
//! Pure. Domains do not know `holdfast-api`'s resources or each other; this is the one place that
//! translates.

pub mod cluster;
pub mod host;
pub mod hugepages;
pub mod network;
pub mod tunnels;
