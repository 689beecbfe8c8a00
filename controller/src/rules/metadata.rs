//! Names, labels and annotations.

use super::Write;
use crate::schema::{FieldError, key_path};
use crate::select::{is_label_key, is_label_value};
use holdfast_api::meta::{is_dns_label, is_dns_subdomain};
use holdfast_api::resources::Kind;
use serde_json::{Map, Value};

/// Longest annotations of an object, all together, in bytes (Kubernetes' limit).
const ANNOTATIONS_MAX: usize = 256 << 10;
/// Annotations that only the controller writes.
const SYSTEM: &str = "holdfast.dev/";

/// Wrong names, labels and annotations.
pub fn check_metadata(
    kind: Kind,
    name: &str,
    namespace: Option<&str>,
    value: &Value,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Sites and edges name nodes, links and certificates.
    let (fits, want) = match kind {
        Kind::Site | Kind::RegionalEdge | Kind::NodeConfig | Kind::NodeStatus => {
            (is_dns_label(name), "a DNS label (RFC 1123): lower-case letters, digits and dashes")
        }
        Kind::Token | Kind::Registration | Kind::Release | Kind::TunnelPeer => {
            (is_dns_subdomain(name), "a DNS subdomain (RFC 1123)")
        }
    };
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name"));
    } else if !fits {
        let message = format!("Invalid value: {name:?}: must be {want}");
        errors.push(FieldError::invalid("metadata.name", message));
    }
    if let Some(namespace) = namespace.filter(|namespace| !is_dns_label(namespace)) {
        let message = format!("Invalid value: {namespace:?}: must be a DNS label (RFC 1123)");
        errors.push(FieldError::invalid("metadata.namespace", message));
    }
    let entries = |name: &str| {
        let map = value["metadata"][name].as_object();
        map.into_iter().flatten().map(|(key, value)| (key, value.as_str().unwrap_or_default()))
    };
    for (key, label) in entries("labels") {
        if !is_label_key(key) {
            let message = format!("Invalid value: {key:?}: is not a label's name");
            errors.push(FieldError::invalid("metadata.labels", message));
        }
        if !is_label_value(label) {
            let message = format!("Invalid value: {label:?}: is not a label's value");
            errors.push(FieldError::invalid(key_path("metadata.labels", key), message));
        }
    }
    let size: usize = entries("annotations").map(|(key, text)| key.len() + text.len()).sum();
    if size > ANNOTATIONS_MAX {
        let message = format!("Too long: must have at most {ANNOTATIONS_MAX} bytes");
        errors.push(FieldError::invalid("metadata.annotations", message));
    }
    if value["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
        errors.push(FieldError::invalid("metadata.finalizers", "finalizers are not supported"));
    }
    errors
}

/// Labels that are given on: those of a token, of an approval.
pub(super) fn check_labels(field: &str, labels: &Value) -> Vec<FieldError> {
    let labels = labels.as_object().into_iter().flatten();
    labels
        .filter(|(key, value)| !is_label_key(key) || !value.as_str().is_some_and(is_label_value))
        .map(|(key, value)| {
            FieldError::invalid(
                key_path(field, key),
                format!("Invalid value: {value}: not a label"),
            )
        })
        .collect()
}

/// Puts back the annotations that are the controller's, whatever the client says of them.
pub fn keep_system_annotations(write: &Write<'_>, new: &mut Value) {
    let ours = |value: &Value| -> Map<String, Value> {
        let all = value.pointer("/metadata/annotations").and_then(Value::as_object);
        let all = all.into_iter().flatten().filter(|(name, _)| name.starts_with(SYSTEM));
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let keep = write.old.map(|old| ours(&old.value)).unwrap_or_default();
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Some(all) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        all.retain(|name, _| !name.starts_with(SYSTEM));
        all.extend(keep);
    } else if !keep.is_empty() {
        metadata.insert("annotations".into(), Value::Object(keep));
    }
}
