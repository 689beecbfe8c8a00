//! The form of what clients write: before any rule of a kind is asked.

use super::negotiate::Query;
use super::{ApiError, Caller, Identity, Target};
use crate::schema::{self, FieldError};
use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::Kind;
use serde_json::Value;

/// How unknown fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    Ignore,
    Warn,
    Strict,
}

impl Strictness {
    /// Operators are told of unknown fields unless they say otherwise. Nodes and edges are not:
    /// a newer node must be able to speak to an older controller.
    pub(super) fn of(query: &Query, caller: &Caller) -> Result<Self, ApiError> {
        match (query.text("fieldValidation"), &caller.identity) {
            (_, identity) if !matches!(identity, Identity::Operator(_)) => Ok(Strictness::Ignore),
            ("Strict", _) => Ok(Strictness::Strict),
            ("Ignore", _) => Ok(Strictness::Ignore),
            ("Warn" | "", _) => Ok(Strictness::Warn),
            (other, _) => {
                Err(ApiError::bad_request(format!("fieldValidation: {other:?} is not known")))
            }
        }
    }
}

/// Form: wrong fields are errors, unknown ones by the strictness asked for.
pub(super) fn check_form(
    kind: Kind,
    strictness: Strictness,
    value: &mut Value,
) -> Result<Vec<String>, ApiError> {
    let report = schema::check(kind, value);
    let unknown = report.unknown.iter().map(|field| format!("unknown field \"{field}\""));
    if strictness == Strictness::Strict && !report.unknown.is_empty() {
        let list: Vec<String> = unknown.collect();
        let message = format!("strict decoding error: {}", list.join(", "));
        return Err(ApiError::bad_request(message));
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !report.errors.is_empty() {
        return Err(ApiError::invalid(kind, &name, report.errors));
    }
    decodes(kind, &name, value)?;
    Ok(if strictness == Strictness::Warn { unknown.collect() } else { Vec::new() })
}

/// The schema and the types say the same; should they ever not, the types have the last word.
fn decodes(kind: Kind, name: &str, value: &Value) -> Result<(), ApiError> {
    use holdfast_api::resources as r;
    use serde::Deserialize;
    let result = match kind {
        Kind::Token => r::Token::deserialize(value).map(drop),
        Kind::Registration => r::Registration::deserialize(value).map(drop),
        Kind::Site => r::Site::deserialize(value).map(drop),
        Kind::NodeConfig => r::NodeConfig::deserialize(value).map(drop),
        Kind::NodeStatus => r::NodeStatus::deserialize(value).map(drop),
        Kind::RegionalEdge => r::RegionalEdge::deserialize(value).map(drop),
        Kind::Release => r::Release::deserialize(value).map(drop),
        Kind::TunnelPeer => r::TunnelPeer::deserialize(value).map(drop),
    };
    result.map_err(|error| {
        ApiError::invalid(kind, name, vec![FieldError::invalid("", error.to_string())])
    })
}

pub(super) fn decode_spec<T: serde::de::DeserializeOwned>(
    kind: Kind,
    name: &str,
    value: &Value,
) -> Result<T, ApiError> {
    serde_json::from_value(value["spec"].clone()).map_err(|error| {
        ApiError::invalid(kind, name, vec![FieldError::invalid("spec", error.to_string())])
    })
}

/// The name given, or one made from `generateName` and five random letters.
pub(super) fn name_of(value: &Value) -> String {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
    if !text("name").is_empty() || text("generateName").is_empty() {
        return text("name").into();
    }
    // Without vowels and look-alikes, as Kubernetes does: no words, no confusion.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random: [u8; 5] = crate::random();
    let letters = random.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
    let prefix: String = text("generateName").chars().take(58).collect();
    prefix + &letters.collect::<String>()
}

pub(super) fn same_namespace(target: &Target, value: &Value) -> Result<(), ApiError> {
    let given = value["metadata"]["namespace"].as_str().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() && !is_dns_label(namespace) {
        return Err(ApiError::bad_request(format!("{namespace:?} is not a namespace")));
    }
    if !given.is_empty() && given != namespace {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request: {given:?}, {namespace:?}"
        );
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// Removes what only the server gives to a new object.
pub(super) fn strip(value: &mut Value, kind: Kind) {
    if kind != Kind::NodeStatus
        && let Some(map) = value.as_object_mut()
    {
        map.remove("status");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"] {
            metadata.remove(field);
        }
    }
}
