//! Who leads, as the lock of releases tells it.

use crate::nodes::cluster::Answer;
use crate::nodes::leader::Leadership;
use crate::release::target::{Failure, Lead};
use holdfast_api::chain;

/// What an attempt to lead means to an engine.
///
/// # Errors
/// Nobody knows: the cluster does not answer, or does not let this node take the place.
pub fn lead(attempt: Answer<Leadership>) -> Result<Lead, Failure> {
    match attempt {
        Ok(Leadership::Ours { .. }) => Ok(Lead::Ours),
        Ok(Leadership::Others { .. }) => Ok(Lead::Others),
        Ok(Leadership::Unrenewed { refused: true, reason, message }) => {
            Ok(Lead::Unrenewed(Failure::soon(reason, message)))
        }
        Ok(Leadership::Unrenewed { refused: false, reason, message }) => {
            Ok(Lead::Unrenewed(Failure::always(reason, message)))
        }
        Err(error) => Err(Failure::always(error.reason(), chain(&error))),
    }
}
