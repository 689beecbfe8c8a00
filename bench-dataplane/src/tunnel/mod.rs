//! WireGuard between two namespaces, both ends the same program: ours, or one that it is compared
//! with.

pub(crate) mod bare;
pub(crate) mod datagrams;
pub(crate) mod echo;
pub(crate) mod edge;
pub(crate) mod flowing;
pub(crate) mod flows;
pub(crate) mod huge;
pub(crate) mod install;
pub(crate) mod iperf;
pub(crate) mod offloads;
pub(crate) mod pairs;
pub(crate) mod program;
pub(crate) mod rig;
pub(crate) mod search;
pub(crate) mod silent;
pub(crate) mod wakeups;
