//! Tables: what `kubectl get` shows of each kind.

use crate::store::{Entry, Shared};
use holdfast_api::resources::Kind;
use serde_json::{Value, json};

struct Column {
    name: &'static str,
    doc: &'static str,
    /// Shown with `-o wide` only.
    wide: bool,
    cell: fn(&Value) -> Value,
}

const fn column(name: &'static str, doc: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, doc, wide: false, cell }
}

const fn wide(name: &'static str, doc: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, doc, wide: true, cell }
}

fn at(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::Null) | None => "".into(),
        Some(value) => value.clone(),
    }
}

fn count(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len).into()
}

fn joined(object: &Value, pointer: &str) -> Value {
    let items = object.pointer(pointer).and_then(Value::as_array);
    let texts: Vec<&str> = items.into_iter().flatten().filter_map(Value::as_str).collect();
    texts.join(",").into()
}

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Token => {
            const {
                &[
                    column("Role", "What its bearers become.", |o| match at(o, "/spec/role") {
                        Value::String(role) if !role.is_empty() => role.into(),
                        _ => "Node".into(),
                    }),
                    column("Used", "Devices registered, of how many.", |o| {
                        format!("{}/{}", at(o, "/status/used"), at(o, "/spec/uses")).into()
                    }),
                    column("Approval", "Who approves.", |o| match at(o, "/spec/approval") {
                        Value::String(rule) if !rule.is_empty() => rule.into(),
                        _ => "Manual".into(),
                    }),
                    column("Site", "The site that nodes join.", |o| at(o, "/spec/site")),
                    column("Expires", "When it ends.", |o| at(o, "/spec/expiresAt")),
                    wide("Id", "Public part of the token.", |o| at(o, "/status/id")),
                ]
            }
        }
        Kind::Registration => {
            const {
                &[
                    column("Phase", "How far it got.", |o| at(o, "/status/phase")),
                    column("Role", "What it wants to be.", |o| at(o, "/spec/role")),
                    column("Node", "The node or edge that it became.", |o| at(o, "/status/node")),
                    column("Site", "The node's site.", |o| at(o, "/status/site")),
                    column("Hostname", "Its name for itself.", |o| at(o, "/spec/hostname")),
                    column("Product", "Its hardware.", |o| at(o, "/spec/facts/product")),
                    wide("Serial", "Its serial number.", |o| at(o, "/spec/facts/serial")),
                    wide("Profile", "Its hardware profile.", |o| at(o, "/spec/facts/profile")),
                    wide("Identity", "Where its key lives.", |o| at(o, "/spec/identityClass")),
                    wide("Reason", "Why it is not further.", |o| at(o, "/status/reason")),
                ]
            }
        }
        Kind::Site => {
            const {
                &[
                    column("Phase", "How it is.", |o| at(o, "/status/phase")),
                    column("Nodes", "Nodes online, of how many.", |o| {
                        let online =
                            o.pointer("/status/nodesOnline").and_then(Value::as_u64).unwrap_or(0);
                        format!("{online}/{}", count(o, "/spec/nodes")).into()
                    }),
                    column("Tunnels", "Tunnels that pass data.", |o| {
                        o.pointer("/status/tunnelsUp").and_then(Value::as_u64).unwrap_or(0).into()
                    }),
                    column("Edges", "Edges that carry its traffic.", |o| {
                        joined(o, "/status/edges")
                    }),
                    column("Region", "Where it is.", |o| at(o, "/spec/place/region")),
                    wide("Prefix", "Its prefix.", |o| at(o, "/spec/prefix")),
                    wide("Last-Seen", "When a node was last heard.", |o| at(o, "/status/lastSeen")),
                ]
            }
        }
        Kind::NodeConfig => {
            const {
                &[
                    column("Site", "The node's site.", |o| at(o, "/spec/site")),
                    column("Role", "The node's role.", |o| at(o, "/spec/role")),
                    column("Generation", "Number of this configuration.", |o| {
                        at(o, "/spec/generation")
                    }),
                    column("Candidates", "Edges to choose from.", |o| {
                        count(o, "/spec/tunnels/candidates")
                    }),
                    wide("Overlay", "Address in the tunnels.", |o| {
                        at(o, "/spec/tunnels/overlayAddress")
                    }),
                    wide("Hash", "Hash of its content.", |o| at(o, "/status/contentHash")),
                ]
            }
        }
        Kind::NodeStatus => {
            const {
                &[
                    column("Site", "The node's site.", |o| at(o, "/status/site")),
                    column("Stage", "Stage of its life.", |o| at(o, "/status/stage")),
                    column("Generation", "Configuration in force.", |o| {
                        at(o, "/status/generation")
                    }),
                    column("Tunnels", "Tunnels that pass data.", |o| {
                        let tunnels =
                            o.pointer("/status/tunnels/tunnels").and_then(Value::as_array);
                        let up = |tunnel: &&Value| tunnel["state"] == "up";
                        tunnels.into_iter().flatten().filter(up).count().into()
                    }),
                    column("Profile", "Hardware profile.", |o| at(o, "/status/profile")),
                    column("Version", "Firmware.", |o| at(o, "/status/version")),
                    column("Reason", "The worst thing to say.", |o| at(o, "/status/reason")),
                    wide("Message", "For people.", |o| at(o, "/status/message")),
                ]
            }
        }
        Kind::RegionalEdge => {
            const {
                &[
                    column("Region", "Where it is.", |o| at(o, "/spec/place/region")),
                    column("Domain", "Failure domain.", |o| at(o, "/spec/failureDomain")),
                    column("Endpoint", "Where WireGuard datagrams go.", |o| {
                        at(o, "/spec/endpoint")
                    }),
                    column("Peers", "Nodes whose tunnel passes data, of how many.", |o| {
                        let number = |p| o.pointer(p).and_then(Value::as_u64).unwrap_or(0);
                        format!("{}/{}", number("/status/peersUp"), number("/status/peers")).into()
                    }),
                    column("Drained", "Not offered to sites.", |o| {
                        o.pointer("/spec/drained")
                            .and_then(Value::as_bool)
                            .unwrap_or(false)
                            .to_string()
                            .into()
                    }),
                    wide("Overlay", "Address in the tunnels.", |o| at(o, "/spec/overlayAddress")),
                    wide("Last-Seen", "When it last reported.", |o| at(o, "/status/lastSeen")),
                ]
            }
        }
        Kind::Release => {
            const {
                &[
                    column("Version", "Its version.", |o| at(o, "/spec/version")),
                    column("Files", "Files of manifests.", |o| {
                        let files = o.pointer("/spec/manifests").and_then(Value::as_object);
                        files.map_or(0, serde_json::Map::len).into()
                    }),
                    wide("Digest", "SHA-256 of its content.", |o| at(o, "/status/digest")),
                ]
            }
        }
        Kind::TunnelPeer => {
            const {
                &[
                    column("Site", "The node's site.", |o| at(o, "/spec/site")),
                    column("Overlay", "The node's address.", |o| at(o, "/spec/overlayAddress")),
                    column("Prefixes", "What is behind it.", |o| joined(o, "/spec/sitePrefixes")),
                    column("Edges", "Edges that may serve it.", |o| joined(o, "/spec/edges")),
                ]
            }
        }
    }
}

