//! What there is: the documents by which clients find the kinds.

use holdfast_api::meta::{GROUP, VERSION};
use holdfast_api::resources::Kind;
use serde_json::{Value, json};

/// `/api`: the core group, of which only namespaces are served.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/api/v1`.
pub(super) fn core_resources() -> Value {
    json!({
        "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [{
            "name": "namespaces", "singularName": "namespace", "namespaced": false,
            "kind": "Namespace", "verbs": ["get", "list"], "shortNames": ["ns"],
        }],
    })
}

fn group_object() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"name": GROUP, "versions": [version.clone()], "preferredVersion": version})
}

/// `/apis`.
pub(super) fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_object()]})
}

/// `/apis/GROUP`.
pub(super) fn group() -> Value {
    let mut group = group_object();
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

/// `/apis/GROUP/VERSION`.
pub(super) fn resources() -> Value {
    let mut list = Vec::new();
    for kind in Kind::ALL {
        let read_only = matches!(kind, Kind::NodeConfig | Kind::TunnelPeer);
        let verbs: &[&str] = if read_only {
            &["get", "list", "watch"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        };
        list.push(json!({
            "name": kind.plural(), "singularName": kind.name().to_lowercase(),
            "namespaced": kind.namespaced(), "kind": kind.name(), "verbs": verbs,
            "shortNames": [kind.short()], "categories": ["holdfast"],
        }));
        if matches!(kind, Kind::NodeStatus | Kind::RegionalEdge) {
            list.push(json!({
                "name": format!("{}/status", kind.plural()), "singularName": "",
                "namespaced": kind.namespaced(), "kind": kind.name(),
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"), "resources": list,
    })
}

/// `/version`. Clients read the first three as the version of Kubernetes whose conventions hold.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "30", "gitVersion": concat!("v1.30.0+holdfast-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "rustc", "platform": concat!("linux/", env!("CARGO_PKG_NAME")),
    })
}

/// A namespace. There is nothing to it but its name: a tenant exists by having objects.
pub(super) fn namespace(name: &str) -> Value {
    json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": {"name": name, "uid": format!("namespace-{name}"), "creationTimestamp": null},
        "spec": {}, "status": {"phase": "Active"},
    })
}

/// A list of namespaces, as objects or as a table.
pub(super) fn namespaces(names: &[String], version: u64, table: bool) -> Value {
    let metadata = json!({"resourceVersion": version.to_string()});
    if !table {
        let items: Vec<Value> = names.iter().map(|name| namespace(name)).collect();
        return json!({
            "kind": "NamespaceList", "apiVersion": "v1", "metadata": metadata, "items": items,
        });
    }
    let row = |name: &String| {
        json!({
            "cells": [name, "Active"],
            "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": namespace(name)["metadata"],
            },
        })
    };
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": [column("Name", "name"), column("Status", "")],
        "rows": names.iter().map(row).collect::<Vec<_>>(),
    })
}
