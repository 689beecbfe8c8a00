//! k3s on this node: what it is told, its process, why it does not come up, its upgrade.
//!
//! | module | what |
//! |---|---|
//! | [`model`] | what this node is to run, checked field by field |
//! | [`render`], [`want`] | the distribution's files, and what a fitting process was started with (pure) |
//! | [`observe`] | our files, its logs, the facts for a diagnosis |
//! | [`plan`] | the steps from what is to what is wanted (pure) |
//! | [`machine`] | when it is started, stopped, started again (pure) |
//! | [`diagnose`] | why it does not come up (pure) |
//! | [`launch`], `child`, `unit`, [`process`] | a process that outlives us and is found again |
//! | [`upgrade`], [`binary`] | from one version of the program to another, and back |
//! | `containerd` | its folder, when its database is damaged |
//! | [`renew`] | when it is restarted for its certificates (pure) |
//! | [`probe`] | whether the node is ready |
//! | [`service`], `task` | the handle, and the task that carries all of it out |
//!
//! It owns two files, `config.yaml.d/60-holdfast.yaml` and `registries.yaml`, one process, and
//! `STATE/cluster/distribution`; of containerd's folder only what is damaged. Whatever else stands in the distribution's folders is the
//! administrator's and stays. The death of the manager, of any kind, leaves the process running.
//!
//! Left out: k3s' containers, which outlive a stop of k3s by its own design; a second k3s that
//! somebody else runs on the machine, which shows as a taken port.
#![warn(missing_docs)]

pub mod binary;
mod child;
mod containerd;
pub mod diagnose;
mod last_good;
pub mod launch;
pub mod machine;
pub mod model;
pub mod observe;
pub mod plan;
pub mod probe;
pub mod process;
pub mod render;
pub mod renew;
pub mod service;
mod task;
mod unit;
pub mod upgrade;
mod validate;
pub mod want;

pub use binary::Fetch;
pub use launch::How;
pub use model::{NodeWants, WantsError};
pub use probe::{ApiProbe, Probe};
pub use service::{
    Distribution, DistributionState, Handle, Helpers, Pause, Settings, Wish, Workloads,
};
pub use upgrade::{Service, Version};
