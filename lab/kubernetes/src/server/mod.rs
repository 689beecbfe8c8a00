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
mod joining;
pub mod manifests;
pub mod members;
pub mod outer;
pub mod prepare;
pub mod routes;

pub use prepare::prepare;

use jiff::Timestamp;
use members::Etcdctl;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// What PID 1 of a node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// etcd, on a server.
    pub datastore: Option<Datastore>,
    /// Programs that run beside Kubernetes: containerd.
    pub programs: Vec<Program>,
    /// The parts of Kubernetes, in one process.
    pub kubernetes: Program,
    /// Its environment, and that of everything else.
    pub environment: Vec<(String, String)>,
    /// containerd's socket.
    pub runtime_socket: PathBuf,
    /// Folder of archives that are imported at the start; none where no pods run.
    pub images: Option<PathBuf>,
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
    /// What a server applies.
    pub manifests: Option<Manifests>,
    /// What stands for `/`: its `run` and `var` are the node's.
    pub root: PathBuf,
    /// Directories that the node sees where the machine has them, also below `/run` and `/var`.
    pub keep: Vec<PathBuf>,
    /// Plain files that stand for settings of the whole machine.
    pub settings: PathBuf,
}

/// A server's member of the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datastore {
    /// etcd.
    pub program: Program,
    /// How it is asked.
    pub etcdctl: Etcdctl,
    /// While it has no vote yet.
    pub joining: Option<Joining>,
    /// Made when the others have removed it.
    pub tombstone: PathBuf,
}

/// A member that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// How the others are asked.
    pub others: Etcdctl,
    /// Removed when the member has its vote.
    pub marker: PathBuf,
}

/// Manifests of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifests {
    /// Its own, applied once it answers.
    pub own: PathBuf,
    /// Those of the administrator.
    pub folder: PathBuf,
    /// Names, without ending, of files that are not applied.
    pub disabled: Vec<String>,
    /// Whether the parts of Kubernetes elect a leader among several servers.
    pub elects: bool,
    /// When this start began.
    pub started: Timestamp,
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

/// Renames a datastore, as k3s does before it makes another one in its place.
pub(crate) fn put_aside(database: &Path) -> io::Result<()> {
    let aside = format!("etcd-old-{}", Timestamp::now().as_second());
    std::fs::rename(database, database.with_file_name(aside))
}
