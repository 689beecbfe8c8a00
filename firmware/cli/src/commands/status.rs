//! `holdfast status`: the node at a glance, and waiting for a stage.

use super::wait::{Verdict, Wait, parse_span};
use super::{kube, tunnels};
use crate::failure::{Failure, stage_name};
use crate::manager::Answer;
use crate::output::{Context, Paint, Table};
use crate::units::{clean, since_start, span};
use holdfast_api::Severity;
use holdfast_api::local::{ItemReport, ItemState, NodeReport, Stage};
use jiff::Timestamp;
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until the node is in this stage or further: `no-token`, `registering`,
    /// `awaiting-approval`, `bootstrapping`, `online`; or in just this one: `degraded`, `refused`.
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    wait: Option<Stage>,
    /// How long to wait: `90`, `90s`, `5m` or `1h`.
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "60s", requires = "wait")]
    timeout: Duration,
    /// Also tell which hardware profiles were considered, and why not the others.
    #[arg(long)]
    why: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let answer = match args.wait {
        None => context.manager().get::<NodeReport>("/v1/status").await?,
        Some(wanted) => wait(context, wanted, args.timeout).await?,
    };
    context.show(&answer.raw, |paint| {
        let mut text = render(&answer.known, Timestamp::now(), paint);
        if args.why {
            text += &explanation(&answer.known, paint);
        }
        text
    })?;
    Ok(0)
}

/// Looks until `wanted` is reached and tells every change on standard error.
async fn wait(
    context: &Context,
    wanted: Stage,
    timeout: Duration,
) -> Result<Answer<NodeReport>, Failure> {
    let manager = context.manager();
    let wait = Wait { manager: &manager, path: "/v1/status", timeout, patient: &[] };
    wait.until(progress, |report: &NodeReport, after| {
        let NodeReport { stage: is, reason, .. } = *report;
        let failure = Failure::Waited { wanted, is, after, reason };
        match is {
            is if reached(is, wanted) => Verdict::Reached,
            // Only a person can change this.
            Stage::Refused => Verdict::Hopeless(failure),
            _ => Verdict::NotYet(failure),
        }
    })
    .await
}

fn progress(report: &NodeReport) -> String {
    let mut text = stage_name(report.stage).to_owned();
    if let Some(reason) = report.reason {
        let _ = write!(text, " [{reason}]");
    }
    if !report.message.is_empty() {
        let _ = write!(text, "  {}", clean(&report.message));
    }
    text
}

/// Whether a node that is in stage `is` has come as far as `wanted`.
fn reached(is: Stage, wanted: Stage) -> bool {
    match (is, wanted) {
        (_, Stage::Degraded | Stage::Refused) | (Stage::Refused, _) => is == wanted,
        (Stage::Degraded, _) => wanted != Stage::Online,
        (_, _) => is >= wanted,
    }
}

pub(super) fn render(report: &NodeReport, now: Timestamp, paint: Paint) -> String {
    // Writing to a String cannot fail.
    let mut text = headline(report, paint);
    let mut table = Table::bare();
    for (name, value) in facts(report, paint) {
        table.row([paint.dim(name), value]);
    }
    text.push('\n');
    text += &table.render();
    text.push('\n');
    match &report.tunnels {
        Some(state) => text += &tunnels::table(state, paint),
        None => text += "No word from tunneld.\n",
    }
    if let Some(state) = &report.kubernetes {
        text.push('\n');
        text += &kube::section(state, now, paint);
    }
    if !report.items.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("Items"));
        let widest = report.items.iter().map(|item| item.domain.chars().count()).max();
        for item in &report.items {
            text += &line(item, widest.unwrap_or(0), paint);
        }
    }
    text
}

/// Who the node is, how it is, and what can be done about it.
fn headline(report: &NodeReport, paint: Paint) -> String {
    let mut text = match (report.node.as_str(), report.site.as_str()) {
        ("", _) => paint.bold("A node without a name yet"),
        (node, "") => paint.bold(&clean(node)),
        (node, site) => format!("{}, site {}", paint.bold(&clean(node)), clean(site)),
    };
    if !report.tenant.is_empty() {
        let _ = write!(text, ", tenant {}", clean(&report.tenant));
    }
    let _ = write!(text, "\n{}", paint.stage(report.stage, stage_name(report.stage)));
    if let Some(milliseconds) = in_stage(report) {
        let _ = write!(text, " for {}", span(milliseconds / 1000));
    }
    if let Some(reason) = report.reason {
        let _ = write!(text, "  {}", paint.severity(reason.severity(), reason.code()));
    }
    let said = match (report.message.as_str(), report.reason) {
        ("", Some(reason)) => reason.sentence(),
        (message, _) => message,
    };
    if !said.is_empty() {
        let _ = write!(text, "  {}", clean(said));
    }
    text.push('\n');
    if !report.next_step.is_empty() {
        let _ = writeln!(text, "  Next: {}", clean(&report.next_step));
    }
    text
}

