//! `lab sanitize`: what goes through the one module with `unsafe` of the data path, under
//! AddressSanitizer, and what of it needs no kernel under Miri.

use super::own_target_dir;
use anyhow::Context;
use clap::Args;
use lab::packages::{self, Purpose};
use std::path::Path;
use std::process::ExitCode;

/// Tests that send and receive by `tunnels/src/wireguard/sys.rs`: devices over loopback.
const UNITS: [&str; 2] = ["--lib", "wireguard::"];

/// Such tests as well: whole programs in namespaces.
const PROGRAMS: [&str; 5] =
    ["--test=faults", "--test=ipv6", "--test=marks", "--test=program", "--test=wireguard"];

/// What Miri can run of it: memory, and the headers of messages.
const UNDER_MIRI: &str = "wireguard::sys::";

#[derive(Debug, Args)]
pub(super) struct Sanitize {}

impl Sanitize {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        packages::nightly_cargo()?;
        super::up::install(Purpose::Tests)?;
        let built = own_target_dir()?.join("sanitize");
        // With a triple named, only what runs is built with the sanitizer, not what builds.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        for tests in [&UNITS[..], &PROGRAMS] {
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
        match packages::has_miri() {
            Ok(()) => miri(&built.join("miri")),
            Err(error) => {
                eprintln!("skipped: {error}");
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn miri(built: &Path) -> anyhow::Result<ExitCode> {
    let mut command = packages::nightly_cargo()?;
    command.args(["miri", "test", "--package", "tunnels", "--lib", "--target-dir"]);
    let status = command.arg(built).arg(UNDER_MIRI).status().context("cannot run cargo miri")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
