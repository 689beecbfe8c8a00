//! The nightly toolchain, which fuzzers and sanitizers need and nothing else.

use super::cargo_tools::{ToolError, cargo};
use std::path::Path;
use std::process::{Command, Stdio};

/// The version whose options [`cargo_fuzz`](ensure_cargo_fuzz) is called with.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// What cargo tells its children about the toolchain that it belongs to.
const OF_THIS_TOOLCHAIN: [&str; 5] =
    ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_MANIFEST_DIR"];

/// It is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "the nightly toolchain is missing; install it with `rustup toolchain install nightly --profile minimal`"
)]
pub struct NoNightly;

/// A command of the nightly toolchain's cargo, in the workspace.
///
/// # Errors
/// There is no such toolchain.
pub fn nightly_cargo() -> Result<Command, NoNightly> {
    let there = of_nightly("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match there {
        Ok(status) if status.success() => Ok(of_nightly("--quiet")),
        _ => Err(NoNightly),
    }
}

/// Miri is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "Miri is missing; install it with `rustup component add miri rust-src --toolchain nightly`"
)]
pub struct NoMiri;

/// Whether the nightly toolchain has Miri and what it runs on; it builds that itself.
///
/// # Errors
/// One of both is missing.
pub fn has_miri() -> Result<(), NoMiri> {
    let quietly = |command: &mut Command| command.stderr(Stdio::null()).output();
    let miri = quietly(of_nightly("miri").arg("--version"));
    let sysroot =
        quietly(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    let source = sysroot.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let library = source.map(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library"));
    let is_there = miri.is_ok_and(|output| output.status.success());
    if is_there && library.is_some_and(|path| path.is_dir()) { Ok(()) } else { Err(NoMiri) }
}

fn of_nightly(first: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", first]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for name in OF_THIS_TOOLCHAIN {
        command.env_remove(name);
    }
    command
}

/// Sees to it that `cargo fuzz` is there, in any version; installs the known one when it is not.
///
/// # Errors
/// It is not there and cannot be installed.
pub fn ensure_cargo_fuzz(say: &mut dyn FnMut(&str)) -> Result<(), ToolError> {
    if super::find("cargo-fuzz").is_some() {
        return Ok(());
    }
    say(&format!("installing cargo-fuzz {CARGO_FUZZ_VERSION}: it builds and runs the fuzzers"));
    let status = cargo()
        .args(["install", "--locked", "--quiet", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION])
        .status()
        .map_err(ToolError::Run)?;
    if status.success() {
        Ok(())
    } else {
        Err(ToolError::Install { tool: "cargo-fuzz", version: CARGO_FUZZ_VERSION })
    }
}
