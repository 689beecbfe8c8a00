//! Snapshots of the datastore: taken, sent away encrypted, restored, drilled.
//!
//! | module | what |
//! |---|---|
//! | [`model`], [`mod@plan`] | what there is, and what is to be done about it now: pure |
//! | [`take`], [`etcd_file`] | one snapshot, and whether a file is one |
//! | [`bundle`] | a snapshot with what other hardware needs, encrypted to the site's recovery key |
//! | [`store`] | S3-compatible storage |
//! | [`restore`], [`automatic`] | the datastore put back, by an operator's call or after a power cut |
//! | [`drill`] | the newest one restored into a datastore that is thrown away |
//! | [`service`] | the task that does all of this in time |
//! | [`distribution`], [`supervised`] | what that needs of the distribution, and the manager's own |
//!
//! Only files that carry our mark ([`model::MARK`]) are ever deleted; what the distribution or an
//! operator saves under other names is listed by nobody here. Snapshots are etcd's own files, made
//! and restored by the distribution's program; nothing here speaks to etcd. Left out: clusters
//! whose datastore is not etcd, and putting a datastore of several servers back by itself.

pub mod automatic;
pub mod bundle;
pub mod distribution;
pub mod drill;
pub mod error;
pub mod etcd_file;
#[cfg(test)]
mod fake;
mod files;
pub mod model;
pub mod plan;
mod program;
pub mod records;
pub mod restore;
pub mod service;
pub mod store;
pub mod supervised;
pub mod take;
mod token;

pub use distribution::{Distribution, Paused};
pub use error::SnapshotError;
pub use model::{Policy, Stamp, Why};
pub use restore::{Restored, Source};
pub use service::{Handle, Settings, start};
pub use supervised::Supervised;
