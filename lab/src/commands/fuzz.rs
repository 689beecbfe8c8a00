//! `lab fuzz`: the fuzzers of `fuzz/`, one after the other.
//!
//! What they find on the way stays with what cargo builds, so that the next run begins where this
//! one ended; with `--keep` what reaches code that nothing in the tree reaches is put there.

use super::own_target_dir;
use anyhow::{Context, ensure};
use clap::Args;
use lab::packages;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longer inputs find nothing that shorter ones do not.
const LONGEST_BYTES: u32 = 8192;

#[derive(Debug, Args)]
pub(super) struct Fuzz {
    /// Which one; all when none is named.
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Put what reaches more into the tree.
    #[arg(long)]
    keep: bool,
}

impl Fuzz {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let all = targets(&fuzz.join("fuzz_targets"))?;
        if let Some(named) = &self.target {
            let known = all.join(", ");
            ensure!(all.contains(named), "there is no fuzzer {named}; there are {known}");
        }
        packages::nightly_cargo()?;
        packages::ensure_cargo_fuzz(&mut |line| eprintln!("{line}"))?;
        // What is fuzzed is what is shipped, down to the versions.
        std::fs::copy(fuzz.join("../Cargo.lock"), fuzz.join("Cargo.lock"))
            .context("cannot copy Cargo.lock to the fuzzers")?;
        let built = own_target_dir()?.join("fuzz");
        for target in all.iter().filter(|name| self.target.as_ref().is_none_or(|t| t == *name)) {
            let found = built.join("corpus").join(target);
            std::fs::create_dir_all(&found)
                .with_context(|| format!("cannot make {}", found.display()))?;
            let kept = fuzz.join("corpus").join(target);
            eprintln!("{target}: {} s", self.seconds);
            if !self.fuzz(target, &built, [&found, &kept])? {
                eprintln!("{target} found something; the input is named above");
                return Ok(ExitCode::FAILURE);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// False when something was found.
    fn fuzz(
        &self,
        target: &str,
        built: &Path,
        [found, kept]: [&PathBuf; 2],
    ) -> anyhow::Result<bool> {
        let libfuzzer = |corpora: [&PathBuf; 2], option: String| -> anyhow::Result<bool> {
            let mut command = packages::nightly_cargo()?;
            command.args(["fuzz", "run", "--target-dir"]).arg(built).arg(target).args(corpora);
            command.args(["--", &option, &format!("-max_len={LONGEST_BYTES}")]);
            let status = command.status().context("cannot run cargo fuzz")?;
            Ok(status.success())
        };
        if !libfuzzer([found, kept], format!("-max_total_time={}", self.seconds))? {
            return Ok(false);
        }
        match self.keep {
            true => libfuzzer([kept, found], "-merge=1".into()),
            false => Ok(true),
        }
    }
}

/// The fuzzers, each a file.
fn targets(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        all.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzzer_has_a_corpus_and_a_program() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let all = targets(&fuzz.join("fuzz_targets")).unwrap();
        assert!(all.len() >= 5, "{all:?}");
        for target in all {
            assert!(fuzz.join("corpus").join(&target).is_dir(), "{target}");
            assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target}");
        }
    }
}
