//! Which images a release needs: those of every pod that its objects make, and those that it
//! names in [`PRE_PULL_ANNOTATION`].

use crate::images::Reference;
use crate::object::Object;
use holdfast_api::marks::PRE_PULL_ANNOTATION;
use serde_json::Value;
use std::collections::BTreeSet;

/// Lists in a pod's spec whose entries have an `image`.
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The images of all `objects`, named in full, sorted, each once.
///
/// A pod's spec is found by its shape wherever it stands in an object (a mapping with a list
/// `containers`), so custom resources with a pod template count like any workload.
pub fn images<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<String> {
    objects.into_iter().flat_map(named_in).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The same of one object; what is no name is as it was written.
pub(super) fn named_in(object: &Object) -> BTreeSet<String> {
    let named = object.annotation(PRE_PULL_ANNOTATION).unwrap_or_default();
    let named = named.split(|c: char| c == ',' || c.is_whitespace());
    let mut found: BTreeSet<String> = named.filter(|name| !name.is_empty()).map(in_full).collect();
    // A definition's schema has fields of the same names, which hold no images.
    if object.id.kind != "CustomResourceDefinition" {
        collect(&object.value, &mut found);
    }
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if fields.get("containers").is_some_and(Value::is_array) {
                let lists = CONTAINER_LISTS.iter().filter_map(|name| fields.get(*name)?.as_array());
                let images = lists.flatten().filter_map(|entry| entry.get("image")?.as_str());
                found.extend(images.filter(|image| !image.trim().is_empty()).map(in_full));
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(entries) => entries.iter().for_each(|value| collect(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The name in full, as the container runtime keeps it; one that is no name as it is written, so
/// that whoever pulls it tells what is wrong with it.
fn in_full(name: &str) -> String {
    let name = name.trim();
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ObjectId, Origin};
    use proptest::prelude::*;
    use serde_json::json;

    fn object(kind: &str, value: Value) -> Object {
        let id = ObjectId {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: None,
            name: "a".into(),
        };
        Object { id, origin: Origin::default(), value }
    }

    #[test]
    fn what_is_no_name_stays_as_it_is_written() {
        assert_eq!(in_full(" nginx "), "docker.io/library/nginx:latest");
        assert_eq!(in_full(" app@sha256:00 "), "app@sha256:00");
    }

    proptest! {
        #[test]
        fn a_name_in_full_stays_as_it_is(name in "[a-z.:/@A-Z0-9-]{1,40}") {
            let full = in_full(&name);
            prop_assert_eq!(in_full(&full), full);
        }
    }

    #[test]
    fn every_kind_of_container_of_any_kind_of_object_counts() {
        let template = json!({"spec": {
            "containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}],
            "initContainers": [{"image": "init:1"}],
            "ephemeralContainers": [{"image": "look:1"}],
        }});
        let deployment = object("Deployment", json!({"spec": {"template": template}}));
        let cron = object(
            "CronJob",
            json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "cron:1"}]}}}}}}),
        );
        let named = object(
            "ConfigMap",
            json!({"metadata": {"annotations": {PRE_PULL_ANNOTATION: "x:1, y:1\n a:1,"}}}),
        );
        let definition =
            object("CustomResourceDefinition", json!({"containers": [{"image": "no:1"}]}));
        assert_eq!(
            images([&deployment, &cron, &named, &definition]),
            ["a:1", "b:1", "cron:1", "init:1", "look:1", "x:1", "y:1"]
                .map(|name| format!("docker.io/library/{name}"))
        );
    }
}
