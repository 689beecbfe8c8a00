//! The door to the API server: connect, apply, readiness, events.
//!
//! | file | what |
//! |---|---|
//! | [`kubeconfig`] | what a kubeconfig says: where the server is, whose word counts, who we are |
//! | [`connect`] | the connection: our own TLS, timeouts, a kubeconfig that changes |
//! | [`request`] | paths, queries, one question and its answer |
//! | [`error`] | what the API server's refusals mean |
//! | [`discovery`] | which kinds there are |
//! | [`api`] | read, apply, change, delete |
//! | `pages` | lists, a page at a time |
//! | [`content`] | what goes with an object that is deleted |
//! | [`pods`] | evict a pod; why an object does not become ready |
//! | [`mod@readiness`] | is an object as it should be? |
//! | [`explain`] | why is it not? |
//!
//! Objects are plain JSON, so that one version of our code does for every version of Kubernetes
//! from 1.20 on. What changes between them is asked of the server (discovery) or recognised in
//! either form. Everything fails with [`ApiError`], which knows its reason code and whether trying
//! again can help; nothing here tries again by itself. Watches are left out: whoever waits asks
//! again, at a pace of its own.

pub mod api;
pub mod connect;
pub mod content;
pub mod discovery;
pub mod error;
pub mod explain;
pub mod kubeconfig;
mod pages;
pub mod pods;
pub mod readiness;
pub mod request;

pub use api::{Applied, Mode, Propagation};
pub use connect::Api;
pub use discovery::Resource;
pub use error::{ApiError, FieldConflict};
pub use explain::{Explanation, PodsOf, pods_of};
pub use readiness::{Readiness, readiness};
