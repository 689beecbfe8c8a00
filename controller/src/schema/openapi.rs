//! The kinds as OpenAPI schemas.

use super::{Schema, doc_of, spec_of, status_of};
use holdfast_api::meta::{GROUP, VERSION};
use holdfast_api::resources::Kind;
use serde_json::{Map, Value, json};

/// Name of a kind's definition.
pub fn definition(kind: Kind) -> String {
    format!("dev.holdfast.fleet.{VERSION}.{}", kind.name())
}

/// The whole object as a JSON schema that both OpenAPI 2 and 3 understand.
pub fn json_schema(kind: Kind) -> Value {
    let text = |doc: &str| json!({"type": "string", "description": doc});
    let mut properties = json!({
        "apiVersion": text("Version of this form of the object."),
        "kind": text("Name of the kind."),
        "metadata": {"type": "object", "description": "Standard object's metadata.",
            "x-kubernetes-preserve-unknown-fields": true},
    });
    properties["spec"] = described(spec_of(kind), "What is asked for.");
    properties["status"] = described(status_of(kind), "What is.");
    json!({
        "type": "object",
        "description": doc_of(kind),
        "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": kind.name()}],
    })
}

fn described(schema: &Schema, doc: &str) -> Value {
    let mut value = of(schema);
    value["description"] = doc.into();
    value
}

fn of(schema: &Schema) -> Value {
    match schema {
        Schema::Text => json!({"type": "string"}),
        Schema::Bool => json!({"type": "boolean"}),
        Schema::Int(low, high) => {
            json!({"type": "integer", "format": "int64", "minimum": low, "maximum": high})
        }
        Schema::Enum(words) => json!({"type": "string", "enum": words}),
        Schema::Format(format) => json!({"type": "string", "format": format.name()}),
        Schema::List(item) => json!({"type": "array", "items": of(item)}),
        Schema::Map(item) => json!({"type": "object", "additionalProperties": of(item)}),
        Schema::Object(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|field| (field.name.to_owned(), described(field.schema, field.doc)))
                .collect();
            let required: Vec<&str> =
                fields.iter().filter(|field| field.required).map(|field| field.name).collect();
            let mut object = json!({"type": "object", "properties": properties});
            if !required.is_empty() {
                object["required"] = json!(required);
            }
            object
        }
        Schema::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
    }
}
