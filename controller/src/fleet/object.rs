//! Writing objects: what every write has to see to, whoever it comes from.

use crate::store::{Key, Shared, Tx};
use holdfast_api::meta::API_VERSION;
use serde_json::{Map, Value, json};

/// Writes `value` at `key`: makes uid, creation time and generation of a new object, keeps those of
/// an old one and counts the generation when `spec` changed.
pub fn save(tx: &mut Tx<'_>, key: Key, mut value: Value, hidden: Option<String>) -> Shared {
    let old = tx.get(&key);
    value["apiVersion"] = API_VERSION.into();
    value["kind"] = key.kind.name().into();
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(Map::new());
    }
    let metadata = &mut value["metadata"];
    metadata["name"] = key.name.clone().into();
    if key.kind.namespaced() {
        metadata["namespace"] = key.namespace.clone().into();
    }
    match &old {
        None => {
            metadata["uid"] = uid().into();
            metadata["creationTimestamp"] = seconds(tx.now()).into();
            metadata["generation"] = 1.into();
        }
        Some(old) => {
            for name in ["uid", "creationTimestamp", "generation"] {
                metadata[name] = old.value["metadata"][name].clone();
            }
            // However often a transaction writes an object, others see one change of it.
            match tx.before(&key) {
                _ if !tx.wrote(&key) => count(&mut value, old),
                Some(before) => count(&mut value, &before),
                None => {}
            }
        }
    }
    let hidden = hidden.or_else(|| old.and_then(|old| old.hidden.clone()));
    tx.put(key, value, hidden)
}

fn count(value: &mut Value, before: &Shared) {
    let generation = before.value["metadata"]["generation"].as_i64().unwrap_or(0);
    let changed = value.get("spec") != before.value.get("spec");
    value["metadata"]["generation"] = (generation + i64::from(changed)).into();
}

/// Replaces one field of an object's spec, and nothing else of it.
pub(super) fn set_field(tx: &mut Tx<'_>, entry: &Shared, field: &str, new: Value) {
    let mut value = entry.value.clone();
    value["spec"][field] = new;
    save(tx, entry.key.clone(), value, None);
}

/// Writes an object whose spec and status are known whole, keeping the metadata there is, and what
/// is hidden of it when nothing is given.
pub(super) fn write(
    tx: &mut Tx<'_>,
    key: Key,
    labels: &[(&str, &str)],
    spec: Value,
    status: Option<Value>,
    hidden: Option<String>,
) -> Shared {
    let mut value = tx.get(&key).map_or_else(|| json!({}), |old| old.value.clone());
    value["spec"] = spec;
    if let Some(status) = status {
        value["status"] = status;
    }
    for (name, label) in labels {
        value["metadata"]["labels"][name] = (*label).into();
    }
    save(tx, key, value, hidden)
}

/// Sets or (with an empty text) removes an annotation.
pub(super) fn annotate(value: &mut Value, name: &str, text: &str) {
    if !text.is_empty() {
        value["metadata"]["annotations"][name] = text.into();
    } else if let Some(all) =
        value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        all.remove(name);
    }
}

/// As JSON. The types here have text keys only, which serde_json never refuses.
pub(super) fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Kubernetes writes times to the second.
pub(crate) fn seconds(time: jiff::Timestamp) -> String {
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}

/// A random UUID (RFC 9562 §5.4).
fn uid() -> String {
    let mut bytes: [u8; 16] = crate::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = holdfast_api::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
