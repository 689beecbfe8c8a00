//! A device presents a token: one transaction from the secret to the certificate.
//!
//! Checked in this order, so that a stranger learns nothing: the secret (`token.unknown`), the
//! tenant (`token.foreign`), whether the device is registered already (then it is answered as it
//! stands and no use is counted), the expiry (`token.expired`), the uses (`token.used-up`), the
//! role. The store runs transactions one after the other, so a token of one use makes one
//! registration however many devices present it at once.

use super::token::secret_matches;
use super::{edge, key_is_taken};
use crate::fleet::{
    Fleet, TOKEN_LABELS_ANNOTATION, TOKEN_REPLACES_ANNOTATION, TOKEN_SITE_ANNOTATION, save,
};
use crate::http::ApiError;
use crate::schema::FieldError;
use crate::store::{Index, Key, Shared, State, Tx};
use holdfast_api::Reason;
use holdfast_api::resources::{
    Approval, ApprovalRule, Decision, Kind, Registration, RegistrationSpec, Role, Token,
};
use holdfast_api::token::{TokenId, TokenSecret};
use serde_json::{Value, json};

/// A token, and what the device says of itself.
pub struct Presentation {
    /// Where the registration goes; its name derives from the device's key.
    pub key: Key,
    /// The token's public name.
    pub id: TokenId,
    /// Its secret.
    pub secret: TokenSecret,
    /// What the device says; its request's signature has been checked.
    pub spec: RegistrationSpec,
    /// Labels and annotations that the device gives.
    pub metadata: Value,
    /// TLS proved that the device holds its key right now.
    pub key_proved: bool,
}

/// The token with this id and secret. Asked before anything costly is done for a stranger, and
/// again in the transaction.
///
/// # Errors
/// 403 `token.unknown`.
pub fn find_token(state: &State, id: TokenId, secret: &TokenSecret) -> Result<Shared, ApiError> {
    let id = id.to_string();
    let mut found = state.find(Index::TokenId, &id);
    let known =
        |entry: &&Shared| secret_matches(secret, entry.hidden.as_deref().unwrap_or_default());
    found.find(known).cloned().ok_or_else(|| ApiError::token(Reason::TokenUnknown))
}

/// Uses the token. Answers the registration and whether it is new.
///
/// # Errors
/// 403 with a reason code when the token is no good; 422 when the device asks for what it may not
/// have.
pub fn present(
    shown: Presentation,
    fleet: &Fleet,
    tx: &mut Tx<'_>,
) -> Result<(Shared, bool), ApiError> {
    let entry = find_token(tx.state(), shown.id, &shown.secret)?;
    if entry.key.namespace != shown.key.namespace {
        return Err(ApiError::token(Reason::TokenForeign));
    }
    let existing = tx.get(&shown.key);
    if let Some(existing) = &existing {
        // A device that was refused may come back, with another token than the one refused.
        let refused = matches!(existing.text("/status/phase"), "Retired" | "Rejected");
        if !refused || existing.text("/spec/tokenId") == shown.id.to_string() {
            return Ok((renew(shown, fleet, tx, existing)?, false));
        }
    }
    let token = entry.decode::<Token>().ok_or_else(|| ApiError::token(Reason::TokenUnknown))?;
    let mut status = token.status.unwrap_or_default();
    if token.spec.expires_at.is_some_and(|end| end <= tx.now()) {
        return Err(ApiError::token(Reason::TokenExpired));
    }
    if status.used >= token.spec.uses {
        return Err(ApiError::token(Reason::TokenUsedUp));
    }
    check_wish(&shown, token.spec.role, fleet, tx)?;
    status.used += 1;
    let mut used = entry.value.clone();
    used["status"] = json!(status);
    save(tx, entry.key.clone(), used, None);

    let mut spec = shown.spec;
    spec.token_id = status.id;
    spec.approval = (token.spec.approval == ApprovalRule::Automatic).then_some(Approval {
        decision: Decision::Approved,
        site: None,
        labels: Default::default(),
    });
    let mut value = json!({ "metadata": shown.metadata, "spec": spec });
    let annotations = &mut value["metadata"]["annotations"];
    if let Some(site) = token.spec.site {
        annotations[TOKEN_SITE_ANNOTATION] = site.into();
    }
    if let Some(node) = token.spec.replaces {
        annotations[TOKEN_REPLACES_ANNOTATION] = node.into();
    }
    if !token.spec.labels.is_empty() {
        annotations[TOKEN_LABELS_ANNOTATION] = json!(token.spec.labels).to_string().into();
    }
    if annotations.is_null() {
        value["metadata"]["annotations"] = json!({});
    }
    save(tx, shown.key.clone(), value, None);
    fleet.settle(tx);
    let made = tx.get(&shown.key).ok_or_else(|| ApiError::internal("the registration vanished"))?;
    tracing::info!(registration = %made.key, phase = made.text("/status/phase"), "registered");
    Ok((made, true))
}

