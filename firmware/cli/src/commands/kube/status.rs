//! `holdfast kube status`: Kubernetes at a glance, and waiting until it and the release are there.

use super::super::wait::{Verdict, Wait};
use super::{STATE, words};
use crate::failure::Failure;
use crate::output::{Context, Paint, Table};
use crate::units::{clean, since_start};
use holdfast_api::kubernetes::{
    ComponentState, KubernetesPhase, KubernetesState, PodProblem, ReleasePhase,
};
use holdfast_api::local::Problem;
use holdfast_api::{Reason, Severity};
use jiff::Timestamp;
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until Kubernetes is ready and the wanted release is in force.
    #[arg(long)]
    wait: bool,
    /// How long to wait: `90`, `90s`, `5m` or `1h`.
    #[arg(long, value_name = "TIME", value_parser = super::parse_span, default_value = "10m", requires = "wait")]
    timeout: Duration,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let manager = context.manager();
    let answer = if args.wait {
        let timeout = args.timeout;
        // The controller may ask for Kubernetes while it is being waited for.
        let patient = &[Reason::KubernetesAbsent];
        Wait { manager: &manager, path: STATE, timeout, patient }.until(progress, judge).await?
    } else {
        manager.get::<KubernetesState>(STATE).await?
    };
    context.show(&answer.raw, |paint| render(&answer.known, Timestamp::now(), paint))?;
    Ok(0)
}

/// One line that changes when something changes.
pub(super) fn progress(state: &KubernetesState) -> String {
    let plain = Paint(false);
    let mut text = words::phase_name(state.phase).to_owned();
    if let Some(reason) = state.reason {
        let _ = write!(text, " [{reason}]");
    }
    if !state.message.is_empty() {
        let _ = write!(text, "  {}", clean(&state.message));
    }
    if words::release_name(&state.release.wanted).is_some() {
        let _ = write!(text, "; release {}", words::release_line(&state.release, plain));
    }
    text
}

/// Whether Kubernetes is ready and the wanted release is in force.
pub(super) fn judge(state: &KubernetesState, after: Duration) -> Verdict {
    let release = &state.release;
    let ready = state.phase == KubernetesPhase::Ready;
    if ready && words::settled(release) {
        return Verdict::Reached;
    }
    // The release that is wanted was given up, and only a person can change that.
    if let ReleasePhase::RolledBack | ReleasePhase::Refused = release.phase {
        let reason = release.reason.unwrap_or(match release.phase {
            ReleasePhase::Refused => Reason::ReleaseRefused,
            _ => Reason::ReleaseRolledBack,
        });
        let said = words::step(release);
        let said = if said.is_empty() { reason.sentence().into() } else { said };
        let name = words::release_name(&release.wanted).unwrap_or_default();
        let problem = Problem::new(reason, format!("release {name}: {said}"));
        return Verdict::Hopeless(Failure::Failed { problem: Box::new(problem) });
    }
    let mut what = format!("Kubernetes is {}", words::phase_name(state.phase));
    let name = words::release_name(&release.wanted).unwrap_or_default();
    if words::doubted(release) {
        let _ = write!(what, " and it is not known whether all of release {name} is there");
    } else if !words::settled(release) {
        let _ = write!(what, " and release {name} is {}", words::release_phase_name(release.phase));
    }
    let reason = if ready { release.reason } else { state.reason.or(release.reason) };
    Verdict::NotYet(Failure::NotYet { what, after, reason })
}

pub(super) fn render(state: &KubernetesState, now: Timestamp, paint: Paint) -> String {
    // Writing to a String cannot fail.
    let mut text = headline(state, paint);
    if state.phase == KubernetesPhase::Off {
        return text;
    }
    let ready = state.ready_after_ms.map_or_else(
        || "not yet since its last start".into(),
        |ms| format!("{} after its last start", since_start(ms)),
    );
    let mut table = Table::bare();
    for (name, value) in [
        ("Version", clean(&state.version)),
        ("Role", words::role(state.role).into()),
        ("Ready", ready),
        ("Starts", starts(state)),
        ("Release", words::release_line(&state.release, paint)),
    ] {
        table.row([paint.dim(name), value]);
    }
    snapshots(&mut table, state, now, paint);
    let _ = write!(text, "\n{}", table.render());
    text += &parts("Components", &state.components, paint);
    text += &parts("Conditions of the node", &state.conditions, paint);
    let _ = writeln!(
        text,
        "\n{}: {}",
        paint.bold("Pods of the node"),
        words::pods_line(&state.pods, paint)
    );
    for problem in &state.pods.problems {
        text += &pod(problem, paint);
    }
    let left = u64::from(state.pods.failed).saturating_sub(state.pods.problems.len() as u64);
    if left > 0 && !state.pods.problems.is_empty() {
        let _ = writeln!(text, "  and {left} more");
    }
    text
}

