//! Real Kubernetes for the tests, where no k3s can be had.
//!
//! [`build`] makes it out of Debian's source package, once, into the user's [`cache`]; the
//! [`recipe`] says of what. The program `lab-k3s` runs it behind k3s' command line and file
//! layout: [`config`] reads k3s' options, [`server`] is a node, [`snapshot`] its datastore's
//! snapshots, [`registries`] where its images come from. So whatever starts and watches k3s in
//! production has one way only.
//!
//! Tests use [`asked`] (whether they may run one), [`find`] (a real k3s where there is one), [`node`] (a node in namespaces of its own
//! by [`isolate`]) and [`image`] (images from nothing).
//!
//! It fails by errors that name the next step, never by half a build or half a node: a build is
//! renamed to its place when it is whole, and a node's processes end with PID 1 of its
//! namespace. Left out, against k3s: DNS, ingress, load balancers, storage
//! classes, Helm, secrets encryption, S3; and everything newer than Kubernetes 1.20.
//! docs/reference/kubernetes-lab.md has the list.
#![warn(missing_docs)]

pub mod asked;
pub mod build;
pub mod cache;
pub mod cgroups;
pub mod config;
pub mod find;
pub mod image;
pub mod isolate;
pub mod node;
pub mod pki;
pub mod places;
pub mod recipe;
pub mod registries;
pub mod server;
pub mod snapshot;
pub mod way;
