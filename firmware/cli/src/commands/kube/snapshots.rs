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

/// Place of the snapshots on the node.
pub(super) const LOCAL: &str = "local";

/// Reasons that do not say that a snapshot could not be taken.
const OTHERS: &[Reason] = &[
    Reason::SnapshotUpload,
    Reason::SnapshotNoKey,
    Reason::SnapshotWrongKey,
    Reason::SnapshotRestoreFailed,
    Reason::SnapshotRebootsUnknown,
    Reason::SnapshotDrillFailed,
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Those of all nodes in the site's storage, by the names that `restore` takes.
    #[arg(long)]
    site: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    if args.site {
        let answer = context.manager().stored().await?;
        context.show(&answer.raw, |_| stored(&answer.known, Timestamp::now()))?;
        return Ok(0);
    }
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
    let known: BTreeSet<String> = local(&before).map(|one| one.name.clone()).collect();
    let new = |state: &SnapshotsState| local(state).find(|one| !known.contains(&one.name)).cloned();
    let mut problems = News::after(&before, OTHERS);
    let progress = |state: &KubernetesState| match new(&state.snapshots) {
        Some(one) => format!("taken: {}", clean(&one.name)),
        None => "the snapshot is being taken".into(),
    };
    let judge = |state: &KubernetesState, after| {
        if new(&state.snapshots).is_some() {
            return Verdict::Reached;
        }
        match problems.on(&state.snapshots) {
            Some(problem) => Verdict::Hopeless(Failure::Failed { problem: Box::new(problem) }),
            None => Verdict::NotYet(Failure::NotYet {
                what: "the snapshot is not there".into(),
                after,
                reason: state.snapshots.problem.as_ref().map(|problem| problem.reason),
            }),
        }
    };
    let answer = waiting.on(&manager).until(progress, judge).await?;
    let new = new(&answer.known.snapshots);
    let raw = answer.raw["snapshots"]["snapshots"].as_array().and_then(|all| {
        let name = &new.as_ref()?.name;
        all.iter().find(|one| one["name"] == **name && one["place"] == LOCAL)
    });
    context.show(raw.unwrap_or(&Value::Null), |_| new.as_ref().map_or_else(String::new, taken))?;
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
    let before = manager.get::<KubernetesState>(STATE).await?.known.snapshots.drill;
    manager.begin(PATH).await?;
    let ended = |state: &KubernetesState| {
        state.snapshots.drill.is_some() && state.snapshots.drill != before
    };
    let progress = |state: &KubernetesState| {
        if ended(state) { "the drill has ended" } else { "the drill goes on" }.to_owned()
    };
    let judge = |state: &KubernetesState, after| match ended(state) {
        true => Verdict::Reached,
        false => Verdict::NotYet(Failure::NotYet {
            what: "the drill has not ended".into(),
            after,
            reason: None,
        }),
    };
    let answer = waiting.on(&manager).until(progress, judge).await?;
    let last = answer.known.snapshots.drill.as_ref();
    context.show(&answer.raw["snapshots"]["drill"], |paint| {
        last.map_or_else(String::new, |drill| drilled(drill, Timestamp::now(), paint))
    })?;
    let failed = last.is_some_and(|drill| !drill.ok);
    Ok(if failed { Reason::SnapshotDrillFailed.exit_code() } else { 0 })
}

/// Problems that were not there at the last look. What failed before the command is not its own
/// failure; the same problem again is one only when it was gone in between. The manager shows the
/// worst problem of all kinds, so another kind may come to light when one is gone.
pub(super) struct News {
    last: Option<Problem>,
    others: &'static [Reason],
}

impl News {
    /// News after `before`, but for reasons that belong to other work than what is waited for.
    pub(super) fn after(before: &SnapshotsState, others: &'static [Reason]) -> Self {
        News { last: before.problem.clone(), others }
    }

    /// The problem that this look brought.
    pub(super) fn on(&mut self, state: &SnapshotsState) -> Option<Problem> {
        let last = std::mem::replace(&mut self.last, state.problem.clone());
        let new = state.problem.as_ref().filter(|_| state.problem != last)?;
        (!self.others.contains(&new.reason)).then(|| new.clone())
    }
}

/// Says that something has begun and where it can be followed.
pub(super) fn begun(context: &Context, what: &str, follow: &str) -> Result<u8, Failure> {
    context
        .show(&json!({ "begun": true }), |_| format!("{what}\n  Next: holdfast kube {follow}\n"))?;
    Ok(0)
}

/// Those on the node. What is in the storage comes later, and may be of an earlier day.
fn local(state: &SnapshotsState) -> impl Iterator<Item = &SnapshotInfo> {
    state.snapshots.iter().filter(|one| one.place == LOCAL)
}

fn stored(all: &[SnapshotInfo], now: Timestamp) -> String {
    if all.is_empty() {
        return "The site's storage has no snapshot.\n".into();
    }
    table(all, now) + "\n  Next: holdfast kube restore NODE/NAME --identity FILE\n"
}

fn table(all: &[SnapshotInfo], now: Timestamp) -> String {
    let mut table = Table::new(&["NAME", "TAKEN", "AGE", "SIZE", "PLACE", "PORTABLE"]);
    for one in all {
        table.row([
            clean(&one.name),
            words::moment(one.taken),
            words::age(now, one.taken),
            bytes(one.bytes),
            clean(&one.place),
            if one.portable { "yes".into() } else { "no".into() },
        ]);
    }
    table.render()
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
        text += &table(&state.snapshots, now);
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
