//! Sites: operators describe them, the controller gives nodes and prefix.

use super::{Write, host, kubernetes, net};
use crate::fleet::Fleet;
use crate::fleet::pools::overlaps;
use crate::http::ApiError;
use crate::schema::FieldError;
use crate::store::Tx;
use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::{Kind, NodeRole, RegionalEdge, SiteNode, SiteSpec};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn check(
    write: &Write<'_>,
    fleet: &Fleet,
    tx: &Tx<'_>,
    new: &mut Value,
) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let old = write.old_spec().cloned().unwrap_or_else(|| json!({}));
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    let spec = &mut new["spec"];
    // Absent means "as it was": whoever replaces a site from a file must not retire its nodes.
    for field in ["nodes", "prefix"] {
        if spec.get(field).is_none()
            && let Some(old) = old.get(field)
        {
            spec[field] = old.clone();
        }
    }
    if let Some(nodes) = spec.get_mut("nodes") {
        keep_addresses(&old["nodes"], nodes);
    }
    errors.extend(members(&old["nodes"], &spec["nodes"]));
    errors.extend(prefix(&old["prefix"], &mut spec["prefix"], fleet, tx));
    if spec["prefix"].is_null()
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("prefix");
    }
    // The form was checked before. Should the two ever differ, everything is looked at anew.
    let old = SiteSpec::deserialize(&old).unwrap_or_default();
    match SiteSpec::deserialize(&*spec) {
        Ok(spec) => {
            errors.extend(servers(&old, &spec));
            errors.extend(edges(&old, &spec));
            errors.extend(host::check(&old, &spec));
            let token = write.old.and_then(|old| old.hidden.as_deref());
            errors.extend(kubernetes::check(tx, &write.key.namespace, token, &old, &spec));
        }
        Err(error) => errors.push(FieldError::invalid("spec", error.to_string())),
    }
    write.invalid(errors)
}

/// A node keeps its address, whatever a file that describes the site says of it or leaves out.
fn keep_addresses(old: &Value, new: &mut Value) {
    for node in new.as_array_mut().into_iter().flatten().filter(|node| node.is_object()) {
        let same = |other: &&Value| other["registration"] == node["registration"];
        let known = old.as_array().into_iter().flatten().find(same);
        match known.and_then(|known| known.get("address")).cloned() {
            Some(address) => node["address"] = address,
            None => drop(node.as_object_mut().and_then(|node| node.remove("address"))),
        }
    }
}

/// Nodes can be removed and their order and roles changed; they join by registering only.
fn members(old: &Value, new: &Value) -> Vec<FieldError> {
    let of = |list: &Value| -> Vec<(String, String)> {
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_owned();
        let nodes = list.as_array().into_iter().flatten();
        nodes.map(|node| (text(node, "name"), text(node, "registration"))).collect()
    };
    let (old, new) = (of(old), of(new));
    let mut errors = Vec::new();
    for (index, node) in new.iter().enumerate() {
        let field = format!("spec.nodes[{index}]");
        if !old.contains(node) {
            errors.push(FieldError::forbidden(field, "nodes join by registering with a token"));
        } else if new[..index].contains(node) {
            errors.push(FieldError::invalid(field, format!("Duplicate value: {:?}", node.0)));
        }
    }
    errors
}

/// One of the servers that a site's Kubernetes has stays one: the datastore is on those alone. When
/// all of them leave the site, others begin anew.
fn servers(old: &SiteSpec, new: &SiteSpec) -> Vec<FieldError> {
    if old.kubernetes.is_none() || new.kubernetes.is_none() {
        return Vec::new();
    }
    let is_server = |node: &&SiteNode| node.role == NodeRole::ControlPlane;
    let was_server = |node: &SiteNode| {
        old.nodes.iter().filter(is_server).any(|old| old.registration == node.registration)
    };
    if new.nodes.iter().any(|node| is_server(&node) && was_server(node)) {
        return Vec::new();
    }
    let lost = new.nodes.iter().enumerate().filter(|(_, node)| was_server(node));
    let message = "the datastore is on the site's control planes: one of them must stay one";
    lost.map(|(index, _)| FieldError::forbidden(format!("spec.nodes[{index}].role"), message))
        .collect()
}

fn prefix(old: &Value, new: &mut Value, fleet: &Fleet, tx: &Tx<'_>) -> Option<FieldError> {
    let parsed: IpNet = new.as_str()?.parse().ok()?;
    let parsed = parsed.trunc();
    *new = parsed.to_string().into();
    if old == new {
        return None;
    }
    let why = net::unfit_net(&parsed).or_else(|| taken(&parsed, fleet, tx))?;
    Some(FieldError::invalid("spec.prefix", format!("Invalid value: {parsed}: {why}")))
}

/// Who has addresses of the prefix already. Edges refuse a prefix that is not the site's alone.
fn taken(prefix: &IpNet, fleet: &Fleet, tx: &Tx<'_>) -> Option<String> {
    let settings = &fleet.settings;
    let pools = [settings.node_overlay, settings.edge_overlay];
    if let Some(pool) = pools.iter().find(|pool| net::overlap(pool, prefix)) {
        return Some(format!("overlaps {pool}, where nodes and edges have their addresses"));
    }
    // An operator may have given an edge an address outside of the pool.
    let edges = tx.list(Kind::RegionalEdge, None);
    let edges = edges.iter().filter_map(|entry| entry.decode::<RegionalEdge>());
    let mut inside = edges
        .filter(|edge| edge.spec.overlay_address.is_some_and(|address| prefix.contains(&address)));
    if let Some(edge) = inside.next() {
        return Some(format!("has in it the address of the edge {:?}", edge.metadata.name));
    }
    // A site may shrink or widen its own prefix only by giving up the old one first.
    overlaps(tx.state(), prefix).then(|| "overlaps the prefix of a site".into())
}

/// A name that no edge can have lets a site choose from none, and nobody would say why.
fn edges(old: &SiteSpec, new: &SiteSpec) -> Vec<FieldError> {
    let (old, new) = (&old.edges, &new.edges);
    let lists = [("only", &old.only, &new.only), ("except", &old.except, &new.except)];
    let mut errors = Vec::new();
    for (field, old, new) in lists {
        for (index, name) in new.iter().enumerate() {
            if !is_dns_label(name) && !old.contains(name) {
                let message = format!("Invalid value: {name:?}: must be the name of an edge");
                errors.push(FieldError::invalid(format!("spec.edges.{field}[{index}]"), message));
            }
        }
    }
    errors
}
