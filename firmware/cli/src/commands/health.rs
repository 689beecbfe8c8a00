//! `holdfast health`: every check, and an exit code that says why not.

use crate::failure::Failure;
use crate::output::{Context, Paint};
use crate::units::clean;
use holdfast_api::Reason;
use holdfast_api::local::{HealthCheck, HealthReport};
use std::fmt::Write;

pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let answer = context.manager().get::<HealthReport>("/v1/health").await?;
    context.show(&answer.raw, |paint| render(&answer.known, paint))?;
    Ok(exit_code(&answer.known))
}

/// That of the worst failed check; the first among equals.
fn exit_code(health: &HealthReport) -> u8 {
    if health.healthy {
        return 0;
    }
    let reasons = health.checks.iter().filter(|check| !check.ok).filter_map(|check| check.reason);
    let worst = reasons.reduce(
        |worst, reason| {
            if reason.severity() > worst.severity() { reason } else { worst }
        },
    );
    worst.unwrap_or(Reason::Internal).exit_code()
}

pub(super) fn render(health: &HealthReport, paint: Paint) -> String {
    let failed = health.checks.iter().filter(|check| !check.ok).count();
    let mut text = match (health.healthy, failed) {
        (true, 0) => paint.good("Healthy"),
        (true, _) => paint.warn("Healthy, with warnings"),
        (false, _) => paint.bad("Not healthy"),
    };
    let _ =
        writeln!(text, ": {} of {} checks hold", health.checks.len() - failed, health.checks.len());
    let widest = health.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in &health.checks {
        text += &line(check, widest, paint);
    }
    text
}

fn line(check: &HealthCheck, widest: usize, paint: Paint) -> String {
    let mark = if check.ok { paint.good("ok ") } else { paint.bad("BAD") };
    let mut text = format!("  {mark}  {:widest$}", clean(&check.name));
    if let Some(reason) = check.reason {
        let _ = write!(text, "  {}", paint.severity(reason.severity(), reason.code()));
    }
    if !check.message.is_empty() {
        let _ = write!(text, "  {}", clean(&check.message));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    if let (false, Some(reason)) = (check.ok, check.reason) {
        let _ = writeln!(text, "       Next: {}", reason.next_step());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ok: bool, reason: Option<Reason>) -> HealthCheck {
        HealthCheck { name: "x".into(), ok, reason, message: String::new() }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_reason() {
        let report = |healthy, checks| HealthReport { healthy, checks };
        assert_eq!(exit_code(&report(true, vec![check(true, None)])), 0);
        let warned = check(false, Some(Reason::TunnelSingle));
        assert_eq!(exit_code(&report(true, vec![warned.clone()])), 0);
        let short = check(false, Some(Reason::HugepagesShort));
        let full = check(false, Some(Reason::StateDiskFull));
        let all = report(false, vec![warned.clone(), short, full]);
        assert_eq!(exit_code(&all), Reason::HugepagesShort.exit_code());
        assert_eq!(exit_code(&report(false, vec![warned])), Reason::TunnelSingle.exit_code());
        assert_eq!(exit_code(&report(false, vec![check(false, None)])), 125);
    }
}
