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
pub(crate) fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Token => &["spec.role", "spec.site", "status.id"],
        Kind::Registration => &[
            "spec.role",
            "spec.hostname",
            "spec.tokenId",
            "status.phase",
            "status.site",
            "status.node",
        ],
        Kind::Site => &["spec.place.region", "spec.prefix", "status.phase"],
        Kind::NodeConfig => &["spec.site", "spec.node", "spec.role"],
        Kind::NodeStatus => &["status.site", "status.stage", "status.profile", "status.reason"],
        Kind::RegionalEdge => &["spec.place.region", "spec.failureDomain", "spec.drained"],
        Kind::Release => &["spec.version", "status.digest"],
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_compared_as_text() {
        let edge = json!({"metadata": {"name": "a"}, "spec": {"drained": true, "place": {"region": "eu"}}});
        for (selector, want) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,spec.drained=true", true),
            ("metadata.name!=a", false),
            ("spec.failureDomain=", true),
            ("spec.place.region != us", true),
        ] {
            let parsed = FieldSelector::parse(Kind::RegionalEdge, selector).unwrap();
            assert_eq!(parsed.matches(&edge), want, "{selector}");
        }
        for bad in ["spec.capacity=1", "metadata.name", "=", "metadata.labels=x"] {
            assert!(FieldSelector::parse(Kind::RegionalEdge, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,60}") {
            for kind in Kind::ALL.iter().copied() {
                if let Ok(selector) = FieldSelector::parse(kind, &text) {
                    selector.matches(&json!({"metadata": {}}));
                }
            }
        }
    }
}
