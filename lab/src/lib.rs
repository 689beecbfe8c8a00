//! The laboratory: the whole of Holdfast on one machine, with real kernels and real programs.
//!
//! [`world`] makes hosts out of namespaces and joins them by emulated links ([`emulator`]),
//! [`exec`] runs programs on them, [`fleet`] makes a working fleet of them, [`measure`] tells what
//! the programs cost. The command `cargo lab` is a thin face of these; benches and tests use
//! them as a library.
//!
//! Everything that a world makes is written down before it is made and goes with
//! [`world::down()`], also after a crash.
#![warn(missing_docs)]

pub mod emulator;
pub mod exec;
pub mod faults;
pub mod fleet;
pub mod forward;
pub mod machine;
pub mod measure;
pub mod netns;
pub mod node_root;
pub mod packages;
pub mod pools;
pub mod process;
pub mod programs;
pub mod status;
mod view;
pub mod world;
