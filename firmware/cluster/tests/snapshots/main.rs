//! Snapshots of the datastore, from outside: against an S3 server and a real Kubernetes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod node;
mod s3;
mod store;
mod story;
