//! `lab test`: everything that CI runs, with a summary at the end.

use super::skips::{self, Keeper, Skip};
use super::up;
use super::{Global, Output, print_json, table};
use anyhow::Context;
use clap::Args;
use lab::machine;
use lab::packages::{self, Purpose};
use serde::Serialize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Only these steps: fmt, deny, clippy, doc, unit, machine, build, worlds.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Go on after a step that failed.
    #[arg(long)]
    keep_going: bool,
}

/// One step.
struct Step {
    name: &'static str,
    what: &'static str,
    how: How,
}

enum How {
    /// A command of cargo.
    Cargo { arguments: Vec<&'static str>, env: Vec<(&'static str, &'static str)> },
    /// Tests by nextest; it tells which were skipped.
    Nextest { arguments: Vec<&'static str>, env: Vec<(&'static str, &'static str)> },
    /// [`machine::run_tests`].
    Machine,
}

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Passed,
    Failed,
    /// It cannot run here, and said why.
    Skipped,
    /// An earlier one failed.
    NotRun,
}

impl Verdict {
    fn of(passed: bool) -> Self {
        if passed { Verdict::Passed } else { Verdict::Failed }
    }

    fn text(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
            Verdict::NotRun => "not run",
        }
    }
}

/// How a step ended.
#[derive(Debug, Serialize)]
struct Outcome {
    step: &'static str,
    what: &'static str,
    result: Verdict,
    seconds: f64,
    /// Tests that could not run here; none where the step cannot tell.
    skipped: Option<Vec<Skip>>,
}