/// A table of these objects. `metadata` is the list's; a watch has none.
pub(super) fn table(kind: Kind, entries: &[Shared], metadata: Option<Value>) -> Value {
    let now = jiff::Timestamp::now();
    let mut definitions = vec![json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name of the object.",
    })];
    definitions.extend(columns(kind).iter().map(|column| {
        json!({
            "name": column.name, "type": "string", "format": "",
            "description": column.doc, "priority": i32::from(column.wide),
        })
    }));
    definitions.push(json!({
        "name": "Age", "type": "string", "format": "", "priority": 0,
        "description": "Time since it was made.",
    }));
    let rows: Vec<Value> = entries.iter().map(|entry| row(kind, entry, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata.unwrap_or_else(|| json!({})),
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn row(kind: Kind, entry: &Entry, now: jiff::Timestamp) -> Value {
    let mut cells = vec![Value::from(entry.key.name.as_str())];
    cells.extend(columns(kind).iter().map(|column| (column.cell)(&entry.value)));
    let made = entry.text("/metadata/creationTimestamp").parse::<jiff::Timestamp>();
    cells.push(
        made.map_or("<unknown>".into(), |made| age(now.duration_since(made).as_secs())).into(),
    );
    json!({ "cells": cells, "object": super::read::metadata_of(entry) })
}

/// A duration as kubectl writes it: the two largest units while they are small.
fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 if s % 60 != 0 => format!("{}m{}s", s / 60, s % 60),
        120..10_800 => format!("{}m", s / 60),
        10_800..28_800 if s / 60 % 60 != 0 => format!("{}h{}m", s / 3600, s / 60 % 60),
        10_800..172_800 => format!("{}h", s / 3600),
        172_800..691_200 if s / 3600 % 24 != 0 => format!("{}d{}h", s / 86_400, s / 3600 % 24),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let cases = [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3_600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
        ];
        for (seconds, want) in cases {
            assert_eq!(age(seconds), want, "{seconds}");
        }
    }
}
