//! Labels and taints of a node's own Node after it has joined: k3s sets labels when it starts and
//! never takes one away, and taints only when the node joins (docs.k3s.io, "k3s agent").
//!
//! What is ours is written into two annotations of the Node, so that what others put there stays.
//! Taints need the rights of a server: the admission plugin NodeRestriction keeps a kubelet from
//! changing its own (kubernetes.io, "Admission Controllers").

use crate::distribution::NodeWants;
use crate::kubernetes::{Api, ApiError};
use crate::object::ObjectId;
use holdfast_api::marks::{NODE_LABELS_ANNOTATION, NODE_TAINTS_ANNOTATION};
use hw_profiles::profile::Taint;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a Node shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints; none when we may not change them.
    pub taints: Option<BTreeSet<Taint>>,
}

impl Marks {
    /// What `wants` says, as far as the node may do it itself.
    pub fn of(wants: &NodeWants) -> Self {
        Marks {
            labels: wants.labels.clone(),
            taints: wants.role.is_server().then(|| wants.taints.clone()),
        }
    }
}

/// Brings the Node `name` to `want`. True when something was changed.
///
/// # Errors
/// The API server does not answer, or refuses; a Node that somebody else changed at the same
/// moment is left for the next time.
pub async fn keep(api: &Api, name: &str, want: &Marks) -> Result<bool, ApiError> {
    let id = ObjectId {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: None,
        name: name.to_owned(),
    };
    let Some(node) = api.get(&id).await? else { return Ok(false) };
    let Some(patch) = plan(&node, want) else { return Ok(false) };
    api.patch(&id, &patch).await?;
    Ok(true)
}

/// A JSON merge patch (RFC 7386) that brings `node` to `want`; none when nothing is to be done.
pub fn plan(node: &Value, want: &Marks) -> Option<Value> {
    let metadata = &node["metadata"];
    let mut labels = Map::new();
    for gone in remembered(metadata, NODE_LABELS_ANNOTATION) {
        let is_there = !metadata["labels"][gone].is_null();
        if is_there && !want.labels.contains_key(gone) {
            labels.insert(gone.to_owned(), Value::Null);
        }
    }
    for (key, value) in &want.labels {
        if metadata["labels"][key].as_str() != Some(value) {
            labels.insert(key.clone(), json!(value));
        }
    }
    let mut annotations = Map::new();
    let keys = want.labels.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    note(&mut annotations, metadata, NODE_LABELS_ANNOTATION, &keys);
    let taints = want.taints.as_ref().and_then(|want| {
        let keys = want.iter().map(key_of).collect::<Vec<_>>().join(",");
        note(&mut annotations, metadata, NODE_TAINTS_ANNOTATION, &keys);
        tainted(node, want)
    });
    if labels.is_empty() && annotations.is_empty() && taints.is_none() {
        return None;
    }
    let mut patch = json!({ "metadata": {
        // Taints are one list, which somebody else may change at the same moment.
        "resourceVersion": metadata["resourceVersion"],
        "labels": labels,
        "annotations": annotations,
    }});
    if let Some(taints) = taints {
        patch["spec"] = json!({ "taints": taints });
    }
    Some(patch)
}

/// The whole list, when it has to be another one.
fn tainted(node: &Value, want: &BTreeSet<Taint>) -> Option<Vec<Value>> {
    let have = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let ours: BTreeSet<&str> = remembered(&node["metadata"], NODE_TAINTS_ANNOTATION).collect();
    let key = |taint: &Value| {
        format!(
            "{}:{}",
            taint["key"].as_str().unwrap_or_default(),
            taint["effect"].as_str().unwrap_or_default()
        )
    };
    let wanted: BTreeMap<String, &Taint> =
        want.iter().map(|taint| (key_of(taint), taint)).collect();
    let mut next: Vec<Value> = have
        .iter()
        .filter(|taint| wanted.contains_key(&key(taint)) || !ours.contains(key(taint).as_str()))
        .cloned()
        .collect();
    for (name, taint) in wanted {
        let is_so = |have: &Value| have["value"].as_str().unwrap_or_default() == taint.value;
        match next.iter_mut().find(|have| key(have) == name) {
            Some(have) if is_so(have) => {}
            Some(have) => have["value"] = json!(taint.value),
            None => {
                next.push(json!({ "key": taint.key, "value": taint.value, "effect": taint.effect }))
            }
        }
    }
    (next != have).then_some(next)
}

