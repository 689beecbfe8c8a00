//! Why is an object not as it should be?

use holdfast_api::Reason;

/// Why an object does not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Our code.
    pub reason: Reason,
    /// Kubernetes' word, such as `ImagePullBackOff`.
    pub word: String,
    /// In detail: which pod and container, and what it says.
    pub message: String,
    /// It will hardly pass by itself: waiting for longer is idle.
    pub hopeless: bool,
}
