//! Whether a test may run a whole Kubernetes: only when it is asked for. Else it says why it is
//! skipped, and ends well.

use crate::find::Kubernetes;

/// Whoever sets it has time and memory for clusters: tests that run side by side have one each.
pub const ASKED: &str = "HOLDFAST_TEST_KUBERNETES";

/// A Kubernetes, or nothing after a word on standard error why `test` is skipped.
pub fn kubernetes(test: &str) -> Option<Kubernetes> {
    let skip = |why: String| {
        eprintln!("skipped: {test}: {why}");
        None
    };
    if std::env::var_os(ASKED).is_none() {
        return skip(format!("it runs a whole Kubernetes: {ASKED}=1 asks for it"));
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("it needs root".into());
    }
    match Kubernetes::find_or_build(&mut |progress| eprintln!("{progress}")) {
        Ok(kubernetes) => Some(kubernetes),
        Err(error) => skip(format!("{:#}", anyhow::Error::from(error))),
    }
}
