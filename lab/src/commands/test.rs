//! `lab test`: everything that CI runs, with a summary at the end.

use super::kubernetes::{self, Background};
use super::skips::{self, Keeper, Skip};
use super::up;
use super::{Global, Output, print_json, table};
use anyhow::Context;
use clap::Args;
use holdfast_lab_kubernetes::asked::ASKED;
use lab::machine;
use lab::packages::{self, Purpose};
use serde::Serialize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Only these steps: fmt, deny, clippy, doc, unit, build, worlds, kubernetes, machine.
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
    /// Tests on real Kubernetes, which is built when it is not there.
    Kubernetes { arguments: Vec<&'static str>, nextest: bool },
}

/// Tests on real Kubernetes, as nextest's filters say it: integration tests of the crates that are
/// about nothing else, and programs of tests that have it in their name.
macro_rules! on_kubernetes {
    () => {
        "(kind(test) and (package(holdfast-lab-kubernetes) or package(holdfast-cluster) or binary(/kubernetes/)))"
    };
}

/// Tests that take the machine for themselves: whole worlds, and the bench, which loads every core.
macro_rules! on_a_machine_alone {
    () => {
        "((package(lab) and binary(whole_worlds)) or (package(bench-dataplane) and binary(run)))"
    };
}

/// Set for tests on real Kubernetes.
const ASKS_FOR_KUBERNETES: (&str, &str) = (ASKED, "1");

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
    /// Seconds of processor time, on all cores, of what ended while it lasted.
    cpu_seconds: f64,
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
        // Beside the steps that leave a core idle, and at the lowest priority.
        let mut background =
            match wanted.iter().any(|step| matches!(step.how, How::Kubernetes { .. })) {
                true => Background::start()?,
                false => None,
            };
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut failed = false;
        for (index, step) in wanted.iter().enumerate() {
            if failed && !self.keep_going {
                outcomes.push(Outcome {
                    step: step.name,
                    what: step.what,
                    result: Verdict::NotRun,
                    seconds: 0.0,
                    cpu_seconds: 0.0,
                    skipped: None,
                });
                continue;
            }
            eprintln!("\n[{}/{}] {}: {}", index + 1, wanted.len(), step.name, step.what);
            let (began, cpu_before) = (Instant::now(), cpu_of_children());
            let (result, skipped) = match &step.how {
                How::Cargo { arguments, env } => (Verdict::of(cargo(arguments, env)?), None),
                How::Nextest { arguments, env } => nextest(arguments, env)?,
                How::Machine => test_in_machine()?,
                How::Kubernetes { arguments, nextest } => {
                    test_kubernetes(background.take(), arguments, *nextest)?
                }
            };
            failed |= result == Verdict::Failed;
            outcomes.push(Outcome {
                step: step.name,
                what: step.what,
                result,
                seconds: began.elapsed().as_secs_f64(),
                cpu_seconds: cpu_of_children() - cpu_before,
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
                        format!("{:.0} s", outcome.cpu_seconds),
                    ]
                };
                let rows: Vec<Vec<String>> = outcomes.iter().map(row).collect();
                say!("\n{}", table::render(&["STEP", "WHAT", "RESULT", "TOOK", "CPU"], &rows));
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
    // Worlds want the machine for themselves, one after the other; clusters wait most of the time,
    // so there are two. The whole workspace is named again, so that nothing is built anew with other
    // features.
    let so_many = |filter, threads| {
        let threads = ["--test-threads", threads, "--no-fail-fast"];
        [&["nextest", "run", "--workspace", "-E", filter][..], &threads].concat()
    };
    let all_of = |program| {
        let one_by_one = ["--no-fail-fast", "--", "--test-threads", "1", "--nocapture"];
        ["test", "--workspace", "--test", program].into_iter().chain(one_by_one).collect()
    };
    let unit = match nextest {
        true => vec![
            "nextest",
            "run",
            "--workspace",
            "-E",
            concat!("not ", on_a_machine_alone!(), " and not ", on_kubernetes!()),
            "--no-fail-fast",
        ],
        false => vec!["test", "--workspace", "--no-fail-fast"],
    };
    let (worlds, kubernetes): (Vec<&str>, Vec<&str>) = match nextest {
        true => (so_many(on_a_machine_alone!(), "1"), so_many(on_kubernetes!(), "2")),
        false => (all_of("whole_worlds"), all_of("*")),
    };
    let tests = |name, what, arguments, env: &[(&'static str, &'static str)]| {
        let env = env.to_vec();
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
        // With the tests, whose features the steps before have built with.
        step(
            "build",
            "programs for the worlds",
            &["build", "--workspace", "--bins", "--tests", "--quiet"],
        ),
        tests("worlds", "whole worlds, end to end", worlds, &[("HOLDFAST_TEST_WORLDS", "1")]),
        Step {
            name: "kubernetes",
            what: "tests on real Kubernetes",
            how: How::Kubernetes { arguments: kubernetes, nextest },
        },
        machine,
    ]
}

