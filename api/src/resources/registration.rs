//! `Registration`: a device asks to become a node (or an edge).

use super::{RegionalEdgeSpec, Role};
use crate::tunnel::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the device's key lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityClass {
    /// In a file.
    #[default]
    Soft,
    /// In a TPM.
    Tpm,
}

/// What a device says of its hardware: what an operator needs to recognise it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceFacts {
    /// DMI system vendor.
    pub vendor: String,
    /// DMI product name.
    pub product: String,
    /// DMI product serial.
    pub serial: String,
    /// Name of the hardware profile chosen.
    pub profile: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// MAC addresses of physical ports.
    pub macs: Vec<String>,
    /// Cloud provider, when DMI names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
}

/// An operator's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// `Approved` or `Rejected`.
    pub decision: Decision,
    /// Name of the site, overriding the token's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Labels given to the site.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// The device may join.
    Approved,
    /// It may not.
    Rejected,
}

/// What the device asks for. The token's secret travels in the `Authorization` header and is not
/// kept; the object's name derives from the device key, so presenting a token twice is one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistrationSpec {
    /// What it wants to be; must be what the token allows.
    pub role: Role,
    /// Its name for itself.
    pub hostname: String,
    /// Certificate signing request (PKCS #10, PEM) for the device key; proves its possession.
    pub csr: String,
    /// WireGuard key; nodes and edges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key: Option<PublicKey>,
    /// Where the device key lives.
    pub identity_class: IdentityClass,
    /// The hardware.
    pub facts: DeviceFacts,
    /// What an edge offers; only with the role of an edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<RegionalEdgeSpec>,
    /// Public part of the token, set by the controller.
    pub token_id: String,
    /// The operator's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// How far it got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RegistrationPhase {
    /// Waits for approval.
    #[default]
    Pending,
    /// Approved, the controller is making its certificate and configuration.
    Approved,
    /// Certificate and configuration can be had.
    Admitted,
    /// The node reported that its tunnels are up.
    Online,
    /// Refused.
    Rejected,
    /// Was a node once.
    Retired,
}

/// The controller's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistrationStatus {
    /// How far it got.
    pub phase: RegistrationPhase,
    /// A reason code of ours.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Site that the device belongs to now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Name of its `NodeConfig` and `NodeStatus`, or of its `RegionalEdge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Client certificate, PEM, leaf first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// CA certificates to trust, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}
