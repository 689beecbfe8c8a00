//! Where k3s has its things. The root is `/` or what `HOLDFAST_LAB_ROOT` names.

use std::path::{Path, PathBuf};

/// Names a directory that stands for `/` in every path of k3s.
pub const ROOT_VARIABLE: &str = "HOLDFAST_LAB_ROOT";

/// All places, below one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Places {
    /// Below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// As [`ROOT_VARIABLE`] says.
    pub fn of_environment() -> Self {
        std::env::var_os(ROOT_VARIABLE).map_or_else(Self::default, Self::below)
    }

    fn join(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The configuration file; its fragments are beside it.
    pub fn config(&self) -> PathBuf {
        self.join("etc/rancher/k3s/config.yaml")
    }

    /// Registries and their mirrors.
    pub fn registries(&self) -> PathBuf {
        self.join("etc/rancher/k3s/registries.yaml")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.join("etc/rancher/k3s/k3s.yaml")
    }

    /// The data directory when none is named.
    pub fn default_data(&self) -> PathBuf {
        self.join("var/lib/rancher/k3s")
    }

    /// The container runtime's state.
    pub fn runtime(&self) -> PathBuf {
        self.join("run/k3s/containerd")
    }

    /// The container runtime's socket.
    pub fn runtime_socket(&self) -> PathBuf {
        self.runtime().join("containerd.sock")
    }

    /// The kubelet's directory.
    pub fn kubelet(&self) -> PathBuf {
        self.join("var/lib/kubelet")
    }

    /// What pods write.
    pub fn logs(&self) -> PathBuf {
        self.join("var/log")
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
