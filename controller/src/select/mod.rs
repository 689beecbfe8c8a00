//! Which objects of a collection a client wants.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub(crate) use fields::selectable;
pub use labels::LabelSelector;
pub(crate) use labels::{is_label_key, is_label_value};

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse selector {selector:?}: {what}")]
pub struct SelectorError {
    /// The selector as given.
    pub selector: String,
    /// What is wrong with it.
    pub what: String,
}

impl SelectorError {
    fn new(selector: &str, what: impl Into<String>) -> Self {
        SelectorError { selector: selector.into(), what: what.into() }
    }
}
