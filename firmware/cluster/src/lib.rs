//! Kubernetes on the box: the distribution is configured and watched, releases are brought onto
//! it, nodes take turns, and the datastore is kept safe.
//!
//! | module | what |
//! |---|---|
//! | [`distribution`] | k3s: its configuration, its process, why it does not come up, its upgrade |
//! | [`kubernetes`] | the door to the API server: apply, readiness, events |
//! | [`release`] | manifests → plan → journal → machine: what is applied, in which order, and what when it fails |
//! | [`images`] | the container runtime: pull, pin, progress |
//! | [`nodes`] | one node at a time: reboot lock, drain, replacement |
//! | [`snapshots`] | of the datastore: taken, sent away encrypted, restored, drilled |
//! | [`status`] | the cluster seen from outside: components, conditions, pods, metrics |
//!
//! The manager composes these; they are no daemons by themselves. All plans and machines are pure
//! (`now` is an argument). This is the only crate on the box that speaks to Kubernetes, to
//! containerd and to an object store (`deny.toml`).
#![warn(missing_docs)]

pub mod distribution;
pub mod download;
mod https;
pub mod images;
pub mod kubernetes;
pub mod nodes;
pub mod object;
pub mod paths;
pub mod release;
pub mod snapshots;
pub mod status;
mod step_kinds;
