//! One node at a time: the reboot lock, draining around it, and the replacement of broken nodes.
//!
//! | module | what |
//! |---|---|
//! | [`model`] | Nodes, pods and budgets as these modules look at them |
//! | [`lease`] | a Lease as a lock: who may hold it, judged without comparing clocks |
//! | [`drain`] | which pods leave a node, in which order, and for how long that is tried |
//! | [`reboot`] | a node's own way through lock, drain, reboot and back, kept in a journal |
//! | [`turn`] | the task that carries that out |
//! | [`labels`] | labels and taints of the own Node after it has joined |
//! | [`replace`] | which Nodes are removed from the cluster, and when that would cost the datastore |
//! | [`removal`] | carries that out |
//! | [`cluster`] | what these need of Kubernetes, as a trait; [`kube`] carries it out |
//! | [`service`] | lock and drain behind FleetLock's two requests |
//! | [`fleetlock`] | FleetLock's HTTP protocol |
//! | [`outside`] | the protocol on the site's network, by HTTPS |
//! | [`client`] | the other side of it, for nodes without an administrator's rights |
//! | [`refusal`] | why the lock refuses, one list for both sides |
//! | [`restored`] | reboots that a restored datastore tells of, and nobody carries out any more |
//! | [`leader`] | the lock of whoever applies releases |
//!
//! The state that nodes share is in Kubernetes alone: Leases in `holdfast-system` and one
//! annotation of a Node. A server that dies in the middle of a drain therefore loses nothing; the
//! next request to any server carries on. What is left out: the order in which nodes join. The
//! first server makes the cluster, and a joining node waits until that one answers
//! ([`crate::distribution`]).

pub mod client;
pub mod cluster;
pub mod drain;
pub mod failed;
pub mod fleetlock;
pub mod kube;
pub mod labels;
pub mod leader;
pub mod lease;
pub mod model;
pub mod outside;
pub mod reboot;
pub mod refusal;
pub mod removal;
pub mod replace;
pub mod restored;
pub mod service;
pub mod turn;
