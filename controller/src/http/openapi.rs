//! OpenAPI documents, made from the kinds' schemas.

use super::body::{self, Answer};
use super::openapi_proto;
use crate::schema;
use holdfast_api::meta::{GROUP, VERSION};
use holdfast_api::resources::Kind;
use serde_json::{Map, Value, json};

fn definitions() -> Map<String, Value> {
    Kind::ALL.iter().map(|kind| (schema::definition(*kind), schema::json_schema(*kind))).collect()
}

fn collection_path(kind: Kind) -> String {
    let middle = if kind.namespaced() { "/namespaces/{namespace}" } else { "" };
    format!("/apis/{GROUP}/{VERSION}{middle}/{}", kind.plural())
}

fn info() -> Value {
    json!({"title": "Holdfast", "version": env!("CARGO_PKG_VERSION")})
}

/// Operations of an object: kubectl looks here whether a kind can be patched and dry-run.
fn paths(reference: impl Fn(Kind) -> Value) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in Kind::ALL.iter().copied() {
        let gvk = json!({"group": GROUP, "version": VERSION, "kind": kind.name()});
        let operation = |verb: &str, action: &str| {
            json!({
                "operationId": format!("{verb}{}", kind.name()),
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk,
                "responses": {"200": {"description": "OK", "content": reference(kind)}},
                "parameters": [
                    {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
                    {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
                ],
            })
        };
        let path = collection_path(kind);
        paths.insert(
            path.clone(),
            json!({"get": operation("list", "list"), "post": operation("create", "post")}),
        );
        paths.insert(
            format!("{path}/{{name}}"),
            json!({
                "get": operation("read", "get"), "put": operation("replace", "put"),
                "patch": operation("patch", "patch"), "delete": operation("delete", "delete"),
            }),
        );
    }
    paths
}

/// `/openapi/v2`.
pub(super) fn v2() -> Value {
    json!({
        "swagger": "2.0", "info": info(), "paths": {},
        "definitions": definitions(),
    })
}

/// `/openapi/v3`.
pub(super) fn v3_index() -> Value {
    let path = format!("apis/{GROUP}/{VERSION}");
    let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
    json!({"paths": {path: {"serverRelativeURL": url}}})
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub(super) fn v3() -> Value {
    let content = |kind| {
        let reference = format!("#/components/schemas/{}", schema::definition(kind));
        json!({"application/json": {"schema": {"$ref": reference}}})
    };
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths(content),
        "components": {"schemas": definitions()},
    })
}

/// `/openapi/v2` in the form that the client asks for.
pub(super) fn v2_answer(accept: Option<&str>) -> Answer {
    let wants = |media: &str| {
        let offers = accept.unwrap_or_default().split(',');
        offers.map(|offer| offer.split(';').next().unwrap_or_default().trim()).any(|o| o == media)
    };
    let proto = wants(openapi_proto::ACCEPTED) || wants(openapi_proto::MEDIA);
    if proto && !wants("application/json") {
        return body::answer(200, openapi_proto::MEDIA, openapi_proto::document(&v2()));
    }
    body::json_value(200, &v2())
}