/// For how many milliseconds the node has been in its stage; none when the manager does not say.
fn in_stage(report: &NodeReport) -> Option<u64> {
    let since = report.stages.last().filter(|at| at.stage == report.stage)?;
    report.uptime_ms.checked_sub(since.at_ms)
}

fn facts(report: &NodeReport, paint: Paint) -> Vec<(&'static str, String)> {
    // The last line is the conclusion; the ones before it are the candidates, many of them.
    let mut profile = clean(&report.profile);
    if let Some(why) = report.profile_explanation.last() {
        let _ = write!(profile, "  {}", paint.dim(&format!("({})", clean(why))));
    }
    let controller = match (report.controller.as_str(), report.controller_reachable) {
        ("", _) => "not known yet".into(),
        (address, true) => format!("{}  {}", clean(address), paint.good("answers")),
        (address, false) => format!("{}  {}", clean(address), paint.warn("does not answer")),
    };
    let generation = match report.generation {
        0 => "none yet".into(),
        number => format!("generation {number}"),
    };
    let stages: Vec<String> = report
        .stages
        .iter()
        .map(|at| format!("{} {}", stage_name(at.stage), since_start(at.at_ms)))
        .collect();
    let mut facts = vec![
        ("Hardware", clean(&report.hardware)),
        ("Profile", profile),
        ("Controller", controller),
        ("Configuration", generation),
        ("Firmware", clean(&report.version)),
    ];
    if !stages.is_empty() {
        facts.push(("Since start", stages.join(", ")));
    }
    facts
}

pub(super) fn explanation(report: &NodeReport, paint: Paint) -> String {
    let mut text = format!("\n{}\n", paint.bold("Why this hardware profile"));
    for why in &report.profile_explanation {
        let _ = writeln!(text, "  {}", clean(why));
    }
    text
}

fn line(item: &ItemReport, widest: usize, paint: Paint) -> String {
    let state = match item.state {
        ItemState::Ok => paint.good("ok     "),
        ItemState::Changed => paint.good("changed"),
        ItemState::Waiting => paint.warn("waiting"),
        ItemState::Failed => paint.bad("failed "),
    };
    let mut text = format!("  {:widest$}  {state}", clean(&item.domain));
    if let Some(reason) = item.reason {
        let _ = write!(text, "  {}", paint.severity(reason.severity(), reason.code()));
    }
    if !item.message.is_empty() {
        let _ = write!(text, "  {}", clean(&item.message));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    if let Some(reason) = item.reason.filter(|reason| reason.severity() > Severity::Info) {
        let _ = writeln!(text, "  {:widest$}  Next: {}", "", reason.next_step());
    }
    text
}

/// A stage in any of the spellings `AwaitingApproval`, `awaiting-approval`, `awaitingapproval`.
fn parse_stage(typed: &str) -> Result<Stage, String> {
    const ALL: [Stage; 7] = [
        Stage::NoToken,
        Stage::Registering,
        Stage::AwaitingApproval,
        Stage::Bootstrapping,
        Stage::Online,
        Stage::Degraded,
        Stage::Refused,
    ];
    let plain = typed.replace('-', "").to_ascii_lowercase();
    ALL.into_iter()
        .find(|stage| stage_name(*stage).to_ascii_lowercase() == plain)
        .ok_or_else(|| "one of no-token, registering, awaiting-approval, bootstrapping, online, degraded, refused".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_read_in_every_spelling() {
        for typed in ["AwaitingApproval", "awaiting-approval", "awaitingapproval"] {
            assert_eq!(parse_stage(typed), Ok(Stage::AwaitingApproval));
        }
        assert!(parse_stage("up").is_err());
    }

    #[test]
    fn a_stage_is_reached_when_the_node_is_there_or_further() {
        use Stage::{AwaitingApproval, Degraded, NoToken, Online, Refused, Registering};
        assert!(reached(Online, Registering) && reached(Online, Online));
        assert!(!reached(Registering, AwaitingApproval));
        assert!(reached(Degraded, AwaitingApproval) && !reached(Degraded, Online));
        assert!(!reached(Refused, Registering) && reached(Refused, Refused));
        assert!(!reached(Online, Degraded) && !reached(NoToken, Refused));
    }
}
