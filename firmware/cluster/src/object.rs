//! A Kubernetes object as a release carries it: JSON, with what is needed to find it again and to
//! say where it was written.

use holdfast_api::brief;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// What identifies an object in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `DaemonSet`.
    pub kind: String,
    /// Namespace; none for what belongs to the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    /// `DaemonSet kube-system/forwarder`, as messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Bytes of a file's name that messages show.
const FILE_SHOWN: usize = 100;

/// Where an object was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// File of the release.
    pub file: String,
    /// Which document of the file, from 1.
    pub document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", brief(&self.file, FILE_SHOWN), self.document)
    }
}

/// An object of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub id: ObjectId,
    /// Where it was written.
    pub origin: Origin,
    /// The whole of it, with `apiVersion`, `kind` and `metadata`.
    pub value: Value,
}

impl Object {
    /// An annotation of the object itself.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("annotations")?.get(name)?.as_str()
    }
}
