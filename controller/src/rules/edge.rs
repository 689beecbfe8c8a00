//! Regional edges: operators describe them, edges keep their own endpoints current.

use super::{Write, key_is_taken};
use crate::fleet::REGISTRATION_ANNOTATION;
use crate::http::{ApiError, Identity};
use crate::schema::FieldError;
use crate::store::{Index, Key, Tx};
use holdfast_api::resources::{Kind, RegionalEdgeSpec};
use serde_json::{Value, json};

/// Fields that an edge may change itself.
const OF_EDGE: &[&str] = &["endpoint", "probe", "publicKey", "backbone"];

pub(super) fn check(write: &Write<'_>, tx: &Tx<'_>, new: &mut Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let by_edge = matches!(write.caller.identity, Identity::Edge { .. });
    if write.status {
        if by_edge {
            new["status"]["lastSeen"] = crate::fleet::seconds(tx.now()).into();
        }
        return Ok(());
    }
    let old = write.old_spec().cloned().unwrap_or_else(|| json!({}));
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    let spec = &mut new["spec"];
    if spec.get("overlayAddress").is_none()
        && let Some(address) = old.get("overlayAddress")
    {
        spec["overlayAddress"] = address.clone();
    }
    if by_edge {
        let changed = super::changed_fields::<RegionalEdgeSpec>(&old, spec);
        errors.extend(changed.iter().filter(|field| !OF_EDGE.contains(&field.as_str())).map(
            |field| {
                FieldError::forbidden(format!("spec.{field}"), "may not be changed by the edge")
            },
        ));
    }
    let registration = write.old.and_then(|old| {
        let (tenant, name) = old.annotation(REGISTRATION_ANNOTATION).split_once('/')?;
        Some(Key::new(Kind::Registration, tenant, name))
    });
    let own: Vec<&Key> = std::iter::once(write.key).chain(&registration).collect();
    if key_is_taken(tx, spec["publicKey"].as_str().unwrap_or_default(), &own) {
        let message = "Duplicate value: another device has this key";
        errors.push(FieldError::invalid("spec.publicKey", message));
    }
    let address = spec["overlayAddress"].as_str().unwrap_or_default();
    if tx.find(Index::Overlay, address).iter().any(|holder| holder.key != *write.key) {
        let message = format!("Duplicate value: {address:?}: another device has this address");
        errors.push(FieldError::invalid("spec.overlayAddress", message));
    }
    write.invalid(errors)
}
