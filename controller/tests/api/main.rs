//! The controller from outside: a real server, real TLS, real kubectl.

mod client;
mod conventions;
mod crash;
mod edges;
mod isolation;
mod kubectl;
mod registration;
mod sites;
mod watches;
mod world;
