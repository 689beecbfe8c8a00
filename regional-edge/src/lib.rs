//! A regional edge: a point of presence that ends the tunnels of sites.
//!
//! It holds one WireGuard device for all nodes that it may serve, answers their probes and BFD,
//! routes each node's address and its site's prefixes into the tunnel while data passes, and over
//! the backbone to another edge otherwise. What it may serve comes from the controller and is kept
//! on disk: an edge that starts while the controller is away serves whom it served last.
//!
//! ```text
//!  edge (all together)
//!    ├─ controller   enrols, follows RegionalEdges and TunnelPeers, reports; keeps `knowledge`
//!    ├─ mesh         edges tell each other whom they have up
//!    ├─ dataplane    a thread: WireGuard device, liveness, routes
//!    │     └─ nodes, routing   who is served and which way packets go; pure
//!    └─ local_api    the Unix socket
//! ```
#![warn(missing_docs)]

pub mod controller;
pub mod dataplane;
pub mod edge;
pub mod knowledge;
pub mod local_api;
pub mod mesh;
pub mod names;
pub mod nodes;
pub mod routing;
pub mod settings;
pub mod state;
