//! `holdfast plan`: the manager's dry run of everything, or of one release. Changes nothing.

mod manifests;

pub(crate) use manifests::ManifestsError;

use crate::failure::Failure;
use crate::output::{Context, Paint};
use crate::units::clean;
use holdfast_api::local::{Effect, PlanReport, PlannedStep, Problem, ReleaseInput, TrafficImpact};
use std::fmt::Write;
use std::path::PathBuf;

/// Changes are pending, with `--exit-code`.
const EXIT_PENDING: u8 = 2;

/// Above the problems of a plan.
pub(super) const UNPLANNED: &str = "Cannot be planned";
/// Above those of a release.
pub(super) const IN_THE_WAY: &str = "In the way, or not known";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Exit with 2 when changes are pending, and with the worst problem's code when something
    /// cannot be planned.
    #[arg(long)]
    exit_code: bool,
    /// Plan a release instead: a YAML file, a folder of them, or what the controller wants when no
    /// path is given.
    #[arg(long, value_name = "PATH", num_args = 0..=1, value_hint = clap::ValueHint::AnyPath)]
    #[allow(clippy::option_option, reason = "absent, without a path, with one")]
    release: Option<Option<PathBuf>>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let manager = context.manager();
    let answer = match &args.release {
        None => manager.get::<PlanReport>("/v1/plan").await?,
        Some(None) => manager.plan_release(&ReleaseInput::default()).await?,
        Some(Some(path)) => {
            let input = manifests::read(path).map_err(|source| Failure::Manifests { source })?;
            manager.plan_release(&input).await?
        }
    };
    let heading = if args.release.is_some() { IN_THE_WAY } else { UNPLANNED };
    context.show(&answer.raw, |paint| render(&answer.known, heading, paint))?;
    Ok(if args.exit_code { exit_code(&answer.known) } else { 0 })
}

fn exit_code(plan: &PlanReport) -> u8 {
    let worst = plan
        .problems
        .iter()
        .reduce(|worst, problem| if problem.severity > worst.severity { problem } else { worst });
    match worst {
        Some(problem) => problem.reason.exit_code(),
        None if plan.steps.is_empty() => 0,
        None => EXIT_PENDING,
    }
}

pub(super) fn render(plan: &PlanReport, heading: &str, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if plan.steps.is_empty() && plan.problems.is_empty() {
        text += "Nothing to do.\n";
    }
    if !plan.steps.is_empty() {
        let _ = writeln!(text, "{}", paint.bold(&summary(&plan.steps)));
    }
    let mut domain = None;
    for (index, step) in plan.steps.iter().enumerate() {
        if domain != Some(&step.domain) {
            domain = Some(&step.domain);
            let _ = writeln!(text, "\n{}", paint.bold(&clean(&step.domain)));
        }
        let _ = writeln!(text, "  {:>2}. {}", index + 1, clean(&step.text));
        let _ = writeln!(
            text,
            "      {}, {}",
            effect(step.effect, paint),
            traffic(step.traffic, paint)
        );
    }
    if !plan.problems.is_empty() {
        let gap = if plan.steps.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{}", paint.bold(heading));
    }
    for problem in &plan.problems {
        text += &complaint(problem, paint);
    }
    text
}

fn complaint(problem: &Problem, paint: Paint) -> String {
    format!(
        "  {}  {}\n      Next: {}\n",
        paint.severity(problem.severity, problem.reason.code()),
        clean(&problem.message),
        clean(&problem.next_step),
    )
}

fn summary(steps: &[PlannedStep]) -> String {
    let count = match steps.len() {
        1 => "1 step".into(),
        more => format!("{more} steps"),
    };
    let reboots = steps.iter().any(|step| step.effect == Effect::Reboot);
    let impact = steps.iter().map(|step| step.traffic).max().unwrap_or(TrafficImpact::None);
    let impact = match impact {
        TrafficImpact::None => "traffic is not touched",
        TrafficImpact::Brief => "traffic fails over briefly",
        TrafficImpact::Interrupted => "traffic is interrupted",
    };
    format!("{count}; {impact}{}", if reboots { "; a reboot is needed" } else { "" })
}

fn effect(effect: Effect, paint: Paint) -> String {
    match effect {
        Effect::Live => paint.good("live"),
        Effect::Restart => paint.warn("restart of a service"),
        Effect::Reboot => paint.bad("reboot"),
    }
}

fn traffic(impact: TrafficImpact, paint: Paint) -> String {
    match impact {
        TrafficImpact::None => paint.dim("traffic not touched"),
        TrafficImpact::Brief => paint.warn("traffic fails over briefly"),
        TrafficImpact::Interrupted => paint.bad("traffic interrupted until it is done"),
    }
}
