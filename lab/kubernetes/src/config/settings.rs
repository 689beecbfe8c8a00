//! What the options mean.

use super::{ConfigError, Options, Role};
use crate::places::Places;
use std::net::IpAddr;
use std::path::PathBuf;

/// A node, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether it runs the control plane.
    pub is_server: bool,
    /// k3s' data directory.
    pub data: PathBuf,
    /// The kubeconfig of the administrator.
    pub kubeconfig: PathBuf,
    /// Its mode.
    pub kubeconfig_mode: u32,
    /// The token as it was given.
    pub token: Option<String>,
    /// The server to join, of an agent or a further server.
    pub server: Option<String>,
    /// Whether it runs pods.
    pub has_agent: bool,
    /// Whether the datastore is etcd in k3s' eyes, so that it has snapshots and takes members.
    pub has_etcd: bool,
    /// Whether the datastore is made one of this server alone, and nothing else is done.
    pub reset: bool,
    /// The snapshot to restore with that.
    pub restore: Option<PathBuf>,
    /// The node's name.
    pub node_name: String,
    /// The node's address, when it was given.
    pub node_ip: Option<IpAddr>,
    /// The API server's port.
    pub port: u16,
    /// Everything else.
    pub options: Options,
}

impl Settings {
    /// Out of the options; `host_name` names the node when nothing else does.
    ///
    /// # Errors
    /// [`ConfigError`] names the option.
    pub fn of(
        role: Role,
        options: Options,
        places: &Places,
        host_name: &str,
    ) -> Result<Self, ConfigError> {
        let text = |name: &str| options.get(name).and_then(|values| values.last()).cloned();
        let flag = |name: &str| text(name).as_deref() == Some("true");
        let wrong = |name: &'static str, wanted| ConfigError::Value {
            origin: "configuration".into(),
            name: name.into(),
            wanted,
        };
        let is_server = role == Role::Server;
        let token = match text("token-file") {
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|source| ConfigError::Read { path: path.into(), source })?
                    .trim()
                    .to_owned(),
            ),
            None => text("token"),
        };
        // An empty one on the command line takes back what a file says.
        let server = text("server").filter(|server| !server.is_empty());
        if !is_server && server.is_none() {
            return Err(ConfigError::Missing("server"));
        }
        if server.is_some() && token.is_none() {
            return Err(ConfigError::Missing("token"));
        }
        let restore = text("cluster-reset-restore-path").map(PathBuf::from);
        if restore.is_some() && !flag("cluster-reset") {
            return Err(ConfigError::Missing("cluster-reset"));
        }
        if flag("cluster-reset") && server.is_some() {
            return Err(ConfigError::ResetJoins);
        }
        let data = text("data-dir").map_or_else(|| places.default_data(), PathBuf::from);
        let node_ip = match text("node-ip") {
            Some(text) => Some(text.parse().map_err(|_| wrong("node-ip", "an IP address"))?),
            None => None,
        };
        let mode = text("write-kubeconfig-mode").unwrap_or_else(|| "600".into());
        let port = text("https-listen-port").unwrap_or_else(|| "6443".into());
        Ok(Self {
            is_server,
            kubeconfig: text("write-kubeconfig").map_or_else(|| places.kubeconfig(), PathBuf::from),
            kubeconfig_mode: u32::from_str_radix(&mode, 8)
                .map_err(|_| wrong("write-kubeconfig-mode", "an octal mode"))?,
            token,
            has_agent: !flag("disable-agent"),
            has_etcd: is_server && (flag("cluster-init") || server.is_some()),
            server,
            data,
            reset: flag("cluster-reset"),
            restore,
            node_name: text("node-name").unwrap_or_else(|| host_name.to_ascii_lowercase()),
            node_ip,
            port: port.parse().map_err(|_| wrong("https-listen-port", "a port"))?,
            options,
        })
    }

    /// One value, or what is usual.
    pub fn text<'a>(&'a self, name: &str, usual: &'a str) -> &'a str {
        self.options.get(name).and_then(|values| values.last()).map_or(usual, String::as_str)
    }

    /// All values; commas separate, too.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.raw(name)
            .iter()
            .flat_map(|value| value.split(','))
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// All values, as they were given.
    pub fn raw(&self, name: &str) -> &[String] {
        self.options.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it is on.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name, "false") == "true"
    }

    /// Flags of a part of Kubernetes: `key=value` becomes `--key=value`.
    pub fn extra(&self, name: &str) -> Vec<String> {
        self.raw(name)
            .iter()
            .map(|argument| format!("--{}", argument.trim_start_matches("--")))
            .collect()
    }
}