/// Kubernetes tells taints apart by key and effect.
fn key_of(taint: &Taint) -> String {
    format!("{}:{}", taint.key, taint.effect)
}

fn remembered<'a>(metadata: &'a Value, annotation: &str) -> impl Iterator<Item = &'a str> {
    let text = metadata["annotations"][annotation].as_str().unwrap_or_default();
    text.split(',').filter(|key| !key.is_empty())
}

fn note(annotations: &mut Map<String, Value>, metadata: &Value, name: &str, keys: &str) {
    if metadata["annotations"][name].as_str().unwrap_or_default() != keys {
        annotations.insert(name.to_owned(), json!(keys));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an API server makes of a merge patch of a Node.
    fn patched(node: &Value, patch: &Value) -> Value {
        let mut node = node.clone();
        merge(&mut node, patch);
        node
    }

    fn merge(into: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else {
            *into = patch.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in fields {
            if value.is_null() {
                into.as_object_mut().unwrap().remove(key);
            } else {
                merge(&mut into[key], value);
            }
        }
    }

    fn marks() -> impl Strategy<Value = Marks> {
        let labels = prop::collection::btree_map("[a-c]", "[x-y]?", 0..4);
        let taint = ("[a-c]", "[x-y]?", prop::sample::select(vec!["NoSchedule", "NoExecute"]));
        let taints = prop::collection::btree_map("[a-c]", taint, 0..4);
        (labels, taints).prop_map(|(labels, taints)| {
            // Keys and effects are told apart in `NodeWants` too.
            let taints: BTreeMap<(String, &str), Taint> = taints
                .into_values()
                .map(|(key, value, effect)| {
                    let text = format!("{key}={value}:{effect}");
                    ((key, effect), text.parse().unwrap())
                })
                .collect();
            Marks { labels, taints: Some(taints.into_values().collect()) }
        })
    }

    fn foreign() -> Value {
        json!({
            "metadata": { "resourceVersion": "7", "labels": { "theirs": "1" } },
            "spec": { "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }] },
        })
    }

    proptest! {
        /// Whatever was wanted one after the other: the Node has what is wanted now and what
        /// others put there, nothing of before, and then nothing is to be done.
        #[test]
        fn a_node_follows_what_is_wanted_and_keeps_what_is_not_ours(
            wishes in prop::collection::vec(marks(), 1..5),
        ) {
            let mut node = foreign();
            for want in &wishes {
                if let Some(patch) = plan(&node, want) {
                    prop_assert_eq!(&patch["metadata"]["resourceVersion"], "7");
                    node = patched(&node, &patch);
                }
                prop_assert_eq!(plan(&node, want), None);
            }
            let last = wishes.last().unwrap();
            let mut labels = last.labels.clone();
            labels.insert("theirs".into(), "1".into());
            prop_assert_eq!(&node["metadata"]["labels"], &json!(labels));
            let taints = node["spec"]["taints"].as_array().unwrap();
            prop_assert_eq!(taints.len(), 1 + last.taints.as_ref().unwrap().len());
            prop_assert_eq!(&taints[0], &foreign()["spec"]["taints"][0]);
        }
    }

    #[test]
    fn a_taint_that_the_node_joined_with_is_ours_from_then_on() {
        let taint = json!({ "key": "a", "value": "x", "effect": "NoSchedule" });
        let mut node = foreign();
        node["spec"]["taints"].as_array_mut().unwrap().push(taint.clone());
        let want = |text: &[&str]| Marks {
            taints: Some(text.iter().map(|text| text.parse().unwrap()).collect()),
            ..Marks::default()
        };
        let patch = plan(&node, &want(&["a=x:NoSchedule"])).unwrap();
        assert!(patch.get("spec").is_none(), "{patch}");
        let node = patched(&node, &patch);
        let patch = plan(&node, &want(&[])).unwrap();
        assert_eq!(patch["spec"]["taints"], foreign()["spec"]["taints"]);
    }

    #[test]
    fn who_may_not_change_taints_leaves_them() {
        let mut node = foreign();
        node["metadata"]["annotations"][NODE_TAINTS_ANNOTATION] = json!("a:NoSchedule");
        assert_eq!(plan(&node, &Marks::default()), None);
    }
}
