//! The steps from one version to another, as data: the log prints them, and tests kill the manager
//! around each.

use super::Version;
use crate::step_kinds::step_kinds;
use std::fmt;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch and verify the program.
    Fetch(Version),
    /// Move the workloads away, for this version.
    Drain(Version),
    /// Run the new version.
    Switch(Version),
    /// The new version is good.
    Commit,
    /// Run the one before again.
    SwitchBack,
    /// Take workloads again.
    Uncordon,
    /// Wait for the node's turn to be restarted.
    StepAside,
    /// Restart the version that runs.
    Restart,
}

step_kinds! { Fetch Drain Switch Commit SwitchBack Uncordon StepAside Restart }

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fetch(version) => write!(f, "fetch Kubernetes {version}"),
            Step::Drain(version) => write!(f, "drain the node for Kubernetes {version}"),
            Step::Switch(version) => write!(f, "switch to Kubernetes {version}"),
            Step::Commit => f.write_str("keep the new version of Kubernetes"),
            Step::SwitchBack => f.write_str("switch back to the version of Kubernetes before"),
            Step::Uncordon => f.write_str("let the node take workloads again"),
            Step::StepAside => f.write_str("wait for this node's turn to restart Kubernetes"),
            Step::Restart => f.write_str("restart Kubernetes"),
        }
    }
}