fn starts(state: &KubernetesState) -> String {
    let mut text = format!("{} since the manager started", state.starts);
    if state.ends > 0 {
        let times = if state.ends == 1 { "once" } else { &format!("{} times", state.ends) };
        let _ = write!(text, "; it ended by itself {times}");
    }
    text
}

/// The short form, for `holdfast status`.
pub(crate) fn section(state: &KubernetesState, now: Timestamp, paint: Paint) -> String {
    let text = format!("{}: {}", paint.bold("Kubernetes"), headline(state, paint));
    if state.phase == KubernetesPhase::Off {
        return text;
    }
    let mut table = Table::bare();
    let version = format!("{}, {}", clean(&state.version), words::role(state.role));
    table.row([paint.dim("Version"), version]);
    let unwell: Vec<String> = state
        .components
        .iter()
        .chain(&state.conditions)
        .filter(|part| !part.ok)
        .map(|part| paint.bad(&clean(&part.name)))
        .collect();
    if !unwell.is_empty() {
        table.row([paint.dim("Not well"), unwell.join(", ")]);
    }
    table.row([paint.dim("Pods"), words::pods_line(&state.pods, paint)]);
    table.row([paint.dim("Release"), words::release_line(&state.release, paint)]);
    snapshots(&mut table, state, now, paint);
    text + &table.render()
}

/// An agent has no datastore, so nothing is said of its snapshots.
fn snapshots(table: &mut Table, state: &KubernetesState, now: Timestamp, paint: Paint) {
    if state.role.is_server() {
        let line = words::snapshots_line(&state.snapshots, now, paint);
        table.row([paint.dim("Snapshots"), line]);
    }
}

/// The phase, why, and what can be done about it.
fn headline(state: &KubernetesState, paint: Paint) -> String {
    let mut text = words::phase(state.phase, paint);
    if let Some(reason) = state.reason {
        let _ = write!(text, "  {}", words::code(reason, paint));
    }
    let said = match (state.message.as_str(), state.reason, state.phase) {
        ("", Some(reason), _) => reason.sentence(),
        ("", None, KubernetesPhase::Off) => "The site does not ask for Kubernetes on this node.",
        (message, _, _) => message,
    };
    if !said.is_empty() {
        let _ = write!(text, "  {}", clean(said));
    }
    text.push('\n');
    if let Some(reason) = state.reason.filter(|reason| reason.severity() > Severity::Info) {
        let _ = writeln!(text, "  Next: {}", reason.next_step());
    }
    text
}

fn parts(heading: &str, all: &[ComponentState], paint: Paint) -> String {
    if all.is_empty() {
        return String::new();
    }
    let well = all.iter().filter(|part| part.ok).count();
    let heading = format!("{heading}, {well} of {} as they should be", all.len());
    let mut table = Table::bare();
    for part in all {
        let word = if part.ok { paint.good("ok") } else { paint.bad("BAD") };
        table.row([clean(&part.name), word, clean(&part.message)]);
    }
    format!("\n{}\n{}", paint.bold(&heading), table.render())
}

fn pod(problem: &PodProblem, paint: Paint) -> String {
    let mut text = format!(
        "  {}: {}  {}",
        clean(&problem.pod),
        words::code(problem.code, paint),
        clean(&problem.reason)
    );
    if !problem.message.is_empty() {
        let _ = write!(text, ": {}", clean(&problem.message));
    }
    let _ = writeln!(text, "\n    Next: {}", problem.code.next_step());
    text
}
