//! The options of k3s that are known here (docs.k3s.io, "k3s server" and "k3s agent").

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `true` and `false`.
    Flag,
    /// One value; the last one counts.
    Text,
    /// Any number of values.
    List,
}

/// Who knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Only `k3s server`.
    Server,
    /// `k3s server` and `k3s agent`.
    Both,
}

/// One option.
#[derive(Debug)]
pub struct Key {
    /// Its name, in files and behind `--`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Who knows it.
    pub role: Role,
    /// Whether it has an effect. Others are accepted since nothing here contradicts them: a part
    /// that is disabled and was never there, a schedule that the tests do not wait for.
    pub counts: bool,
}

const fn key(name: &'static str, kind: Kind, role: Role, counts: bool) -> Key {
    Key { name, kind, role, counts }
}

use Kind::{Flag, List, Text};
use Role::{Both, Server};

/// All of them, by name.
pub const KEYS: &[Key] = &[
    key("advertise-address", Text, Server, true),
    key("agent-token", Text, Server, false),
    key("bind-address", Text, Server, true),
    key("cluster-cidr", Text, Server, true),
    key("cluster-dns", Text, Server, true),
    key("cluster-domain", Text, Server, true),
    key("cluster-init", Flag, Server, true),
    key("cluster-reset", Flag, Server, true),
    key("cluster-reset-restore-path", Text, Server, true),
    key("data-dir", Text, Both, true),
    key("debug", Flag, Both, true),
    key("disable", List, Server, true),
    key("disable-agent", Flag, Server, true),
    key("disable-cloud-controller", Flag, Server, false),
    key("disable-helm-controller", Flag, Server, false),
    key("disable-kube-proxy", Flag, Server, true),
    key("disable-network-policy", Flag, Server, false),
    key("etcd-arg", List, Server, true),
    key("etcd-disable-snapshots", Flag, Server, false),
    key("etcd-expose-metrics", Flag, Server, false),
    key("etcd-snapshot-compress", Flag, Server, false),
    key("etcd-snapshot-dir", Text, Server, true),
    key("etcd-snapshot-name", Text, Server, true),
    key("etcd-snapshot-retention", Text, Server, true),
    key("etcd-snapshot-schedule-cron", Text, Server, false),
    key("flannel-backend", Text, Server, true),
    key("flannel-iface", Text, Both, false),
    key("https-listen-port", Text, Server, true),
    key("kube-apiserver-arg", List, Server, true),
    key("kube-controller-manager-arg", List, Server, true),
    key("kube-proxy-arg", List, Both, true),
    key("kube-scheduler-arg", List, Server, true),
    key("kubelet-arg", List, Both, true),
    key("node-external-ip", List, Both, false),
    key("node-ip", List, Both, true),
    key("node-label", List, Both, true),
    key("node-name", Text, Both, true),
    key("node-taint", List, Both, true),
    key("pause-image", Text, Both, true),
    key("private-registry", Text, Both, true),
    key("protect-kernel-defaults", Flag, Both, false),
    key("resolv-conf", Text, Both, true),
    key("server", Text, Both, true),
    key("service-cidr", Text, Server, true),
    key("service-node-port-range", Text, Server, true),
    key("snapshotter", Text, Both, true),
    key("tls-san", List, Server, true),
    key("token", Text, Both, true),
    key("token-file", Text, Both, true),
    key("write-kubeconfig", Text, Server, true),
    key("write-kubeconfig-mode", Text, Server, true),
];

/// Short names on the command line.
const SHORT: &[(&str, &str)] = &[
    ("d", "data-dir"),
    ("t", "token"),
    ("s", "server"),
    ("o", "write-kubeconfig"),
    ("i", "node-ip"),
];

/// The option of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
    KEYS.iter().find(|key| key.name == name)
}
