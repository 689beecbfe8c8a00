//! `holdfast kube snapshots`, `snapshot` and `drill`: what there is to restore from, one more of
//! it, and the proof that it can be restored.

use super::super::wait::Verdict;
use super::{STATE, Waiting, words};
use crate::failure::Failure;
use crate::output::{Context, Paint, Table};
use crate::units::{bytes, clean, since_start};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{DrillResult, KubernetesState, SnapshotInfo, SnapshotsState};
use holdfast_api::local::Problem;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let answer = context.manager().get::<KubernetesState>(STATE).await?;
    let now = Timestamp::now();
    context.show(&answer.raw["snapshots"], |paint| render(&answer.known.snapshots, now, paint))?;
    Ok(0)
}

/// `holdfast kube snapshot`.
pub(super) async fn take(context: &Context, waiting: &Waiting) -> Result<u8, Failure> {
    const PATH: &str = "/v1/kubernetes/snapshot";
    let manager = context.manager();
    if !waiting.wait {
        manager.begin(PATH).await?;
        return begun(context, "A snapshot is taken.", "snapshots");
    }
    let before = manager.get::<KubernetesState>(STATE).await?.known.snapshots;
    manager.begin(PATH).await?;
    let known: BTreeSet<String> = names(&before).map(Into::into).collect();
    let mut problems = News::after(&before);
    let wait = waiting.on(&manager);
    let progress =
        |state: &KubernetesState| match names(&state.snapshots).find(|n| !known.contains(*n)) {
            Some(name) => format!("taken: {}", clean(name)),
            None => "the snapshot is being taken".into(),
        };
    let answer = wait
        .until(progress, |state: &KubernetesState, after| {
            if names(&state.snapshots).any(|name| !known.contains(name)) {
                return Verdict::Reached;
            }
            problems.judge(&state.snapshots, || Failure::NotYet {
                what: "the snapshot is not there".into(),
                after,
                reason: state.snapshots.problem.as_ref().map(|problem| problem.reason),
            })
        })
        .await?;
    let all = &answer.known.snapshots.snapshots;
    let new = all.iter().find(|one| !known.contains(&one.name));
    let raw = answer.raw["snapshots"]["snapshots"]
        .as_array()
        .and_then(|all| {
            all.iter().find(|one| one["name"].as_str().is_some_and(|n| !known.contains(n)))
        })
        .unwrap_or(&Value::Null);
    context.show(raw, |_| new.map_or_else(String::new, taken))?;
    Ok(0)
}

/// `holdfast kube drill`.
pub(super) async fn drill(context: &Context, waiting: &Waiting) -> Result<u8, Failure> {
    const PATH: &str = "/v1/kubernetes/drill";
    let manager = context.manager();
    if !waiting.wait {
        manager.begin(PATH).await?;
        return begun(context, "The newest snapshot is restored for a trial.", "snapshots");
    }
    let before = manager.get::<KubernetesState>(STATE).await?.known.snapshots;
    manager.begin(PATH).await?;
    let mut problems = News::after(&before);
    let is_new = |state: &KubernetesState| {
        state.snapshots.drill.is_some() && state.snapshots.drill != before.drill
    };
    let wait = waiting.on(&manager);
    let progress = |state: &KubernetesState| {
        if is_new(state) { "the drill has ended" } else { "the drill goes on" }.to_owned()
    };
    let answer = wait
        .until(progress, |state: &KubernetesState, after| {
            if is_new(state) {
                return Verdict::Reached;
            }
            problems.judge(&state.snapshots, || Failure::NotYet {
                what: "the drill has not ended".into(),
                after,
                reason: None,
            })
        })
        .await?;
    let failed = answer.known.snapshots.drill.as_ref().filter(|drill| !drill.ok);
    context.show(&answer.raw["snapshots"]["drill"], |paint| {
        answer
            .known
            .snapshots
            .drill
            .as_ref()
            .map_or_else(String::new, |drill| drilled(drill, Timestamp::now(), paint))
    })?;
    Ok(failed.map_or(0, |_| Reason::SnapshotDrillFailed.exit_code()))
}

/// Problems that were not there at the last look. What failed before the command is not its own
/// failure; the same problem again is one only when it was gone in between.
pub(super) struct News {
    last: Option<Problem>,
}

impl News {
    pub(super) fn after(before: &SnapshotsState) -> Self {
        News { last: before.problem.clone() }
    }

    pub(super) fn judge(
        &mut self,
        state: &SnapshotsState,
        not_yet: impl FnOnce() -> Failure,
    ) -> Verdict {
        let last = std::mem::replace(&mut self.last, state.problem.clone());
        match &state.problem {
            Some(problem) if Some(problem) != last.as_ref() => {
                Verdict::Hopeless(Failure::Failed { problem: Box::new(problem.clone()) })
            }
            _ => Verdict::NotYet(not_yet()),
        }
    }
}

/// Says that something has begun and where it can be followed.
pub(super) fn begun(context: &Context, what: &str, follow: &str) -> Result<u8, Failure> {
    context
        .show(&json!({ "begun": true }), |_| format!("{what}\n  Next: holdfast kube {follow}\n"))?;
    Ok(0)
}

fn names(state: &SnapshotsState) -> impl Iterator<Item = &str> {
    state.snapshots.iter().map(|one| one.name.as_str())
}

fn taken(one: &SnapshotInfo) -> String {
    format!("{} was taken, {}.\n", clean(&one.name), bytes(one.bytes))
}

pub(super) fn render(state: &SnapshotsState, now: Timestamp, paint: Paint) -> String {
    // Writing to a String cannot fail.
    let mut text = String::new();
    if state.snapshots.is_empty() {
        text += "There is no snapshot yet.\n";
    } else {
        // In the manager's order, newest first: it knows which came later when a clock jumped.
        let mut table = Table::new(&["NAME", "TAKEN", "AGE", "SIZE", "PLACE", "PORTABLE"]);
        for one in &state.snapshots {
            table.row([
                clean(&one.name),
                words::moment(one.taken),
                words::age(now, one.taken),
                bytes(one.bytes),
                clean(&one.place),
                if one.portable { "yes".into() } else { "no".into() },
            ]);
        }
        text += &table.render();
    }
    text.push('\n');
    match state.next {
        Some(next) => {
            let when = (words::due(now, next), words::moment(next));
            let _ = writeln!(text, "The next one is due {} ({}).", when.0, when.1);
        }
        None => text += "None is due.\n",
    }
    match &state.drill {
        Some(last) => text += &drilled(last, now, paint),
        None => text += "No drill yet.\n",
    }
    if let Some(problem) = &state.problem {
        let _ = writeln!(
            text,
            "\n{}  {}\n  Next: {}",
            paint.severity(problem.severity, problem.reason.code()),
            clean(&problem.message),
            clean(&problem.next_step),
        );
    }
    text
}

fn drilled(drill: &DrillResult, now: Timestamp, paint: Paint) -> String {
    let result =
        if drill.ok { paint.good("was restored") } else { paint.bad("could not be restored") };
    let mut text = format!(
        "Last drill {} ago: {} {result} in {}",
        words::age(now, drill.at),
        clean(&drill.snapshot),
        since_start(drill.took_ms),
    );
    if !drill.message.is_empty() {
        let _ = write!(text, ": {}", clean(&drill.message));
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text.push('\n');
    if !drill.ok {
        let _ = writeln!(text, "  Next: {}", Reason::SnapshotDrillFailed.next_step());
    }
    text
}
