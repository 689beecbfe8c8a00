//! Images before they are needed: pulled, kept, put back, on every node of the site.
//!
//! ```text
//!  release ──► images ──► present? ──no──► pull (resumable, with progress) ─┐
//!                            └──yes────────────────────────────────────────┤
//!   Node annotation ◄── every one is there ◄── pin: one lease per release ◄─┘
//! ```
//!
//! The reason for all of it is the data-plane rule: a workload that is itself the way to the
//! registry can only be replaced by what is already on the node.
//!
//! | part | what |
//! |---|---|
//! | [`Runtime`] | the node's containerd: present, pull, pin, put back, let go |
//! | [`prepull`] | what is done next for one release on one node; pure |
//! | [`PrePuller`] | the task that does it and says so on the Node object |
//! | [`lacking`] | what a node would have to pull; pure |
//! | [`site_pull`], [`may_replace`] | whether the site is ready, whether a data plane may be touched; pure |
//!
//! It fails by [`ImageError`], which knows whether waiting helps. Left out: mirrors and what they ask
//! for, which is the distribution's `registries.yaml`, and runtimes other than containerd.

mod channel;
mod containerd;
mod cri;
mod data_plane;
mod error;
mod lacking;
mod manifest;
mod model;
mod pin;
pub mod prepull;
mod reference;
mod runtime;
mod service;
mod site;
mod stall;
mod store;

pub use cri::Credentials;
pub use data_plane::{Blocked, may_replace};
pub use error::ImageError;
pub use lacking::{Lacking, lacking};
pub use model::{Descriptor, Pinned, Progress, Totals};
pub use prepull::{Pace, Problem};
pub use reference::Reference;
pub use runtime::Runtime;
pub use service::{PrePuller, PullState, Want};
pub use site::{Behind, SitePull, holds, is_ready, keep, site_pull};
pub use store::{ImageStore, NodeNotes, OwnNode};