/// Installs what the steps need.
fn prepare(steps: &[Step]) -> anyhow::Result<()> {
    let any = |names: &[&str]| steps.iter().any(|step| names.contains(&step.name));
    if any(&["unit", "worlds", "kubernetes"]) {
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

/// Alone: the emulated machine misses its liveness timers beside anything that computes.
fn test_in_machine() -> anyhow::Result<(Verdict, Option<Vec<Skip>>)> {
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

/// Without a Kubernetes its tests run all the same: they are skipped with that word.
fn test_kubernetes(
    background: Option<Background>,
    arguments: &[&str],
    has_nextest: bool,
) -> anyhow::Result<(Verdict, Option<Vec<Skip>>)> {
    let cannot = kubernetes::have(background)?;
    let env = match &cannot {
        None => vec![ASKS_FOR_KUBERNETES],
        Some(why) => {
            eprintln!("skipped: {why}");
            vec![]
        }
    };
    let (result, skips) = match has_nextest {
        true => nextest(arguments, &env)?,
        false => (Verdict::of(cargo(arguments, &env)?), None),
    };
    Ok(match (result, cannot) {
        (Verdict::Passed, Some(_)) => (Verdict::Skipped, skips),
        (result, _) => (result, skips),
    })
}

/// Processor time of everything that this process started and waited for, in seconds.
fn cpu_of_children() -> f64 {
    let stat = procfs::process::Process::myself().and_then(|process| process.stat());
    stat.map_or(0.0, |stat| (stat.cutime + stat.cstime) as f64 / procfs::ticks_per_second() as f64)
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
    fn worlds_are_run_one_at_a_time_and_clusters_by_two() {
        for nextest in [true, false] {
            for (name, threads) in [("worlds", "1"), ("kubernetes", "2")] {
                let steps = steps(nextest);
                let step = steps.iter().find(|step| step.name == name).unwrap();
                let arguments = match &step.how {
                    How::Cargo { arguments, env } | How::Nextest { arguments, env } => {
                        assert!(env.contains(&("HOLDFAST_TEST_WORLDS", "1")));
                        arguments
                    }
                    How::Kubernetes { arguments, .. } => arguments,
                    How::Machine => panic!("{name} runs tests of cargo"),
                };
                // Without nextest all of them are one process, whose output would be mixed.
                let threads = if nextest { threads } else { "1" };
                assert!(arguments.windows(2).any(|pair| pair == ["--test-threads", threads]));
            }
        }
    }

    #[test]
    fn what_builds_comes_before_what_wants_the_machine_for_itself() {
        let steps = steps(true);
        let place = |name: &str| steps.iter().position(|step| step.name == name);
        assert!(place("kubernetes") < place("machine"));
        assert!(place("build") < place("worlds") && place("worlds") < place("kubernetes"));
    }

    #[test]
    fn what_has_a_step_of_its_own_is_not_run_with_the_rest() {
        let steps = steps(true);
        let filter = |name: &str| {
            let step = steps.iter().find(|step| step.name == name).unwrap();
            match &step.how {
                How::Nextest { arguments, .. } | How::Kubernetes { arguments, .. } => arguments[4],
                How::Cargo { .. } | How::Machine => panic!("{name} is run by nextest"),
            }
        };
        for own in ["worlds", "kubernetes"] {
            assert!(filter("unit").contains(filter(own)), "{own}");
        }
    }
}
