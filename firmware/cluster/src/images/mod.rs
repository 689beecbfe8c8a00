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

mod channel;
mod containerd;
mod cri;
mod error;
mod manifest;
mod model;
mod pin;
pub mod prepull;
mod reference;
mod runtime;
mod service;
mod site;
mod store;

pub use cri::Credentials;
pub use error::ImageError;
pub use model::{Descriptor, Pinned, Progress, Totals};
pub use prepull::{Pace, Problem};
pub use reference::Reference;
pub use runtime::Runtime;
pub use service::{PrePuller, PullState, Want};
pub use site::{Behind, SitePull, holds, keep, site_pull, site_ready};
pub use store::{ImageStore, NodeNotes, OwnNode};
