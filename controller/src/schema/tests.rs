//! The schema against the types: what one knows, the other knows.

use super::*;
use holdfast_api::resources::Kind;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Every object that the schema can describe, with every field in it.
fn full(schema: &Schema) -> Value {
    match schema {
        Schema::Text => "text".into(),
        Schema::Bool => true.into(),
        Schema::Int(low, _) => (*low).max(1).into(),
        Schema::Enum(words) => words[0].into(),
        Schema::Format(Format::Time) => "2026-01-02T03:04:05Z".into(),
        Schema::Format(Format::Ip) => "192.0.2.1".into(),
        Schema::Format(Format::Prefix) => "192.0.2.0/24".into(),
        Schema::Format(Format::Socket) => "192.0.2.1:1".into(),
        Schema::Format(Format::WireguardKey) => {
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into()
        }
        Schema::List(item) => json!([full(item)]),
        Schema::Map(item) => json!({"key": full(item)}),
        Schema::Object(fields) => {
            Value::Object(fields.iter().map(|f| (f.name.to_owned(), full(f.schema))).collect())
        }
        Schema::Any => Value::Null,
    }
}

fn round_trip(kind: Kind, value: &Value) -> Value {
    use holdfast_api::resources as r;
    fn through<T: serde::de::DeserializeOwned + serde::Serialize>(value: &Value) -> Value {
        let typed: T =
            serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
        serde_json::to_value(typed).unwrap()
    }
    match kind {
        Kind::Token => through::<r::Token>(value),
        Kind::Registration => through::<r::Registration>(value),
        Kind::Site => through::<r::Site>(value),
        Kind::NodeConfig => through::<r::NodeConfig>(value),
        Kind::NodeStatus => through::<r::NodeStatus>(value),
        Kind::RegionalEdge => through::<r::RegionalEdge>(value),
        Kind::Release => through::<r::Release>(value),
        Kind::TunnelPeer => through::<r::TunnelPeer>(value),
    }
}

/// Fields that only some variants of a tagged enum have.
const OF_VARIANTS: &[&str] = &["parent", "id", "mode", "peer"];

fn same_fields(path: &str, schema: &Value, typed: &Value) {
    match (schema, typed) {
        (Value::Object(schema), Value::Object(typed)) => {
            for (name, value) in schema {
                let path = format!("{path}.{name}");
                match typed.get(name) {
                    Some(other) => same_fields(&path, value, other),
                    None => assert!(
                        value.is_null()
                            || path.contains(".make.") && OF_VARIANTS.contains(&name.as_str()),
                        "{path}: the type does not know it"
                    ),
                }
            }
            // Null is nothing.
            for (name, _) in typed.iter().filter(|(_, value)| !value.is_null()) {
                assert!(schema.contains_key(name), "{path}.{name}: the schema does not know it");
            }
        }
        (Value::Array(schema), Value::Array(typed)) => {
            schema.iter().zip(typed).for_each(|(s, t)| same_fields(path, s, t));
        }
        _ => {}
    }
}

#[test]
fn schema_and_types_know_the_same_fields() {
    for kind in Kind::ALL.iter().copied() {
        let mut object = json!({
            "apiVersion": holdfast_api::meta::API_VERSION, "kind": kind.name(), "metadata": {"name": "a"},
            "spec": full(spec_of(kind)), "status": full(status_of(kind)),
        });
        match kind {
            Kind::NodeStatus => {
                object["status"]["items"] = json!([]);
                object["status"]["stage"] = "Online".into();
                object["status"]["reason"] = "token.expired".into();
                object["status"].as_object_mut().unwrap().remove("tunnels");
                object["status"].as_object_mut().unwrap().remove("kubernetes");
            }
            Kind::Registration => {}
            _ => {}
        }
        let report = check(kind, &mut object);
        assert_eq!(report, Report::default(), "{kind:?}");
        let typed = round_trip(kind, &object);
        same_fields(kind.name(), &object, &typed);
        // And the other way: what the type writes by default is nothing unknown.
        let mut small = json!({"metadata": {"name": "a"}});
        if kind == Kind::Registration {
            small["spec"] = json!({"csr": "x"});
        }
        check(kind, &mut small);
        let mut default = round_trip(kind, &small);
        assert_eq!(check(kind, &mut default).unknown, Vec::<String>::new(), "{kind:?}");
    }
}

#[test]
fn wrong_and_unknown_fields_are_named_with_their_path() {
    let mut site = json!({
        "metadata": {"name": 5, "labels": {"a": 1}, "later": 1}, "extra": 1,
        "spec": {"prefix": null, "hosts": [{"address": "x", "nmes": []}], "edges": {"bfd": {"intervalMs": 5}}, "sysctls": []},
    });
    let report = check(Kind::Site, &mut site);
    let fields: Vec<&str> = report.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "metadata.labels.a",
            "spec.edges.bfd.intervalMs",
            "spec.edges.bfd.multiplier",
            "spec.hosts[0].address",
            "spec.hosts[0].names",
            "spec.sysctls",
        ]
    );
    assert_eq!(report.unknown, ["extra", "metadata.later", "spec.hosts[0].nmes"]);
    assert_eq!(site["spec"].get("prefix"), None, "null is nothing");
    assert_eq!(report.errors[3].reason, "FieldValueRequired");
}

proptest! {
    /// Whatever comes, there is an answer; and what passed once passes again unchanged.
    #[test]
    fn any_json_is_answered(text in "[\\[\\]{}\":,a-z0-9 ]{0,60}", name in "[a-z]{0,8}") {
        let junk: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        for kind in Kind::ALL.iter().copied() {
            let mut object = json!({"metadata": {name.clone(): junk}, "spec": {name.clone(): junk}, "status": junk});
            if check(kind, &mut object).errors.is_empty() {
                let mut again = object.clone();
                prop_assert_eq!(check(kind, &mut again), Report::default());
                prop_assert_eq!(again, object);
            }
        }
    }
}
