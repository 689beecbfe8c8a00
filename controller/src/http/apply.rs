//! Server-side apply, in a simple form.
//!
//! Each field manager's last applied fields are kept in `metadata.managedFields`, as Kubernetes
//! does. Applying sets the manager's fields, removes those that it applied before and no longer
//! does, and is refused (409) when it would change a field that another manager applied, unless
//! forced; with force the field changes hands.
//!
//! What is simple about it: only what was *applied* is tracked, so fields written by update or
//! merge patch belong to nobody; lists are owned whole (all of our lists are atomic).

use super::ApiError;
use holdfast_api::meta::API_VERSION;
use holdfast_api::resources::Kind;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Path of a leaf: names of fields from the top.
type Path = Vec<String>;

/// What becomes of `old` when `manager` applies `config`.
pub(super) fn apply(
    kind: Kind,
    name: &str,
    old: &Value,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    let mut config = config.clone();
    let version = config.pointer("/metadata/resourceVersion").cloned();
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.retain(|field, _| matches!(field.as_str(), "labels" | "annotations"));
    }
    for field in ["apiVersion", "kind", "status"] {
        if let Some(map) = config.as_object_mut() {
            map.remove(field);
        }
    }
    let wanted = leaves(&config);
    let mut owners = read_owners(old);
    let mut conflicts = Vec::new();
    for (owner, fields) in owners.iter_mut().filter(|(owner, _)| owner.as_str() != manager) {
        let clash: Vec<Path> = fields
            .iter()
            .filter(|path| wanted.contains(*path) && at(old, path) != at(&config, path))
            .cloned()
            .collect();
        for path in clash {
            fields.remove(&path);
            conflicts.push((owner.clone(), path.join(".")));
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(ApiError::apply_conflict(kind, name, conflicts));
    }
    let mut value = old.clone();
    let before = owners.remove(manager).unwrap_or_default();
    for path in before.difference(&wanted) {
        if !owners.values().any(|fields| fields.contains(path)) {
            remove(&mut value, path);
        }
    }
    super::patch::merge(&mut value, &config);
    owners.insert(manager.to_owned(), wanted);
    // Applying the same again must not even touch the time.
    if read_owners(old) != owners {
        value["metadata"]["managedFields"] = write_owners(&owners);
    }
    if let Some(version) = version {
        value["metadata"]["resourceVersion"] = version;
    }
    Ok(value)
}

/// Every value that is not an object (or an empty one), by its path.
fn leaves(value: &Value) -> BTreeSet<Path> {
    fn walk(value: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
        match value.as_object().filter(|map| !map.is_empty()) {
            Some(map) => {
                for (name, value) in map {
                    path.push(name.clone());
                    walk(value, path, out);
                    path.pop();
                }
            }
            None => {
                // An empty spec is there anyway.
                if path.len() > 1 || (path.len() == 1 && !value.is_object()) {
                    out.insert(path.clone());
                }
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(value, &mut Vec::new(), &mut out);
    out
}

fn at<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// Removes a leaf, and the objects above it that it leaves empty, but for the topmost: an object
/// always has its metadata and spec.
fn remove(value: &mut Value, path: &[String]) {
    if let [top, rest @ ..] = path
        && let Some(inner) = value.get_mut(top)
    {
        prune(inner, rest);
    }
}

fn prune(value: &mut Value, path: &[String]) {
    let ([name, rest @ ..], Some(map)) = (path, value.as_object_mut()) else { return };
    if let Some(inner) = map.get_mut(name) {
        prune(inner, rest);
        if rest.is_empty() || inner.as_object().is_some_and(Map::is_empty) {
            map.remove(name);
        }
    }
}

fn read_owners(object: &Value) -> BTreeMap<String, BTreeSet<Path>> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let applied = entries.into_iter().flatten().filter(|entry| entry["operation"] == "Apply");
    let owner = |entry: &Value| {
        let mut fields = BTreeSet::new();
        read_fields(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
        Some((entry["manager"].as_str()?.to_owned(), fields))
    };
    applied.filter_map(owner).collect()
}

/// FieldsV1: nested objects, each field's name behind `f:`, an empty object for a leaf.
fn read_fields(value: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
    let Some(map) = value.as_object() else { return };
    if map.is_empty() && !path.is_empty() {
        out.insert(path.clone());
    }
    for (name, inner) in map {
        if let Some(name) = name.strip_prefix("f:") {
            path.push(name.to_owned());
            read_fields(inner, path, out);
            path.pop();
        }
    }
}

fn write_owners(owners: &BTreeMap<String, BTreeSet<Path>>) -> Value {
    let now = crate::fleet::seconds(jiff::Timestamp::now());
    let entry = |(manager, fields): (&String, &BTreeSet<Path>)| {
        let mut tree = json!({});
        for path in fields {
            let mut place = &mut tree;
            for name in path {
                place = &mut place[format!("f:{name}")];
            }
            *place = json!({});
        }
        json!({
            "manager": manager, "operation": "Apply", "apiVersion": API_VERSION, "time": now,
            "fieldsType": "FieldsV1", "fieldsV1": tree,
        })
    };
    owners.iter().filter(|(_, fields)| !fields.is_empty()).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(spec: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": {}}, "spec": spec})
    }

    fn run(old: &Value, spec: Value, manager: &str, force: bool) -> Result<Value, ApiError> {
        apply(Kind::Site, "a", old, &site(spec), manager, force)
    }

    #[test]
    fn what_a_manager_no_longer_applies_is_removed() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"prefix": "10.0.0.0/24"}});
        let one =
            run(&old, json!({"place": {"region": "eu", "address": "x"}}), "m", false).unwrap();
        assert_eq!(
            one["spec"],
            json!({"prefix": "10.0.0.0/24", "place": {"region": "eu", "address": "x"}})
        );
        let two = run(&one, json!({"place": {"region": "eu"}}), "m", false).unwrap();
        assert_eq!(two["spec"], json!({"prefix": "10.0.0.0/24", "place": {"region": "eu"}}));
        let three = run(&two, json!({}), "m", false).unwrap();
        assert_eq!(three["spec"], json!({"prefix": "10.0.0.0/24"}));
    }

    #[test]
    fn two_managers_conflict_until_one_forces() {
        let old = json!({"metadata": {"name": "a"}, "spec": {}});
        let one = run(&old, json!({"place": {"region": "eu"}}), "m", false).unwrap();
        run(&one, json!({"place": {"region": "eu"}}), "n", false)
            .expect("the same value is no conflict");
        let error = run(&one, json!({"place": {"region": "us"}}), "n", false).unwrap_err();
        assert_eq!(
            (error.code(), error.status().details.unwrap().causes[0].field.as_str()),
            (409, ".spec.place.region")
        );
        let two = run(&one, json!({"place": {"region": "us"}}), "n", true).unwrap();
        let three = run(&two, json!({}), "m", false).unwrap();
        assert_eq!(three["spec"]["place"]["region"], "us", "it changed hands");
    }
}
