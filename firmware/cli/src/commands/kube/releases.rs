//! `holdfast kube releases`: the release that is wanted, the one in force, and those that failed.

use super::{STATE, words};
use crate::failure::Failure;
use crate::output::{Context, Paint, Table};
use crate::units::{clean, since_start};
use holdfast_api::Severity;
use holdfast_api::kubernetes::{KubernetesState, ReleaseRef};
use jiff::Timestamp;
use std::fmt::Write;

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let answer = context.manager().get::<KubernetesState>(STATE).await?;
    let now = Timestamp::now();
    context.show(&answer.raw["release"], |paint| render(&answer.known, now, paint))?;
    Ok(0)
}

pub(super) fn render(state: &KubernetesState, now: Timestamp, paint: Paint) -> String {
    // Writing to a String cannot fail.
    let release = &state.release;
    let mut text = words::release_phase(release.phase, paint);
    if let Some(since) = release.since {
        let _ = write!(text, " for {}", words::age(now, since));
    }
    if let Some(reason) = release.reason {
        let _ = write!(text, "  {}", words::code(reason, paint));
    }
    let step = words::step(release);
    if !step.is_empty() {
        let _ = write!(text, "  {step}");
    }
    text.push('\n');
    if let Some(reason) = release.reason.filter(|reason| reason.severity() > Severity::Info) {
        let _ = writeln!(text, "  Next: {}", reason.next_step());
    }
    let mut table = Table::bare();
    let none = "none".to_owned();
    table.row([paint.dim("Wanted"), named(&release.wanted).unwrap_or_else(|| none.clone())]);
    let good = release.good.as_ref().and_then(named);
    table.row([paint.dim("In force"), good.unwrap_or(none)]);
    if !state.release_ms.is_empty() {
        let took: Vec<String> = state
            .release_ms
            .iter()
            .map(|(phase, ms)| format!("{} {}", clean(phase), since_start(*ms)))
            .collect();
        table.row([paint.dim("The last one took"), took.join(", ")]);
    }
    let _ = write!(text, "\n{}", table.render());
    text + &failed(state, now, paint)
}

/// The versions that failed, newest first, and how to try one again.
fn failed(state: &KubernetesState, now: Timestamp, paint: Paint) -> String {
    if state.release.failed.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["RELEASE", "REASON", "FAILED", "AGO", "WHY"]);
    for failed in state.release.failed.iter().rev() {
        let said = match failed.message.as_str() {
            "" => failed.reason.sentence().to_owned(),
            message => clean(message),
        };
        table.row([
            words::release_name(&failed.release).unwrap_or_else(|| "?".into()),
            words::code(failed.reason, paint),
            words::moment(failed.at),
            words::age(now, failed.at),
            said,
        ]);
    }
    // What a site asks for next must be more than what it asked for before.
    let more = state.release.wanted.force.saturating_add(1);
    format!(
        "\n{}\n{}  A version that failed is not tried again by itself. Release a corrected one, or ask for it\n  \
         once more by raising `force` of the site on the controller:\n    \
         kubectl -n TENANT patch site SITE --type merge -p '{{\"spec\":{{\"kubernetes\":{{\"force\":{more}}}}}}}'\n",
        paint.bold("Versions that failed"),
        table.render(),
    )
}

fn named(release: &ReleaseRef) -> Option<String> {
    let name = words::release_name(release)?;
    let mut text = name;
    if !release.digest.is_empty() {
        let _ = write!(text, "  sha256:{}", words::digest(release));
    }
    if release.force > 0 {
        let _ = write!(text, ", forced {}", times(release.force));
    }
    Some(text)
}

fn times(count: u32) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}
