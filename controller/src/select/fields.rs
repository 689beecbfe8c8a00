//! Field selectors: `metadata.name=a,status.phase!=Online`.

use super::SelectorError;
use holdfast_api::resources::Kind;
use serde_json::Value;

/// What fields must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: String,
    value: String,
    equal: bool,
}

/// Fields that can be selected by, beside `metadata.name` and `metadata.namespace`.
pub(super) fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Token => &["spec.role", "spec.site", "status.id"],
        Kind::Registration => {
            &["spec.role", "spec.hostname", "spec.tokenId", "status.phase", "status.site", "status.node"]
        }
        Kind::Site => &["spec.place.region", "spec.prefix", "status.phase"],
        Kind::NodeConfig => &["spec.site", "spec.node", "spec.role"],
        Kind::NodeStatus => &["status.site", "status.stage", "status.profile", "status.reason"],
        Kind::RegionalEdge => &["spec.place.region", "spec.failureDomain", "spec.drained"],
        Kind::TunnelPeer => &["spec.site", "spec.node"],
    }
}

impl FieldSelector {
    /// Reads a selector for a kind; an empty one selects everything.
    ///
    /// # Errors
    /// It is not a selector, or names a field that cannot be selected by.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, SelectorError> {
        let fail = |what: String| SelectorError::new(text, what);
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
        let requirements = terms.map(|term| {
            let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = term.split_once('=') {
                (field, value.strip_prefix('=').unwrap_or(value), true)
            } else {
                return Err(fail(format!("{term:?} has no = or !=")));
            };
            let (field, value) = (field.trim().to_owned(), value.trim().to_owned());
            let known = ["metadata.name", "metadata.namespace"].contains(&field.as_str())
                || selectable(kind).contains(&field.as_str());
            if !known {
                return Err(fail(format!("field label not supported: {field}")));
            }
            Ok(Requirement { field, value, equal })
        });
        requirements.collect::<Result<_, _>>().map(FieldSelector)
    }

    /// Whether it selects this object.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let have = requirement.field.split('.').try_fold(object, |value, name| value.get(name));
            let have = match have {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (have == requirement.value) == requirement.equal
        })
    }

    /// The one name that it asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        let by_name = self.0.iter().find(|r| r.field == "metadata.name" && r.equal);
        by_name.map(|requirement| requirement.value.as_str())
    }
}
