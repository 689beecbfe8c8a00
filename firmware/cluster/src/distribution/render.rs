//! The distribution's files, out of what is wanted. Pure, and the same input gives the same bytes:
//! a file that differs is a change that somebody made.
//!
//! Names of options are those of docs.k3s.io, "k3s server" and "k3s agent"; the rules by which
//! fragments are joined those of "Configuration File": a key replaces what earlier files say of
//! it, a key with `+` adds to it. Lists are added, so that those of the administrator stay.
//!
//! Left out: snapshots by k3s itself, since we take them with what a restore elsewhere needs.

use super::model::NodeWants;
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::KubernetesRole;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// First line of each file of ours; a file without it is somebody else's.
pub const HEADER: &str = "# Written by holdfastd, which replaces changes.";

/// A file of ours.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Where it belongs.
    pub path: PathBuf,
    /// All of it.
    pub content: String,
}

impl fmt::Debug for Rendered {
    /// The configuration holds the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.content.len())
    }
}

impl Drop for Rendered {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.content);
    }
}

/// The mode of both files.
pub const MODE: u32 = 0o600;

/// Where our fragment of the configuration is.
pub fn config_path(paths: &ClusterPaths) -> PathBuf {
    paths.config_dir().join("config.yaml.d/60-holdfast.yaml")
}

/// Where the registries are described; k3s reads one file only.
pub fn registries_path(paths: &ClusterPaths) -> PathBuf {
    paths.config_dir().join("registries.yaml")
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    data_dir: String,
    #[serde(skip_serializing_if = "is_false")]
    cluster_init: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    node_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_ip: Option<String>,
    #[serde(rename = "node-label+", skip_serializing_if = "Vec::is_empty")]
    node_label: Vec<String>,
    #[serde(rename = "node-taint+", skip_serializing_if = "Vec::is_empty")]
    node_taint: Vec<String>,
    #[serde(rename = "kubelet-arg+", skip_serializing_if = "Vec::is_empty")]
    kubelet_arg: Vec<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    server_only: Option<ServerOnly<'a>>,
}

/// Options that `k3s agent` does not know.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ServerOnly<'a> {
    #[serde(rename = "disable+", skip_serializing_if = "Vec::is_empty")]
    disable: Vec<&'a str>,
    #[serde(rename = "tls-san+", skip_serializing_if = "Vec::is_empty")]
    tls_san: Vec<String>,
    etcd_disable_snapshots: bool,
    write_kubeconfig_mode: &'static str,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Our fragment of the configuration. It holds the token.
pub fn config(wants: &NodeWants, paths: &ClusterPaths) -> Rendered {
    let address = wants.node_ip.map(|address| address.to_string());
    let config = Config {
        // Explicit, for k3s also listens to K3S_DATA_DIR.
        data_dir: paths.data_dir().display().to_string(),
        cluster_init: wants.role == KubernetesRole::ClusterInit,
        server: wants.server.as_deref(),
        token: &wants.token.0,
        node_name: &wants.node_name,
        node_ip: address.clone(),
        node_label: wants.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        node_taint: wants.taints.iter().map(ToString::to_string).collect(),
        kubelet_arg: system_reserved(wants).into_iter().collect(),
        server_only: wants.role.is_server().then(|| ServerOnly {
            disable: wants.disable.iter().map(String::as_str).collect(),
            // Others reach the API server by this address, also when k3s finds another one first.
            tls_san: address.into_iter().collect(),
            etcd_disable_snapshots: true,
            write_kubeconfig_mode: "0600",
        }),
    };
    Rendered { path: config_path(paths), content: yaml(&config) }
}

/// Whether a line of our fragment says whom to join. A text that goes on in another line is
/// indented there.
pub(super) fn is_about_joining(line: &str) -> bool {
    line.starts_with("cluster-init:") || line.starts_with("server:")
}

