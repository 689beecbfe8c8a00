//! The global controller: a small Kubernetes-style API server with its store, its certificate
//! authority and the controllers that make nodes out of registrations.
//!
//! ```text
//!             main.rs → command/*      parses, starts, waits
//!                  │
//!  http/      TLS, routes, conventions of the API (list, watch, patch, tables, discovery)
//!    │ rules/     what each kind demands of a write; presenting a token
//!    │ schema/    the kinds as data: validation, pruning, OpenAPI
//!    │ select/    label and field selectors
//!    ▼
//!  fleet/     controllers: approval, admission, pools, rendering (pure), health
//!  trust/     CA, certificates, operators' credentials
//!    ▼
//!  store/     objects in memory, one writer, group commit to redb, history for watches
//! ```
//!
//! A write and all that follows from it at its site (certificate, node configuration, tunnel peer)
//! are one transaction: the answer to a presented token already carries the certificate. What
//! concerns the whole fleet (an edge that changed) and what may come in floods (status) is done
//! afterwards by one task, in small transactions.
#![warn(missing_docs)]

pub mod command;
pub mod fleet;
pub mod http;
pub mod rules;
pub mod schema;
pub mod select;
pub mod store;
pub mod trust;

use jiff::Timestamp;
use std::sync::Arc;

/// Where the time comes from: the system's clock, or a test's.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) cannot fail once the kernel is up");
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}
