//! `lab sanitize`: what goes through the one module with `unsafe` of the data path, under
//! AddressSanitizer.

use super::own_target_dir;
use anyhow::Context;
use clap::Args;
use lab::packages::{self, Purpose};
use std::process::ExitCode;

/// Tests that send and receive by `tunnels/src/wireguard/sys.rs`: devices over loopback, and whole
/// programs in namespaces.
const TESTS: [&[&str]; 2] =
    [&["--lib", "wireguard::"], &["--test", "wireguard", "--test", "faults"]];

#[derive(Debug, Args)]
pub(super) struct Sanitize {}

impl Sanitize {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        packages::nightly_cargo()?;
        super::up::install(Purpose::Tests)?;
        let built = own_target_dir()?.join("sanitize");
        // With a triple named, only what runs is built with the sanitizer, not what builds.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        for tests in TESTS {
            let mut command = packages::nightly_cargo()?;
            command.args(["test", "--package", "tunnels", "--target", &triple, "--target-dir"]);
            command.arg(&built).args(tests);
            command.env("RUSTFLAGS", "-Zsanitizer=address");
            // Memory that is kept back for long would look as if it were leaked.
            command.env("ASAN_OPTIONS", "quarantine_size_mb=4");
            if !command.status().context("cannot run cargo")?.success() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
