//! What the store holds: objects as JSON, found by kind, namespace and name.
//!
//! Objects stay JSON inside the controller, because the API must return what it does not know
//! itself (annotations, managed fields) and because patches, selectors and tables work on any
//! kind. Rules and controllers decode what they look at ([`Entry::decode`]).

use bytes::Bytes;
use holdfast_api::resources::{Kind, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Where an object is. The order is that of lists: kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds that have none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of these three; kinds without namespace ignore the second.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace } else { "" };
        Key { kind, namespace: namespace.into(), name: name.into() }
    }

    /// The form in which files know it: `sites/acme/ce01`.
    pub(super) fn record(&self) -> String {
        format!("{}/{}/{}", self.kind.plural(), self.namespace, self.name)
    }

    /// Reads [`Key::record`]; `None` for kinds that this version does not know.
    pub(super) fn from_record(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let kind = Kind::from_plural(parts.next()?)?;
        Some(Key { kind, namespace: parts.next()?.into(), name: parts.next()?.into() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// One version of one object. Never changes; a write makes another.
pub struct Entry {
    /// Where it is.
    pub key: Key,
    /// The store's version at which it was written; `metadata.resourceVersion`.
    pub version: u64,
    /// The object, with its `resourceVersion`.
    pub value: Value,
    /// What belongs to the object and is not shown with it: the hash of a token's secret; the join
    /// token of a site's Kubernetes, which its nodes get with their `NodeConfig`.
    pub hidden: Option<String>,
    json: OnceLock<Bytes>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} @{}", self.key, self.version)
    }
}

impl Entry {
    /// An entry of `value`, whose `resourceVersion` is set here.
    pub fn new(key: Key, version: u64, mut value: Value, hidden: Option<String>) -> Self {
        value["metadata"]["resourceVersion"] = Value::String(version.to_string());
        Entry { key, version, value, hidden, json: OnceLock::new() }
    }

    /// The same object at a later version: what a watch says of a deleted object.
    pub fn at_version(&self, version: u64) -> Entry {
        Entry::new(self.key.clone(), version, self.value.clone(), None)
    }

    /// The object as JSON text, encoded once however many read it.
    pub fn json(&self) -> Bytes {
        self.json
            .get_or_init(|| Bytes::from(serde_json::to_vec(&self.value).unwrap_or_default()))
            .clone()
    }

    /// The same for the node whose configuration this is: with the site's join token, which nobody
    /// else is shown.
    pub fn json_with_secret(&self) -> Bytes {
        match &self.hidden {
            Some(secret) if self.value.pointer("/spec/kubernetes").is_some() => {
                let mut value = self.value.clone();
                value["spec"]["kubernetes"]["token"] = secret.as_str().into();
                Bytes::from(serde_json::to_vec(&value).unwrap_or_default())
            }
            _ => self.json(),
        }
    }

    /// The object as its type. Objects are validated before they are stored, so that a failure
    /// means a type changed incompatibly; it is logged and the object passed over.
    pub fn decode<T: DeserializeOwned + Resource>(&self) -> Option<T> {
        debug_assert_eq!(self.key.kind, T::KIND);
        T::deserialize(&self.value)
            .inspect_err(|error| tracing::error!(object = %self.key, %error, "cannot be decoded"))
            .ok()
    }

    /// A text at this JSON pointer; empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// An annotation; empty when there is none.
    pub fn annotation(&self, name: &str) -> &str {
        let value = self.value.pointer("/metadata/annotations").and_then(|all| all.get(name));
        value.and_then(Value::as_str).unwrap_or_default()
    }
}

/// Whether two objects differ in nothing but their version.
pub(super) fn same_content(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |map: &serde_json::Map<String, Value>| {
        map.len() - usize::from(map.contains_key("metadata"))
    };
    rest(a) == rest(b)
        && a.iter().filter(|(name, _)| *name != "metadata").all(|(name, v)| b.get(name) == Some(v))
        && same_metadata(a.get("metadata"), b.get("metadata"))
}

fn same_metadata(a: Option<&Value>, b: Option<&Value>) -> bool {
    let fields = |meta: Option<&Value>| {
        let map = meta.and_then(Value::as_object).into_iter().flatten();
        map.filter(|(name, _)| *name != "resourceVersion")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    fields(a) == fields(b)
}

/// An entry that many share.
pub type Shared = Arc<Entry>;
