//! The wire between Holdfast's programs.
//!
//! * [`Client`] speaks to the controller's API: HTTP/2 over TLS on one kept connection, with a
//!   pinned CA before admission and a client certificate after it. Nothing but the TLS handshake
//!   leaves before the controller's certificate is verified ([`Trust`]).
//! * [`follow()`] keeps a copy of a collection or of one object by list and watch, forever.
//! * [`unix`] speaks HTTP/1.1 with JSON over a Unix socket to the daemons on the same machine.
//! * [`await_admission`] waits until a registration is decided, [`renew`] asks for the next
//!   certificate: what nodes and edges do in the same way.
//! * [`backoff`] says when to try again.
//!
//! Everything runs on the caller's runtime, also a single-threaded one: one socket, one small
//! task per connection, no pool. Answers, lines of a watch and waiting times are bounded. Every
//! error knows its [`holdfast_api::Reason`] and whether trying again can help.
//!
//! Left out: proxies, redirects (an answer that redirects is an error) and HTTP/1.1 towards the
//! controller.
#![warn(missing_docs)]

mod admission;
pub mod backoff;
mod call;
mod client;
mod clock;
mod connect;
mod endpoint;
mod error;
mod follow;
mod plain;
mod trust;
pub mod unix;
mod watch;

pub use admission::{Admission, AdmissionError, Issued, await_admission, renew};
pub use backoff::Backoff;
pub use client::{Client, Conditional, Options, Selector, Subresource};
pub use clock::{SystemClock, TimeSource};
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use follow::{Replica, follow};
pub use trust::{Identity, Trust, certificates};
pub use watch::{Event, Watch};
