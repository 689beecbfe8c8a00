//! The controller from outside: a real server, real TLS, real kubectl.
// The whole crate is tests; clippy knows only the functions marked so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod connections;
mod conventions;
mod crash;
mod edges;
mod http;
mod isolation;
mod kubectl;
mod registration;
mod releases;
mod site_rules;
mod sites;
mod watches;
mod world;
