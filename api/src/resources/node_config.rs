//! `NodeConfig`: the rendered desired state of one node. What the node's ledger holds.

use super::NodeRole;
use crate::kubernetes::KubernetesIntent;
use crate::tunnel::TunnelIntent;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostEntry {
    /// The address.
    pub address: IpAddr,
    /// Its names, the canonical one first.
    pub names: Vec<String>,
}

/// Whose certificates sshd accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshAuthorities {
    /// CA public keys in `authorized_keys` form; the old and the new one while a rotation lasts.
    pub authorities: Vec<String>,
    /// Principals accepted for each local user.
    pub principals: BTreeMap<String, Vec<String>>,
}

/// One network port or virtual link of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkIntent {
    /// Interface name; or, for ports, left empty and given by `role`.
    pub name: String,
    /// Role of the port in the hardware profile: `outside`, `inside`, `management`, `storage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What to make; a port that is there when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub make: Option<LinkMake>,
    /// Static addresses.
    pub addresses: Vec<IpNet>,
    /// Ask a DHCP server.
    pub dhcp: bool,
    /// Bytes; left alone when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Bridge or bond that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Settings below `net.ipv4.conf.<link>` and `net.ipv6.conf.<link>`, such as `ipv4.rp_filter`.
    pub sysctls: BTreeMap<String, String>,
}

/// A virtual link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum LinkMake {
    /// An Ethernet bridge.
    Bridge,
    /// IEEE 802.1Q.
    #[serde(rename_all = "camelCase")]
    Vlan {
        /// The port below, by interface name or role.
        parent: String,
        /// 1 to 4094.
        id: u16,
    },
    /// A bond of ports.
    #[serde(rename_all = "camelCase")]
    Bond {
        /// `active-backup` or `802.3ad`.
        mode: String,
    },
    /// A pair of Ethernet ends.
    #[serde(rename_all = "camelCase")]
    Veth {
        /// Name of the other end.
        peer: String,
    },
}

/// A static route of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteIntent {
    /// Where to.
    pub prefix: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface name or role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Priority; lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// The host's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkIntent {
    /// Ports and virtual links.
    pub links: Vec<LinkIntent>,
    /// Static routes in the main table.
    pub routes: Vec<RouteIntent>,
}

/// What is asked of one node. Every field but the first four may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfigSpec {
    /// Grows with every change; an older one is refused, and the same one with other content.
    pub generation: u64,
    /// The node's site.
    pub site: String,
    /// The node's name.
    pub node: String,
    /// Its role.
    pub role: NodeRole,
    /// Its addresses in the site's LAN; the first of each of its site prefixes when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lan_addresses: Vec<IpNet>,
    /// Our block in `/etc/hosts`.
    pub hosts: Vec<HostEntry>,
    /// Who may log in.
    pub ssh: SshAuthorities,
    /// Kernel settings by sysctl name, over those of the profile.
    pub sysctls: BTreeMap<String, String>,
    /// The host's network; what the profile and the local configuration say when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkIntent>,
    /// The tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<TunnelIntent>,
    /// Its part in the site's Kubernetes; none runs when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesIntent>,
    /// Seconds between polls; 300 when 0.
    pub poll_secs: u32,
}

/// What the controller says of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfigStatus {
    /// SHA-256 of the spec, hex: the node's conditional GET names it as its ETag.
    pub content_hash: String,
}
