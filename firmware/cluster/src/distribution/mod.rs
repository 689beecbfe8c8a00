//! k3s on this node: what it is told, its process, why it does not come up, its upgrade.
//!
//! | module | what |
//! |---|---|
//! | [`model`] | what this node is to run, checked field by field |
//! | [`render`] | the distribution's files, out of that (pure) |
//! | [`service`] | the task that keeps the machine as it is wanted, and the handle to it |
//!
//! It owns two files, `config.yaml.d/60-holdfast.yaml` and `registries.yaml`, and one process.
//! Whatever else stands in the distribution's folders is the administrator's and stays.
#![warn(missing_docs)]

mod child;
pub mod diagnose;
pub mod launch;
pub mod machine;
pub mod model;
pub mod observe;
pub mod plan;
pub mod process;
pub mod render;
pub mod service;
mod unit;
mod validate;

pub use model::{NodeWants, WantsError};
pub use service::{DistributionState, Handle};
