//! From what is and what is wanted to steps. Pure.
use crate::error::PlanError;
use crate::model::{Network, Observed};
use crate::ownership::Ownership;
use crate::step::Step;

/// Thin for now.
///
/// # Errors
/// None yet.
pub fn plan(_want: &Network, _have: &Observed, _owner: &Ownership) -> Result<Vec<Step>, PlanError> {
    Ok(Vec::new())
}
