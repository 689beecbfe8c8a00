//! Sites: operators describe them, the controller gives nodes and prefix.

use super::Write;
use crate::fleet::pools::overlaps;
use crate::http::ApiError;
use crate::schema::FieldError;
use crate::store::Tx;
use ipnet::IpNet;
use serde_json::{Value, json};

pub(super) fn check(write: &Write<'_>, tx: &Tx<'_>, new: &mut Value) -> Result<(), ApiError> {
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
    errors.extend(members(&old["nodes"], &spec["nodes"]));
    errors.extend(prefix(&old["prefix"], &mut spec["prefix"], tx));
    if spec["prefix"].is_null()
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("prefix");
    }
    for (name, _) in spec["sysctls"].as_object().into_iter().flatten() {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if !name.bytes().all(fits) || name.contains("..") || name.is_empty() {
            let message = format!("Invalid value: {name:?}: is not the name of a sysctl");
            errors.push(FieldError::invalid("spec.sysctls", message));
        }
    }
    for (index, entry) in spec["hosts"].as_array().into_iter().flatten().enumerate() {
        if entry["names"].as_array().is_none_or(Vec::is_empty) {
            errors.push(FieldError::required(format!("spec.hosts[{index}].names")));
        }
    }
    write.invalid(errors)
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

fn prefix(old: &Value, new: &mut Value, tx: &Tx<'_>) -> Option<FieldError> {
    let parsed: IpNet = new.as_str()?.parse().ok()?;
    *new = parsed.trunc().to_string().into();
    if old == new {
        return None;
    }
    // A site may shrink or widen its own prefix only by giving up the old one first.
    overlaps(tx.state(), &parsed).then(|| {
        let message = format!("Invalid value: {parsed}: overlaps the prefix of a site");
        FieldError::invalid("spec.prefix", message)
    })
}