impl Test {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let steps = steps(packages::has_nextest());
        if let Some(unknown) =
            self.steps.iter().find(|name| steps.iter().all(|step| step.name != *name))
        {
            let known: Vec<&str> = steps.iter().map(|step| step.name).collect();
            anyhow::bail!("there is no step {unknown}; there are {}", known.join(", "));
        }
        let chosen =
            |step: &Step| self.steps.is_empty() || self.steps.iter().any(|name| name == step.name);
        let wanted: Vec<Step> = steps.into_iter().filter(chosen).collect();
        prepare(&wanted)?;
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut failed = false;
        for (index, step) in wanted.iter().enumerate() {
            if failed && !self.keep_going {
                outcomes.push(Outcome {
                    step: step.name,
                    what: step.what,
                    result: Verdict::NotRun,
                    seconds: 0.0,
                    skipped: None,
                });
                continue;
            }
            eprintln!("\n[{}/{}] {}: {}", index + 1, wanted.len(), step.name, step.what);
            let began = Instant::now();
            let (result, skipped) = match &step.how {
                How::Cargo { arguments, env } => (Verdict::of(cargo(arguments, env)?), None),
                How::Nextest { arguments, env } => nextest(arguments, env)?,
                How::Machine => test_machine()?,
            };
            failed |= result == Verdict::Failed;
            outcomes.push(Outcome {
                step: step.name,
                what: step.what,
                result,
                seconds: began.elapsed().as_secs_f64(),
                skipped,
            });
        }
        match global.output {
            Output::Json => print_json(&outcomes)?,
            Output::Text => {
                let row = |outcome: &Outcome| {
                    vec![
                        outcome.step.into(),
                        outcome.what.into(),
                        outcome.result.text().into(),
                        format!("{:.1} s", outcome.seconds),
                    ]
                };
                let rows: Vec<Vec<String>> = outcomes.iter().map(row).collect();
                say!("\n{}", table::render(&["STEP", "WHAT", "RESULT", "TOOK"], &rows));
                let known: Vec<&Vec<Skip>> =
                    outcomes.iter().filter_map(|outcome| outcome.skipped.as_ref()).collect();
                if !known.is_empty() {
                    say!(
                        "\n{}",
                        skips::tell(&known.into_iter().flatten().cloned().collect::<Vec<_>>())
                    );
                }
                if !packages::has_nextest() {
                    say!("\ncargo test hides which tests were skipped; cargo-nextest tells.");
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn steps(nextest: bool) -> Vec<Step> {
    let step = |name, what, arguments: &[&'static str]| Step {
        name,
        what,
        how: How::Cargo { arguments: arguments.to_vec(), env: vec![] },
    };
    // The worlds want the machine for themselves, one after the other.
    let (unit, worlds): (&[&str], &[&str]) = match nextest {
        true => (
            &["nextest", "run", "--workspace", "--no-fail-fast"],
            &[
                "nextest",
                "run",
                // The whole workspace again, so that nothing is built anew with other features.
                "--workspace",
                "-E",
                "package(lab) and binary(whole_worlds)",
                "--test-threads",
                "1",
                "--no-fail-fast",
            ],
        ),
        false => (
            &["test", "--workspace", "--no-fail-fast"],
            &[
                "test",
                "-p",
                "lab",
                "--test",
                "whole_worlds",
                "--no-fail-fast",
                "--",
                "--test-threads",
                "1",
                "--nocapture",
            ],
        ),
    };
    let tests = |name, what, arguments: &[&'static str], env: &[(&'static str, &'static str)]| {
        let (arguments, env) = (arguments.to_vec(), env.to_vec());
        let how = match nextest {
            true => How::Nextest { arguments, env },
            false => How::Cargo { arguments, env },
        };
        Step { name, what, how }
    };
    let doc = Step {
        name: "doc",
        what: "documentation without warnings",
        how: How::Cargo {
            arguments: vec!["doc", "--workspace", "--no-deps", "--quiet"],
            env: vec![("RUSTDOCFLAGS", "-D warnings")],
        },
    };
    let machine =
        Step { name: "machine", what: "tests on a kernel of their own", how: How::Machine };
    vec![
        step("fmt", "formatting", &["fmt", "--all", "--check"]),
        step(
            "deny",
            "licences, sources and doors of dependencies",
            &["deny", "check", "bans", "licenses", "sources"],
        ),
        step(
            "clippy",
            "lints",
            &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        ),
        doc,
        tests("unit", "tests of every crate", unit, &[]),
        machine,
        step("build", "programs for the worlds", &["build", "--workspace", "--bins", "--quiet"]),
        tests("worlds", "whole worlds, end to end", worlds, &[("HOLDFAST_TEST_WORLDS", "1")]),
    ]
}

/// Installs what the steps need.
fn prepare(steps: &[Step]) -> anyhow::Result<()> {
    let any = |names: &[&str]| steps.iter().any(|step| names.contains(&step.name));
    if any(&["unit", "worlds"]) {
        up::install(Purpose::Tests)?;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not root: tests that need the kernel are skipped, and say so");
        }
    }
    if any(&["deny"]) {
        packages::ensure_cargo_deny(&mut |line| eprintln!("{line}"))?;
    }
    Ok(())
}

fn nextest(
    arguments: &[&str],
    env: &[(&str, &str)],
) -> anyhow::Result<(Verdict, Option<Vec<Skip>>)> {
    let keeper = Keeper::new()?;
    let asked = keeper.arguments();
    let arguments: Vec<&str> =
        arguments.iter().copied().chain(asked.iter().map(String::as_str)).collect();
    let passed = cargo(&arguments, env)?;
    Ok((Verdict::of(passed), keeper.skips()))
}

fn test_machine() -> anyhow::Result<(Verdict, Option<Vec<Skip>>)> {
    let options = machine::Options::default();
    match machine::run_tests(&options, &mut |line| eprintln!("machine: {line}")) {
        Ok(report) => {
            super::machine::print(&report);
            let skip = |result: &machine::TestResult| match &result.outcome {
                machine::Outcome::Skipped { reason } => Some(Skip {
                    test: format!("(machine) {}", result.test),
                    reason: reason.clone(),
                }),
                machine::Outcome::Passed | machine::Outcome::Failed => None,
            };
            let skipped = report.results.iter().filter_map(skip).collect();
            Ok((Verdict::of(report.passed()), Some(skipped)))
        }
        Err(error) if error.skips() => {
            eprintln!("skipped: {:#}", anyhow::Error::from(error));
            Ok((Verdict::Skipped, None))
        }
        Err(error) => Err(error.into()),
    }
}

fn cargo(arguments: &[&str], env: &[(&str, &str)]) -> anyhow::Result<bool> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(arguments).envs(env.iter().copied());
    // `cargo lab` sets it for us, and it would make cargo build everything anew.
    command.env_remove("CARGO_MANIFEST_DIR");
    command.status().map(|status| status.success()).context("cannot run cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_run_one_at_a_time_either_way() {
        for nextest in [true, false] {
            let steps = steps(nextest);
            let worlds = steps.iter().find(|step| step.name == "worlds").unwrap();
            let (How::Cargo { arguments, env } | How::Nextest { arguments, env }) = &worlds.how
            else {
                panic!("worlds are a cargo test")
            };
            let threads = arguments.windows(2).any(|pair| pair == ["--test-threads", "1"]);
            assert!(threads && env.contains(&("HOLDFAST_TEST_WORLDS", "1")));
        }
    }
}
