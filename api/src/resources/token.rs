//! `Token`: the right to register.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the bearer of a token may become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A node of a site.
    #[default]
    Node,
    /// A regional edge.
    RegionalEdge,
}

/// How registrations with a token are approved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalRule {
    /// By an operator.
    #[default]
    Manual,
    /// At once.
    Automatic,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenSpec {
    /// How many devices may register with it, at least 1.
    pub uses: u32,
    /// When it ends; never when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<jiff::Timestamp>,
    /// What its bearers become.
    pub role: Role,
    /// Who approves.
    pub approval: ApprovalRule,
    /// The site that nodes join; a site of its own for each node when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The node of that site whose place the bearer takes, with its role. When the bearer is
    /// admitted, that node is retired and removed from the site's Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Labels given to the site.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for TokenSpec {
    fn default() -> Self {
        TokenSpec {
            uses: 1,
            expires_at: None,
            role: Role::default(),
            approval: ApprovalRule::default(),
            site: None,
            replaces: None,
            labels: BTreeMap::new(),
        }
    }
}

/// What the controller says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenStatus {
    /// Public part of the token.
    pub id: String,
    /// How many devices have registered with it.
    pub used: u32,
    /// The whole token, only in the answer to its creation; the controller keeps a hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
