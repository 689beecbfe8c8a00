//! `holdfast reason [CODE]`: the table of reason codes, without a manager.

use crate::failure::Failure;
use crate::output::{Context, Paint, Table};
use holdfast_api::{Reason, Severity};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A code such as `token.expired`, or the beginning of some; all when left out.
    code: Option<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let code = args.code.as_deref().unwrap_or_default();
    if let Some(reason) = Reason::from_code(code) {
        context.show(&describe(reason), |paint| explain(reason, paint))?;
        return Ok(0);
    }
    let some: Vec<Reason> =
        Reason::ALL.iter().copied().filter(|reason| reason.code().starts_with(code)).collect();
    if some.is_empty() {
        let hint = "; `holdfast reason` lists all";
        return Err(Failure::Usage(format!("there is no reason code {code:?}{hint}")));
    }
    let raw = some.iter().copied().map(describe).collect();
    context.show(&Value::Array(raw), |paint| list(&some, paint))?;
    Ok(0)
}

fn describe(reason: Reason) -> Value {
    json!({
        "code": reason.code(),
        "severity": reason.severity(),
        "exitCode": reason.exit_code(),
        "sentence": reason.sentence(),
        "nextStep": reason.next_step(),
    })
}

fn explain(reason: Reason, paint: Paint) -> String {
    format!(
        "{}\n{}\n\n  Next       {}\n  Severity   {}\n  Exit code  {}\n  Page       {}\n",
        paint.severity(reason.severity(), reason.code()),
        reason.sentence(),
        reason.next_step(),
        severity(reason.severity()),
        reason.exit_code(),
        reason.anchor(),
    )
}

fn list(reasons: &[Reason], paint: Paint) -> String {
    let mut table = Table::new(&["CODE", "EXIT", "SENTENCE"]);
    for reason in reasons {
        table.row([
            paint.severity(reason.severity(), reason.code()),
            reason.exit_code().to_string(),
            reason.sentence().into(),
        ]);
    }
    table.render()
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}
