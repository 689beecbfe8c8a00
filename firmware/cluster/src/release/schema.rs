//! Custom resources against the definition that comes with them, before either is in the cluster.
//!
//! Checked is what typing errors break: fields that the schema does not have, required ones that
//! are missing, values of another type or not among those allowed (Kubernetes docs, "Extend the
//! Kubernetes API with CustomResourceDefinitions", structural schemas). Patterns, bounds and
//! validation rules are the API server's to check, when the resource is applied.

use super::model::{Release, group};
use crate::object::{Object, ObjectId};
use serde_json::Value;
use std::fmt;

/// A field that does not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Its path, such as `spec.ports[0].name`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// The definition that the release brings for objects like `id`.
pub fn definition<'a>(release: &'a Release, id: &ObjectId) -> Option<&'a Object> {
    let wanted = (group(&id.api_version), id.kind.as_str());
    release.items.iter().map(|item| &item.object).find(|object| {
        let spec = &object.value["spec"];
        object.id.kind == "CustomResourceDefinition"
            && (spec["group"].as_str(), spec["names"]["kind"].as_str())
                == (Some(wanted.0), Some(wanted.1))
    })
}

/// Compares an object with its definition.
///
/// # Errors
/// The first misfit.
pub fn check(definition: &Object, object: &Object) -> Result<(), Misfit> {
    let spec = &definition.value["spec"];
    let api_version = &object.id.api_version;
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    let Some(served) = versions(spec).find(|one| one["name"] == version) else {
        let problem = format!("{} does not have the version {version}", definition.id);
        return Err(Misfit { field: "apiVersion".into(), problem });
    };
    if served["served"] == false {
        let problem = format!("{} does not serve the version {version}", definition.id);
        return Err(Misfit { field: "apiVersion".into(), problem });
    }
    // `v1beta1` keeps a schema for all versions, and keeps unknown fields unless told otherwise.
    let (common, kept) = (&spec["validation"]["openAPIV3Schema"], &spec["preserveUnknownFields"]);
    let schema = match &served["schema"]["openAPIV3Schema"] {
        Value::Null => common,
        schema => schema,
    };
    let is_old = definition.id.api_version.ends_with("/v1beta1");
    let is_open = *kept == true || (is_old && *kept != false);
    let Value::Object(fields) = &object.value else { return Ok(()) };
    for (name, value) in fields {
        if ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        match &schema["properties"][name] {
            Value::Null if is_open || allows_unknown(schema) => {}
            Value::Null => return Err(unknown(name)),
            inner => fits(inner, value, name, is_open)?,
        }
    }
    required(schema, &object.value, "")
}

fn versions(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["versions"].as_array().into_iter().flatten()
}

fn unknown(field: &str) -> Misfit {
    Misfit { field: field.into(), problem: "the definition has no such field".into() }
}

fn allows_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-embedded-resource"] == true
        || !matches!(schema["additionalProperties"], Value::Null | Value::Bool(false))
}

fn fits(schema: &Value, value: &Value, field: &str, is_open: bool) -> Result<(), Misfit> {
    let misfit = |problem: String| Err(Misfit { field: field.into(), problem });
    if value.is_null() {
        // What is null and not nullable is dropped by the API server.
        return Ok(());
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return match value {
            Value::Number(_) | Value::String(_) => Ok(()),
            _ => misfit("must be a number or a text".into()),
        };
    }
    let is_right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    };
    if !is_right {
        return misfit(format!("must be of type {}", schema["type"].as_str().unwrap_or_default()));
    }
    if let Value::Array(allowed) = &schema["enum"]
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        return misfit(format!("must be one of {}", allowed.join(", ")));
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{field}.{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, inner @ Value::Object(_)) => fits(inner, value, &path, is_open)?,
                    (Value::Null, _) if is_open || allows_unknown(schema) => {}
                    (Value::Null, _) => return Err(unknown(&path)),
                    (inner, _) => fits(inner, value, &path, is_open)?,
                }
            }
            required(schema, value, &format!("{field}."))
        }
        Value::Array(entries) => {
            let inner = &schema["items"];
            let mut entries = entries.iter().enumerate();
            entries.try_for_each(|(at, one)| fits(inner, one, &format!("{field}[{at}]"), is_open))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn required(schema: &Value, value: &Value, prefix: &str) -> Result<(), Misfit> {
    let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // A default stands in for what is missing.
    let mut missing = names.filter(|name| {
        value.get(name).is_none() && schema["properties"][name].get("default").is_none()
    });
    match missing.next() {
        None => Ok(()),
        Some(name) => {
            Err(Misfit { field: format!("{prefix}{name}"), problem: "is missing".into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Origin;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(api_version: &str, kind: &str, value: Value) -> Object {
        let id = ObjectId {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: None,
            name: "a".into(),
        };
        Object { id, origin: Origin::default(), value }
    }

    fn gadgets() -> Object {
        object(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"spec": {
                "group": "x.example", "names": {"kind": "Gadget"},
                "versions": [
                    {"name": "v1", "served": true, "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {"spec": {
                            "type": "object",
                            "required": ["size", "mode"],
                            "properties": {
                                "size": {"type": "integer"},
                                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                                "port": {"x-kubernetes-int-or-string": true},
                                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                                "parts": {"type": "array", "items": {
                                    "type": "object", "properties": {"name": {"type": "string"}}}},
                            },
                        }},
                    }}},
                    {"name": "v0", "served": false},
                ],
            }}),
        )
    }

    fn says(spec: Value) -> String {
        let gadget = object("x.example/v1", "Gadget", json!({"metadata": {}, "spec": spec}));
        check(&gadgets(), &gadget).map_or_else(|misfit| misfit.to_string(), |()| "fits".into())
    }

    #[test]
    fn fields_are_found_by_their_path() {
        let whole = json!({"size": 1, "port": "http", "tags": {"a": "b"}, "free": {"a": [1]},
            "parts": [{"name": "x"}], "mode": "b"});
        assert_eq!(says(whole), "fits");
        assert_eq!(
            says(json!({"size": 1, "siez": 2})),
            "spec.siez: the definition has no such field"
        );
        assert_eq!(says(json!({"size": "1"})), "spec.size: must be of type integer");
        assert_eq!(says(json!({"size": 1, "mode": "c"})), r#"spec.mode: must be one of "a", "b""#);
        assert_eq!(says(json!({"mode": "a"})), "spec.size: is missing");
        assert_eq!(
            says(json!({"size": 1, "tags": {"a": 1}})),
            "spec.tags.a: must be of type string"
        );
        assert_eq!(
            says(json!({"size": 1, "parts": [{}, {"nmae": "x"}]})),
            "spec.parts[1].nmae: the definition has no such field"
        );
    }

    #[test]
    fn versions_have_to_be_served() {
        for (version, problem) in [("v0", "does not serve"), ("v2", "does not have")] {
            let gadget = object(&format!("x.example/{version}"), "Gadget", json!({}));
            let misfit = check(&gadgets(), &gadget).unwrap_err();
            assert_eq!(misfit.field, "apiVersion");
            assert!(misfit.problem.contains(problem), "{misfit}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof![
                Just("type".to_owned()),
                Just("properties".to_owned()),
                Just("required".to_owned()),
                Just("items".to_owned()),
                "[a-c]",
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Definitions come from outside as well.
        #[test]
        fn no_schema_and_no_value_makes_it_panic(schema in any_json(), value in any_json()) {
            let _any = fits(&schema, &value, "spec", false);
        }
    }
}
