//! Places on the node, all below one root so that tests and the laboratory can move them.

use std::path::{Path, PathBuf};

/// The root below which every path of ours is found: `/` on a real node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Root(PathBuf::from("/"))
    }
}

impl Root {
    /// A root at `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Root(dir.into())
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// `path` (absolute or relative) below this root.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Configuration fragments, weakest first: vendor, administrator, runtime.
    pub fn config_dirs(&self) -> [PathBuf; 3] {
        ["usr/lib/holdfast/config.d", "etc/holdfast/config.d", "run/holdfast/config.d"]
            .map(|dir| self.join(dir))
    }

    /// Profile directories, weakest first: vendor, administrator.
    pub fn profile_dirs(&self) -> [PathBuf; 2] {
        ["usr/lib/holdfast/profiles", "etc/holdfast/profiles"].map(|dir| self.join(dir))
    }

    /// State that survives a reboot.
    pub fn state_dir(&self) -> PathBuf {
        self.join("var/lib/holdfast")
    }

    /// Keys and certificates of this node, mode 0700.
    pub fn identity_dir(&self) -> PathBuf {
        self.state_dir().join("identity")
    }

    /// The node's desired state, with its generation.
    pub fn ledger(&self) -> PathBuf {
        self.state_dir().join("ledger.json")
    }

    /// The last good tunnel configuration, for a boot without controller and manager.
    pub fn tunnels_last_good(&self) -> PathBuf {
        self.state_dir().join("tunnels.json")
    }

    /// Sockets and runtime files.
    pub fn run_dir(&self) -> PathBuf {
        self.join("run/holdfast")
    }

    /// The manager's local API (HTTP on a Unix socket).
    pub fn manager_socket(&self) -> PathBuf {
        self.run_dir().join("holdfastd.sock")
    }

    /// The tunnel daemon's state (HTTP on a Unix socket).
    pub fn tunneld_socket(&self) -> PathBuf {
        self.run_dir().join("tunneld.sock")
    }

    /// The reboot lock of the site (FleetLock, HTTP on a Unix socket), on servers.
    pub fn fleet_lock_socket(&self) -> PathBuf {
        self.run_dir().join("fleetlock.sock")
    }

    /// What the manager wants of `tunneld`.
    pub fn tunnels_config(&self) -> PathBuf {
        self.run_dir().join("tunnels.json")
    }

    /// WireGuard UAPI sockets. `wg(8)` looks in `/run/wireguard` whatever our root is, so
    /// userspace devices are published here only when the root is `/`, else below the root.
    pub fn wireguard_dir(&self) -> PathBuf {
        self.join("run/wireguard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_stay_below_the_root() {
        let root = Root::new("/tmp/x");
        assert_eq!(root.join("/etc/hosts"), Path::new("/tmp/x/etc/hosts"));
        assert_eq!(root.join("etc/hosts"), Path::new("/tmp/x/etc/hosts"));
        assert_eq!(Root::default().ledger(), Path::new("/var/lib/holdfast/ledger.json"));
    }
}
