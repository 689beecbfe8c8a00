//! Tokens: made with a secret that is shown once and kept as a hash.

use super::Write;
use super::metadata::check_labels;
use crate::http::ApiError;
use crate::schema::FieldError;
use crate::store::{Key, Tx};
use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::{Kind, Site, TokenStatus};
use holdfast_api::token::{CaFingerprint, Envelope, TokenId, TokenSecret};
use jiff::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// A token that was just made.
pub struct Issued {
    /// Its status, without the secret.
    pub status: Value,
    /// What the store keeps of the secret.
    pub hidden: String,
    /// What the operator gets to see, once.
    pub text: Zeroizing<String>,
}

/// Makes a token for a tenant.
pub fn issue(tenant: &str, ca: CaFingerprint) -> Issued {
    let secret = TokenSecret::new(crate::random());
    let id = TokenId(crate::random());
    let hidden = hash(&secret);
    let envelope = Envelope { tenant: tenant.into(), ca, id, secret };
    let status = TokenStatus { id: id.to_string(), used: 0, token: None };
    Issued { status: json!(status), hidden, text: envelope.encode() }
}

/// What is kept of a secret: its SHA-256. A slow hash guards secrets that can be guessed; this one
/// has 80 random bits, and whoever could read the hashes would read the whole fleet beside them.
fn hash(secret: &TokenSecret) -> String {
    holdfast_api::hex(&crate::sha256(secret.expose()))
}

/// Whether `secret` is the one whose hash is kept. Takes the same time wherever they differ.
pub(super) fn secret_matches(secret: &TokenSecret, kept: &str) -> bool {
    let shown = hash(secret);
    let differ = shown.bytes().zip(kept.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == kept.len() && differ == 0
}

pub(super) fn check(write: &Write<'_>, tx: &Tx<'_>, new: &mut Value) -> Result<(), ApiError> {
    let spec = &mut new["spec"];
    if spec["uses"].is_null() {
        spec["uses"] = 1.into();
    }
    let mut errors = check_labels("spec.labels", &spec["labels"]);
    if let Some(site) = spec["site"].as_str().filter(|site| !is_dns_label(site)) {
        let message = format!("Invalid value: {site:?}: must be a DNS label (RFC 1123)");
        errors.push(FieldError::invalid("spec.site", message));
    }
    if write.old_spec().is_none_or(|old| old["replaces"] != spec["replaces"]) {
        errors.extend(replaced(tx, &write.key.namespace, spec));
    }
    let end = |spec: Option<&Value>| {
        spec.and_then(|spec| spec["expiresAt"].as_str()).and_then(|t| t.parse::<Timestamp>().ok())
    };
    let (old_end, new_end) = (end(write.old_spec()), end(Some(spec)));
    if new_end != old_end && new_end.is_some_and(|end| end <= tx.now()) {
        let message = "Invalid value: is in the past; delete the token to end it";
        errors.push(FieldError::invalid("spec.expiresAt", message));
    }
    // An edge serves the nodes of all tenants, so that no tenant may bring its own.
    if spec["role"] == "RegionalEdge" && write.by_tenant() {
        let message = "only an operator of all tenants makes tokens for edges";
        errors.push(FieldError::forbidden("spec.role", message));
    }
    if let Some(old) = write.old_spec() {
        let role = |spec: &Value| spec["role"].as_str().unwrap_or("Node").to_owned();
        if role(old) != role(spec) {
            errors.push(FieldError::invalid("spec.role", "field is immutable"));
        }
    }
    write.invalid(errors)
}

/// Whoever takes the place of a node must be one, and there must be such a place.
fn replaced(tx: &Tx<'_>, tenant: &str, spec: &Value) -> Option<FieldError> {
    let node = spec["replaces"].as_str()?;
    let invalid = |field, message: String| Some(FieldError::invalid(field, message));
    if spec["role"].as_str().is_some_and(|role| role != "Node") {
        return invalid("spec.replaces", "only a node takes the place of a node".into());
    }
    if spec["uses"] != 1 {
        return invalid("spec.uses", "the place of a node is taken once".into());
    }
    let Some(site) = spec["site"].as_str() else {
        return Some(FieldError::required("spec.site"));
    };
    let known = tx
        .get(&Key::new(Kind::Site, tenant, site))
        .and_then(|site| site.decode::<Site>())
        .is_some_and(|site| site.spec.nodes.iter().any(|one| one.name == node));
    match known {
        true => None,
        false => invalid("spec.replaces", format!("Not found: site {site} has no node {node:?}")),
    }
}
