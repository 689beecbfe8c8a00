//! Where the distribution keeps its things (k3s' layout), below the root.

use holdfast_api::paths::Root;
use std::path::PathBuf;

/// Places of the distribution and of what we keep beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPaths {
    root: Root,
}

impl ClusterPaths {
    /// The places below `root`.
    pub fn new(root: &Root) -> Self {
        ClusterPaths { root: root.clone() }
    }

    /// The root itself.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// `/etc/rancher/k3s`: configuration.
    pub fn config_dir(&self) -> PathBuf {
        self.root.join("etc/rancher/k3s")
    }

    /// The administrator's kubeconfig, on servers.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.config_dir().join("k3s.yaml")
    }

    /// `/var/lib/rancher/k3s`.
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("var/lib/rancher/k3s")
    }

    /// The kubelet's kubeconfig, on every node: it may read and annotate its own Node.
    pub fn kubelet_kubeconfig(&self) -> PathBuf {
        self.data_dir().join("agent/kubelet.kubeconfig")
    }

    /// containerd's socket (its own API and CRI).
    pub fn containerd_socket(&self) -> PathBuf {
        self.root.join("run/k3s/containerd/containerd.sock")
    }

    /// What we keep of Kubernetes: journals, releases, versions of the distribution.
    pub fn state_dir(&self) -> PathBuf {
        self.root.state_dir().join("cluster")
    }

    /// What etcd keeps here, once this node is a member of the datastore.
    pub fn datastore_member(&self) -> PathBuf {
        self.data_dir().join("server/db/etcd/member")
    }

    /// Snapshots that the distribution writes.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.data_dir().join("server/db/snapshots")
    }
}