/// Our fragment as far as a restart makes a difference. Labels and taints are none of it: k3s sets
/// labels when it starts and taints when the node joins, and [`crate::nodes::labels`] keeps both on
/// the Node meanwhile. Nor is the data directory, which was the same before it was written down.
pub(super) fn read_at_start(content: &str) -> String {
    let mut is_mark = false;
    let lines = content.lines().filter(|line| {
        // The items of a list stand in lines of their own below its key.
        if !line.starts_with(['-', ' ']) {
            is_mark = line.starts_with("node-label+:") || line.starts_with("node-taint+:");
        }
        !is_mark && !is_about_joining(line) && !line.starts_with("data-dir:")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `system-reserved=cpu=250m,memory=512Mi` (kubelet's reference).
fn system_reserved(wants: &NodeWants) -> Option<String> {
    let cpu =
        (wants.reserved_millicores > 0).then(|| format!("cpu={}m", wants.reserved_millicores));
    let mebibytes = wants.reserved_memory.0.div_ceil(1 << 20);
    let memory = (mebibytes > 0).then(|| format!("memory={mebibytes}Mi"));
    let parts: Vec<String> = cpu.into_iter().chain(memory).collect();
    (!parts.is_empty()).then(|| format!("system-reserved={}", parts.join(",")))
}

#[derive(Serialize)]
struct Registries<'a> {
    mirrors: BTreeMap<&'a str, Mirror<'a>>,
}

#[derive(Serialize)]
struct Mirror<'a> {
    endpoint: &'a [String],
}

/// The registries' mirrors (docs.k3s.io, "Private Registry Configuration"); none when there are
/// none.
pub fn registries(wants: &NodeWants, paths: &ClusterPaths) -> Option<Rendered> {
    if wants.mirrors.is_empty() {
        return None;
    }
    let mirrors = wants.mirrors.iter();
    let mirrors =
        mirrors.map(|one| (one.registry.as_str(), Mirror { endpoint: &one.endpoints })).collect();
    Some(Rendered { path: registries_path(paths), content: yaml(&Registries { mirrors }) })
}

fn yaml(value: &impl Serialize) -> String {
    let text = serde_yaml_ng::to_string(value)
        .expect("texts, lists and maps with keys that are texts can all be written as YAML");
    format!("{HEADER}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::model::tests::{profile, server};
    use holdfast_api::kubernetes::{KubernetesIntent, RegistryMirror, Secret};
    use holdfast_api::paths::Root;
    use proptest::prelude::*;

    fn paths() -> ClusterPaths {
        ClusterPaths::new(&Root::default())
    }

    #[test]
    fn a_first_server() {
        let rendered = config(&server(), &paths());
        assert_eq!(rendered.path.to_str(), Some("/etc/rancher/k3s/config.yaml.d/60-holdfast.yaml"));
        assert_eq!(
            rendered.content,
            "# Written by holdfastd, which replaces changes.\n\
             data-dir: /var/lib/rancher/k3s\n\
             cluster-init: true\n\
             token: a-secret\n\
             node-name: node-1\n\
             node-label+:\n- holdfast.dev/cloud=aws\n- site=lake\n\
             node-taint+:\n- dedicated=edge:NoSchedule\n\
             kubelet-arg+:\n- system-reserved=cpu=250m,memory=512Mi\n\
             disable+:\n- traefik\n\
             etcd-disable-snapshots: true\n\
             write-kubeconfig-mode: '0600'\n"
        );
        assert!(!format!("{rendered:?}").contains("a-secret"));
    }

    #[test]
    fn an_agent_has_no_options_of_servers() {
        let intent = KubernetesIntent {
            role: KubernetesRole::Agent,
            server: Some("https://10.0.0.1:6443".into()),
            token: Secret("K10ab::server:cd".into()),
            node_ip: Some("10.0.0.2".parse().unwrap()),
            ..Default::default()
        };
        let wants = NodeWants::new("node-2", &intent, &profile(), BTreeMap::new()).unwrap();
        assert_eq!(
            config(&wants, &paths()).content,
            "# Written by holdfastd, which replaces changes.\n\
             data-dir: /var/lib/rancher/k3s\n\
             server: https://10.0.0.1:6443\n\
             token: K10ab::server:cd\n\
             node-name: node-2\n\
             node-ip: 10.0.0.2\n\
             node-label+:\n- holdfast.dev/cloud=aws\n\
             kubelet-arg+:\n- system-reserved=cpu=250m,memory=512Mi\n"
        );
        assert_eq!(wants.command(), "agent");
    }

    #[test]
    fn mirrors_keep_their_order_and_none_means_no_file() {
        let mut wants = server();
        assert_eq!(registries(&wants, &paths()), None);
        wants.mirrors = vec![RegistryMirror {
            registry: "registry.example:5000".into(),
            endpoints: vec!["http://100.64.0.2:5000".into(), "http://100.64.0.1:5000".into()],
        }];
        assert_eq!(
            registries(&wants, &paths()).unwrap().content,
            "# Written by holdfastd, which replaces changes.\n\
             mirrors:\n  registry.example:5000:\n    endpoint:\n    \
             - http://100.64.0.2:5000\n    - http://100.64.0.1:5000\n"
        );
    }

    proptest! {
        /// Whatever the controller sends, k3s reads the same texts back, and nothing else.
        #[test]
        fn what_is_written_is_read(token in "[!-~]{0,40}", name in "[a-z0-9]{1,20}", value in "[A-Za-z0-9]{0,20}") {
            let intent = KubernetesIntent {
                token: Secret(token.clone()),
                labels: BTreeMap::from([("key".into(), value.clone())]),
                ..Default::default()
            };
            let wants = NodeWants::new(&name, &intent, &Default::default(), BTreeMap::new()).unwrap();
            let rendered = config(&wants, &paths());
            let read: serde_json::Value = serde_yaml_ng::from_str(&rendered.content).unwrap();
            if token.is_empty() {
                prop_assert!(read.get("token").is_none());
            } else {
                prop_assert_eq!(&read["token"], &serde_json::json!(token));
            }
            prop_assert_eq!(&read["node-name"], &serde_json::json!(name));
            prop_assert_eq!(&read["node-label+"], &serde_json::json!([format!("key={value}")]));
            prop_assert_eq!(&rendered, &config(&wants, &paths()));
        }
    }

    /// The laboratory refuses what k3s would only warn of.
    #[test]
    fn every_option_is_known_by_its_name() {
        for role in [KubernetesRole::ClusterInit, KubernetesRole::Server, KubernetesRole::Agent] {
            let intent = KubernetesIntent {
                role,
                server: Some("https://10.0.0.1:6443".into()),
                token: Secret("t".into()),
                node_ip: Some("10.0.0.2".parse().unwrap()),
                taints: vec!["a:NoExecute".into()],
                ..Default::default()
            };
            let wants = NodeWants::new("n", &intent, &profile(), BTreeMap::new()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let paths = ClusterPaths::new(&Root::new(folder.path()));
            let rendered = config(&wants, &paths);
            holdfast_durable::write(&rendered.path, rendered.content.as_bytes(), MODE).unwrap();
            let known = if role.is_server() {
                holdfast_lab_kubernetes::config::Role::Server
            } else {
                holdfast_lab_kubernetes::config::Role::Both
            };
            let main = paths.config_dir().join("config.yaml");
            let options = holdfast_lab_kubernetes::config::read(known, &[], &main).unwrap();
            assert_eq!(options["node-name"], ["n"]);
            assert_eq!(options.contains_key("etcd-disable-snapshots"), role.is_server());
        }
    }
}
