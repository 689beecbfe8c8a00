//! Phases, roles, ages and one-line summaries of Kubernetes, the same wherever they are shown.
//! Everything here is pure, and free of control characters.

use crate::output::Paint;
use crate::units::{clean, span};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{
    KubernetesPhase, KubernetesRole, PodCounts, ReleasePhase, ReleaseRef, ReleaseState,
    SnapshotsState,
};
use jiff::Timestamp;

/// The name of a phase as the API spells it.
pub(crate) fn phase_name(phase: KubernetesPhase) -> &'static str {
    match phase {
        KubernetesPhase::Off => "Off",
        KubernetesPhase::Preparing => "Preparing",
        KubernetesPhase::Starting => "Starting",
        KubernetesPhase::Ready => "Ready",
        KubernetesPhase::NotReady => "NotReady",
        KubernetesPhase::Backoff => "Backoff",
        KubernetesPhase::Restoring => "Restoring",
    }
}

/// The phase in its colour.
pub(super) fn phase(phase: KubernetesPhase, paint: Paint) -> String {
    match phase {
        KubernetesPhase::Ready => paint.good(phase_name(phase)),
        KubernetesPhase::Off => paint.dim(phase_name(phase)),
        KubernetesPhase::Preparing | KubernetesPhase::Starting | KubernetesPhase::Restoring => {
            paint.warn(phase_name(phase))
        }
        KubernetesPhase::NotReady | KubernetesPhase::Backoff => paint.bad(phase_name(phase)),
    }
}

/// The name of a release's phase as the API spells it.
pub(crate) fn release_phase_name(phase: ReleasePhase) -> &'static str {
    match phase {
        ReleasePhase::None => "None",
        ReleasePhase::Waiting => "Waiting",
        ReleasePhase::Preflight => "Preflight",
        ReleasePhase::PrePull => "PrePull",
        ReleasePhase::Applying => "Applying",
        ReleasePhase::Verifying => "Verifying",
        ReleasePhase::Pruning => "Pruning",
        ReleasePhase::Committed => "Committed",
        ReleasePhase::RollingBack => "RollingBack",
        ReleasePhase::RolledBack => "RolledBack",
        ReleasePhase::Refused => "Refused",
    }
}

/// The release's phase in its colour.
pub(super) fn release_phase(phase: ReleasePhase, paint: Paint) -> String {
    let name = release_phase_name(phase);
    match phase {
        ReleasePhase::Committed => paint.good(name),
        ReleasePhase::None => paint.dim(name),
        ReleasePhase::RollingBack | ReleasePhase::RolledBack | ReleasePhase::Refused => {
            paint.bad(name)
        }
        ReleasePhase::Waiting
        | ReleasePhase::Preflight
        | ReleasePhase::PrePull
        | ReleasePhase::Applying
        | ReleasePhase::Verifying
        | ReleasePhase::Pruning => paint.warn(name),
    }
}

pub(super) fn role(role: KubernetesRole) -> &'static str {
    match role {
        KubernetesRole::ClusterInit => "first server",
        KubernetesRole::Server => "server",
        KubernetesRole::Agent => "agent",
    }
}

/// `edge 1.4.2`; none of a reference that names nothing.
pub(crate) fn release_name(release: &ReleaseRef) -> Option<String> {
    match (release.name.as_str(), release.version.as_str()) {
        ("", "") if release.digest.is_empty() => None,
        ("", "") => Some(digest(release)),
        (name, "") => Some(clean(name)),
        ("", version) => Some(clean(version)),
        (name, version) => Some(format!("{} {}", clean(name), clean(version))),
    }
}

/// Enough of the digest to tell two releases apart.
pub(super) fn digest(release: &ReleaseRef) -> String {
    clean(&release.digest).chars().take(12).collect()
}

/// Whether the wanted release is the one in force, or none is wanted.
pub(super) fn settled(state: &ReleaseState) -> bool {
    release_name(&state.wanted).is_none()
        || (state.phase == ReleasePhase::Committed
            && !doubted(state)
            && state.good.as_ref().is_none_or(|good| good.digest == state.wanted.digest))
}

