//! A node: what is written for it, what is started, and how it is watched.
//!
//! [`mod@prepare`] makes certificates, token and files and says what to start ([`Plan`]); that part
//! touches nothing but the node's directories. [`outer`] is the process that whoever started
//! `k3s` sees; [`inner`] is PID 1 of a PID namespace below it, so that the end of either ends
//! every process, containers too.

mod control_plane;
pub mod files;
pub mod inner;
pub mod join;
pub mod outer;
pub mod prepare;
pub mod routes;

pub use prepare::prepare;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What PID 1 of a node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Programs that run beside Kubernetes, in this order: etcd, containerd.
    pub programs: Vec<Program>,
    /// The parts of Kubernetes, in one process.
    pub kubernetes: Program,
    /// Its environment, and that of everything else.
    pub environment: Vec<(String, String)>,
    /// containerd's socket.
    pub runtime_socket: PathBuf,
    /// Folder of archives that are imported before Kubernetes starts.
    pub images: PathBuf,
    /// `hyperkube`.
    pub hyperkube: PathBuf,
    /// With which the node's own object is read.
    pub kubeconfig: PathBuf,
    /// The node's name.
    pub node: String,
    /// Where the pods' network is described.
    pub cni: PathBuf,
    /// Where addresses that are given out are kept; nothing when the network is somebody else's.
    pub network: Option<PathBuf>,
    /// Manifests of a server's own, applied once it answers.
    pub manifests: Option<PathBuf>,
    /// What stands for `/`: its `run` and `var` are the node's.
    pub root: PathBuf,
    /// Directories that the node sees where the machine has them, also below `/run` and `/var`.
    pub keep: Vec<PathBuf>,
    /// Plain files that stand for settings of the whole machine.
    pub settings: PathBuf,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name in messages.
    pub name: String,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// What it writes.
    pub log: PathBuf,
}
