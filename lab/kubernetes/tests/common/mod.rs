//! What the tests on real Kubernetes share.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

use holdfast_lab_kubernetes::find::Kubernetes;
use std::path::Path;

/// Whoever sets it has time to build Kubernetes, and lets these tests run one at a time.
const ASKED: &str = "HOLDFAST_TEST_KUBERNETES";

/// A Kubernetes, or nothing after a word why `test` is skipped.
pub(crate) fn kubernetes(test: &str) -> Option<Kubernetes> {
    if std::env::var_os(ASKED).is_none() {
        eprintln!("skipped: it builds and runs a whole Kubernetes: {ASKED}=1 asks for it");
        return None;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: {test}: it needs root");
        return None;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_lab-k3s"));
    match Kubernetes::with_program(program, &mut |progress| eprintln!("{progress}")) {
        Ok(kubernetes) => Some(kubernetes),
        Err(error) => {
            eprintln!("skipped: {test}: {:#}", anyhow::Error::from(error));
            None
        }
    }
}
