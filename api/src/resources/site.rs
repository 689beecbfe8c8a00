//! `Site`: one customer edge, made of one node or a few.

use super::{HostEntry, SshAuthorities};
use crate::kubernetes::{DistributionArtifact, RegistryMirror, Secret, SnapshotPolicy};
use crate::meta::Condition;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where a site or an edge is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// Region, such as `eu-central`.
    pub region: String,
    /// Address or description for people.
    pub address: String,
}

/// What a node does in its site's Kubernetes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// Runs the control plane (and workloads).
    #[default]
    ControlPlane,
    /// Runs workloads.
    Worker,
}

/// A node of the site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SiteNode {
    /// Name of the node.
    pub name: String,
    /// Name of its registration.
    pub registration: String,
    /// Its role, decided by the controller.
    pub role: NodeRole,
    /// Its address in the site's LAN, of the site's prefix; given by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// Which edges a site may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgePolicy {
    /// Only these edges, by name; all when empty.
    pub only: Vec<String>,
    /// Never these.
    pub except: Vec<String>,
    /// How many tunnels to hold, 1 to 3; 2 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub want: Option<u8>,
    /// Liveness timers; the default of [`crate::tunnel::BfdTimers`] when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<crate::tunnel::BfdTimers>,
}

/// What a site runs in its Kubernetes, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SiteKubernetes {
    /// Name of the `Release` that it is to run; nothing is applied when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Raised by an operator who wants a release tried again that failed.
    pub force: u32,
    /// The distribution's program; the one that the nodes have when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<DistributionArtifact>,
    /// Parts of the distribution that are left out, beside those of the profile.
    pub disable: Vec<String>,
    /// Labels of every node, over those of the profile.
    pub labels: BTreeMap<String, String>,
    /// Taints of every node beside those of the profile, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Registry mirrors.
    pub mirrors: Vec<RegistryMirror>,
    /// Snapshots of the datastore.
    pub snapshots: SnapshotPolicy,
    /// What nodes join with, for a site that is restored from snapshots of another one. Taken from
    /// whoever writes it, and never shown or stored here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_token: Option<Secret>,
}

/// What is asked of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SiteSpec {
    /// Where it is.
    pub place: Place,
    /// Its nodes, in the order they joined.
    pub nodes: Vec<SiteNode>,
    /// Prefix of the site, given by the controller from the tenant's pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    /// Which edges it may use.
    pub edges: EdgePolicy,
    /// Entries for `/etc/hosts` on every node.
    pub hosts: Vec<HostEntry>,
    /// Who may log in.
    pub ssh: SshAuthorities,
    /// Kernel settings on every node, by sysctl name.
    pub sysctls: BTreeMap<String, String>,
    /// Its Kubernetes; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<SiteKubernetes>,
}

/// What is known of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SiteStatus {
    /// `Pending`, `Online`, `Degraded`, `Offline`, `Retired`.
    pub phase: String,
    /// Nodes that report themselves online.
    pub nodes_online: u32,
    /// Tunnels that pass data, of all nodes.
    pub tunnels_up: u32,
    /// Edges that carry its traffic.
    pub edges: Vec<String>,
    /// When a node was last heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<jiff::Timestamp>,
    /// Details.
    pub conditions: Vec<Condition>,
}