fn check_wish(
    shown: &Presentation,
    allowed: Role,
    fleet: &Fleet,
    tx: &Tx<'_>,
) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if shown.spec.role != allowed {
        let message =
            format!("Invalid value: {:?}: the token is for a {allowed:?}", shown.spec.role);
        errors.push(FieldError::invalid("spec.role", message));
    }
    if shown.spec.edge.is_some() && shown.spec.role != Role::RegionalEdge {
        errors.push(FieldError::forbidden("spec.edge", "only a regional edge has it"));
    }
    errors.extend(unusable(&RegistrationSpec::default(), &shown.spec, &shown.key, fleet, tx));
    refuse(&shown.key, errors)
}

fn refuse(key: &Key, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(Kind::Registration, &key.name, errors))
}

/// What other devices could not use of what the device says of itself, and did not say in `old`.
pub(super) fn unusable(
    old: &RegistrationSpec,
    new: &RegistrationSpec,
    key: &Key,
    fleet: &Fleet,
    tx: &Tx<'_>,
) -> Vec<FieldError> {
    let mut errors = Vec::from_iter(taken_key(new, key, tx));
    let public_key =
        new.wireguard_public_key.filter(|_| old.wireguard_public_key != new.wireguard_public_key);
    errors.extend(public_key.and_then(|key| edge::no_key("spec.wireguardPublicKey", key)));
    if let Some(offer) = &new.edge {
        let before = old.edge.clone().unwrap_or_default();
        let own = own_edge(key, tx);
        errors.extend(edge::usable("spec.edge", &before, offer, own.as_ref(), fleet, tx));
    }
    errors
}

/// The edge that a registration made, which has its key and address, too.
fn own_edge(key: &Key, tx: &Tx<'_>) -> Option<Key> {
    let entry = tx.get(key)?;
    Some(Key::new(Kind::RegionalEdge, "", entry.text("/status/node")))
}

/// Another device already has this WireGuard key.
fn taken_key(spec: &RegistrationSpec, key: &Key, tx: &Tx<'_>) -> Option<FieldError> {
    let offered = spec.edge.as_ref().and_then(|edge| edge.public_key);
    let edge = own_edge(key, tx);
    let own: Vec<&Key> = std::iter::once(key).chain(&edge).collect();
    let taken = [spec.wireguard_public_key, offered]
        .into_iter()
        .flatten()
        .any(|public_key| key_is_taken(tx, &public_key.to_string(), &own));
    taken.then(|| {
        FieldError::invalid(
            "spec.wireguardPublicKey",
            "Duplicate value: another device has this key",
        )
    })
}

/// A registered device presents itself again. What it says anew counts only when TLS proved its
/// key: a token and a request alone could have been overheard.
fn renew(
    shown: Presentation,
    fleet: &Fleet,
    tx: &mut Tx<'_>,
    existing: &Shared,
) -> Result<Shared, ApiError> {
    if !shown.key_proved || shown.spec.csr.is_empty() {
        return Ok(existing.clone());
    }
    let old = existing.decode::<Registration>().map(|old| old.spec).unwrap_or_default();
    refuse(&shown.key, unusable(&old, &shown.spec, &shown.key, fleet, tx))?;
    let mut value = existing.value.clone();
    super::registration::take_over(&mut value, &shown.spec);
    super::registration::ask_again(existing, fleet, tx, &mut value);
    save(tx, shown.key.clone(), value, None);
    fleet.settle(tx);
    tx.get(&shown.key).ok_or_else(|| ApiError::internal("the registration vanished"))
}
