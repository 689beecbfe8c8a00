//! The API server: TLS, routes and the conventions of the Kubernetes API.

mod apply;
mod authorize;
mod body;
mod caller;
mod connection;
mod discovery;
mod dispatch;
mod error;
mod form;
mod negotiate;
mod openapi;
mod openapi_proto;
mod patch;
mod read;
mod route;
mod server;
mod table;
mod watch;
mod write;

pub use authorize::{Denied, Sight, Verb, authorize};
pub use caller::{Caller, Identity};
pub use connection::Limits;
pub use error::ApiError;
pub use route::{Route, Target};
pub use server::{Server, ServerError, Settings};
