//! Regional edges: operators describe them, edges keep their own endpoints current.

use super::{Write, key_is_taken, net};
use crate::fleet::pools::overlaps;
use crate::fleet::{Fleet, REGISTRATION_ANNOTATION};
use crate::http::{ApiError, Identity};
use crate::schema::FieldError;
use crate::store::{Index, Key, Tx};
use holdfast_api::resources::{Kind, RegionalEdgeSpec};
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Fields that an edge may change itself.
const OF_EDGE: &[&str] = &["endpoint", "probe", "publicKey", "backbone"];

pub(super) fn check(
    write: &Write<'_>,
    fleet: &Fleet,
    tx: &Tx<'_>,
    new: &mut Value,
) -> Result<(), ApiError> {
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
    let old = RegionalEdgeSpec::deserialize(&old).unwrap_or_default();
    match RegionalEdgeSpec::deserialize(&*spec) {
        Ok(spec) => errors.extend(usable("spec", &old, &spec, Some(write.key), fleet, tx)),
        Err(error) => errors.push(FieldError::invalid("spec", error.to_string())),
    }
    write.invalid(errors)
}

/// What is wrong with the addresses and the key of an edge and was not in `old`. A node refuses
/// its tunnels as a whole when one of the edges that it may use cannot be one, so a mistake here
/// would take the tunnels of every site. `own` is the edge, when there is one already.
pub(super) fn usable(
    field: &str,
    old: &RegionalEdgeSpec,
    new: &RegionalEdgeSpec,
    own: Option<&Key>,
    fleet: &Fleet,
    tx: &Tx<'_>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let targets = [
        ("endpoint", old.endpoint, new.endpoint),
        ("probe", old.probe, new.probe),
        ("backbone", old.backbone, new.backbone),
    ];
    for (name, old, new) in targets {
        let Some(to) = new.filter(|_| old != new) else { continue };
        if let Some(why) = net::unfit_target(&to) {
            let message = format!("Invalid value: {to}: {why}");
            errors.push(FieldError::invalid(format!("{field}.{name}"), message));
        }
    }
    if old.public_key != new.public_key {
        errors.extend(new.public_key.and_then(|key| no_key(&format!("{field}.publicKey"), key)));
    }
    if let Some(address) =
        new.overlay_address.filter(|_| old.overlay_address != new.overlay_address)
        && let Some(message) = unfit_overlay(address, own, fleet, tx)
    {
        errors.push(FieldError::invalid(format!("{field}.overlayAddress"), message));
    }
    errors
}

/// Nobody can have the private half of a key of zeros.
pub(super) fn no_key(field: &str, key: PublicKey) -> Option<FieldError> {
    let message = "Invalid value: a key of zeros is no WireGuard key";
    (key == PublicKey([0; 32])).then(|| FieldError::invalid(field, message))
}

fn unfit_overlay(address: IpAddr, own: Option<&Key>, fleet: &Fleet, tx: &Tx<'_>) -> Option<String> {
    let taken = tx.find(Index::Overlay, &address.to_string());
    if taken.iter().any(|holder| Some(&holder.key) != own) {
        return Some(format!("Duplicate value: \"{address}\": another device has this address"));
    }
    let nodes = fleet.settings.node_overlay;
    let why = if address.is_loopback() {
        "is no host's address".into()
    } else if let Some(why) = net::unfit_host(address) {
        why
    } else if address.is_ipv4() != nodes.addr().is_ipv4() {
        format!("nodes have addresses of {nodes} and reach none of another family")
    } else if overlaps(tx.state(), &IpNet::from(address)) {
        "is in the prefix of a site".into()
    } else {
        return None;
    };
    Some(format!("Invalid value: \"{address}\": {why}"))
}
