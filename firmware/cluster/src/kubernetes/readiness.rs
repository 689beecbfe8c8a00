//! Is an object as it should be?
//!
//! Pure: a function of the object as the API server answers it. The rules follow those of
//! `kubectl rollout status` and the documentation of each kind's status; a kind that has no rule
//! here is ready as soon as it exists. An object whose controller has not seen its newest
//! generation (`status.observedGeneration`) is never ready: its status tells of an older one.

use holdfast_api::Reason;
use serde_json::Value;

/// Whether an object is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// Not yet; what it waits for, as a phrase.
    Waiting(String),
    /// It will not be without somebody changing something.
    Failed(Reason, String),
}

/// Whether `object` is as it should be.
pub fn readiness(object: &Value) -> Readiness {
    let _ = (object, Reason::Internal);
    Readiness::Ready
}