/// It came into force, and nobody knows whether its objects are still there: the API server was
/// away, and what is there was not looked at since.
pub(super) fn doubted(state: &ReleaseState) -> bool {
    state.phase == ReleasePhase::Committed && state.reason == Some(Reason::KubernetesApiUnavailable)
}

/// How far it is and with what: `step 7 of 31: apply Deployment default/web`.
pub(super) fn step(state: &ReleaseState) -> String {
    let at = match (state.steps, state.phase) {
        (0, _) => String::new(),
        // Once it is over, "step 31 of 31" says nothing any more.
        (_, ReleasePhase::Committed | ReleasePhase::RolledBack | ReleasePhase::Refused) => {
            String::new()
        }
        // Steps that are done are counted; the one under way comes after them.
        (steps, _) => format!("step {} of {steps}", (state.done.saturating_add(1)).min(steps)),
    };
    let said = match (state.message.as_str(), state.reason) {
        ("", Some(reason)) => reason.sentence().to_owned(),
        (message, _) => clean(message),
    };
    match (at.is_empty(), said.is_empty()) {
        (false, false) => format!("{at}: {said}"),
        _ => at + &said,
    }
}

/// The release in one line.
pub(super) fn release_line(state: &ReleaseState, paint: Paint) -> String {
    let good = state.good.as_ref().and_then(release_name);
    let Some(wanted) = release_name(&state.wanted) else {
        return match good {
            Some(good) => format!("{good} is in force; none is asked for"),
            None => "none is asked for".into(),
        };
    };
    let mut line = format!("{wanted}  {}", release_phase(state.phase, paint));
    if settled(state) {
        return line;
    }
    if let Some(reason) = state.reason {
        line += &format!("  {}", code(reason, paint));
    }
    let step = step(state);
    if !step.is_empty() {
        line += &format!("  {step}");
    }
    match good {
        Some(good) => line + &format!("  (in force: {good})"),
        None => line + "  (none is in force yet)",
    }
}

/// The snapshots in one line.
pub(super) fn snapshots_line(state: &SnapshotsState, now: Timestamp, paint: Paint) -> String {
    let mut parts = vec![match state.snapshots.first() {
        Some(newest) => {
            format!("{}, newest {} old", state.snapshots.len(), age(now, newest.taken))
        }
        None => "none yet".into(),
    }];
    parts.extend(state.next.map(|next| format!("the next one {}", due(now, next))));
    match &state.drill {
        Some(drill) if drill.ok => parts.push(format!("drilled {} ago", age(now, drill.at))),
        Some(_) => parts.push(paint.bad("the last drill failed")),
        None => {}
    }
    parts.extend(state.problem.as_ref().map(|problem| code(problem.reason, paint)));
    parts.join(", ")
}

/// The pods in one line.
pub(crate) fn pods_line(pods: &PodCounts, paint: Paint) -> String {
    let failed = format!("{} failed", pods.failed);
    format!(
        "{} deployed, {} in progress, {}",
        pods.deployed,
        pods.in_progress,
        if pods.failed == 0 { failed } else { paint.bad(&failed) },
    )
}

/// A reason's code in the colour of its severity.
pub(super) fn code(reason: Reason, paint: Paint) -> String {
    paint.severity(reason.severity(), reason.code())
}

/// For how long something is past; nothing is younger than `0 s`, whatever the clocks did.
pub(super) fn age(now: Timestamp, then: Timestamp) -> String {
    span(u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0))
}

/// How long it is until something is due: `in 9 h 29 m`, `now`.
pub(super) fn due(now: Timestamp, next: Timestamp) -> String {
    match u64::try_from(next.duration_since(now).as_secs()) {
        Ok(seconds @ 1..) => format!("in {}", span(seconds)),
        Ok(0) | Err(_) => "now".into(),
    }
}

/// A moment to the second, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
