//! Tools of the Rust toolchain that the tests use beside cargo itself.

use super::find;
use std::process::{Command, Stdio};

/// The version whose rules `deny.toml` is written for.
pub const CARGO_DENY_VERSION: &str = "0.20.2";

/// A tool could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// cargo could not be run.
    #[error("cannot run cargo")]
    Run(#[source] std::io::Error),
    /// cargo could not install it.
    #[error(
        "`cargo install --locked {tool} --version {version}` failed; is the package registry reachable?"
    )]
    Install {
        /// The tool.
        tool: &'static str,
        /// Its version.
        version: &'static str,
    },
}

/// The cargo that runs us, or the one on `PATH`.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.stdin(Stdio::null());
    command
}

/// Sees to it that `cargo deny` is there, in any version; installs the pinned one when it is not.
///
/// # Errors
/// It is not there and cannot be installed.
pub fn ensure_cargo_deny(say: &mut dyn FnMut(&str)) -> Result<(), ToolError> {
    if runs(&["deny", "--version"]) {
        return Ok(());
    }
    say(&format!(
        "installing cargo-deny {CARGO_DENY_VERSION}: it checks licences and sources of dependencies"
    ));
    let status = cargo()
        .args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY_VERSION])
        .status()
        .map_err(ToolError::Run)?;
    if status.success() {
        Ok(())
    } else {
        Err(ToolError::Install { tool: "cargo-deny", version: CARGO_DENY_VERSION })
    }
}

/// Whether `cargo nextest` is there; without it the tests run under `cargo test`.
pub fn has_nextest() -> bool {
    find("cargo-nextest").is_some() || runs(&["nextest", "--version"])
}

fn runs(arguments: &[&str]) -> bool {
    let status = cargo().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
