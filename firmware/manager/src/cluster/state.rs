//! What the services say, as one [`KubernetesState`]; and what of it the pass shows. Pure.

use super::Wanted;
use holdfast_api::kubernetes::{
    KubernetesPhase, KubernetesState, ReleasePhase, ReleaseState, SnapshotsState,
};
use holdfast_api::local::{ItemReport, ItemState};
use holdfast_api::{Reason, Severity, brief};
use holdfast_cluster::distribution::DistributionState;
use holdfast_cluster::release::engine::Report;
use holdfast_cluster::release::target::MESSAGE_BYTES;
use holdfast_cluster::status::Seen;

/// What there is to say.
pub(super) struct Parts<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) distribution: &'a DistributionState,
    pub(super) seen: Option<&'a Seen>,
    pub(super) release: Option<&'a Report>,
    pub(super) snapshots: Option<&'a SnapshotsState>,
    pub(super) restoring: bool,
    /// By an operator.
    pub(super) stopped: bool,
}

/// All of it together.
pub(super) fn state(parts: &Parts<'_>) -> KubernetesState {
    let DistributionState {
        phase, role, reason, message, version, ready_after, starts, ends, ..
    } = parts.distribution.clone();
    let (phase, reason, message) = match parts.stopped {
        true => (KubernetesPhase::Off, Some(Reason::KubernetesStopped), String::new()),
        false => (phase, reason, message),
    };
    let seen = parts.seen.filter(|_| !parts.restoring && is_there(phase));
    let seen = seen.cloned().unwrap_or_default();
    // While a snapshot is put back the disk is not what any wish goes by.
    let wanted = parts.wanted.problem.as_ref();
    let wanted = wanted.filter(|_| reason.is_none() && !parts.restoring);
    briefly(KubernetesState {
        phase: if parts.restoring { KubernetesPhase::Restoring } else { phase },
        version,
        role,
        reason: reason.or(wanted.map(|problem| problem.reason)),
        message: wanted.map_or(message, |problem| problem.message.clone()),
        components: seen.components,
        conditions: seen.conditions,
        pods: seen.pods,
        release: release(parts),
        snapshots: parts.snapshots.cloned().unwrap_or_default(),
        ready_after_ms: ready_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        release_ms: parts.release.map(|report| report.took_ms.clone()).unwrap_or_default(),
        starts,
        ends,
    })
}

/// Images, probes, plug-ins of nodes and webhooks say what they like, at any length; the controller
/// takes a status of 2 MiB, and who is refused seems to be offline.
fn briefly(mut state: KubernetesState) -> KubernetesState {
    let cut = |text: &mut String| *text = brief(text, MESSAGE_BYTES);
    cut(&mut state.message);
    for part in state.components.iter_mut().chain(&mut state.conditions) {
        cut(&mut part.message);
    }
    for problem in &mut state.pods.problems {
        cut(&mut problem.reason);
        cut(&mut problem.message);
    }
    cut(&mut state.release.message);
    for failed in &mut state.release.failed {
        cut(&mut failed.message);
    }
    if let Some(drill) = &mut state.snapshots.drill {
        cut(&mut drill.message);
    }
    if let Some(problem) = &mut state.snapshots.problem {
        cut(&mut problem.message);
    }
    state
}

/// Its process runs, so that what was seen of it holds: most of all when it is not ready.
fn is_there(phase: KubernetesPhase) -> bool {
    match phase {
        KubernetesPhase::Starting | KubernetesPhase::Ready | KubernetesPhase::NotReady => true,
        KubernetesPhase::Off
        | KubernetesPhase::Preparing
        | KubernetesPhase::Backoff
        | KubernetesPhase::Restoring => false,
    }
}

/// Before the engine runs, or has the content, the wanted release waits; so does one that cannot even
/// be noted.
fn release(parts: &Parts<'_>) -> ReleaseState {
    let told = parts.release.map(|report| report.state.clone()).unwrap_or_default();
    if let Some((reference, problem)) = &parts.wanted.unkept
        && !told.phase.is_work()
    {
        return ReleaseState {
            wanted: reference.clone(),
            phase: ReleasePhase::Waiting,
            reason: Some(problem.reason),
            message: problem.message.clone(),
            done: 0,
            steps: 0,
            ..told
        };
    }
    let Some(wanted) = &parts.wanted.release else { return told };
    if told.wanted == wanted.reference {
        return told;
    }
    let problem = parts.wanted.problem.as_ref().filter(|_| wanted.content.is_none());
    ReleaseState {
        wanted: wanted.reference.clone(),
        phase: ReleasePhase::Waiting,
        reason: problem.map(|problem| problem.reason),
        message: problem.map_or("waits for Kubernetes".into(), |problem| problem.message.clone()),
        done: 0,
        steps: 0,
        ..told
    }
}

/// What the pass and `holdfast status` show of it, worst first: at most one item.
pub(crate) fn item(state: &KubernetesState) -> ItemReport {
    let release = &state.release;
    let failing = state.pods.problems.first();
    let well = match state.phase {
        KubernetesPhase::Ready => ItemState::Ok,
        _ => ItemState::Waiting,
    };
    let candidates = [
        state.reason.map(|reason| (reason, state.message.clone())),
        release.reason.map(|reason| (reason, release.message.clone())),
        failing.map(|pod| (pod.code, format!("{}: {} {}", pod.pod, pod.reason, pod.message))),
        state.snapshots.problem.as_ref().map(|problem| (problem.reason, problem.message.clone())),
    ];
    let worst =
        candidates.into_iter().flatten().fold(None::<(Reason, String)>, |worst, one| match worst {
            Some(worst) if worst.0.severity() >= one.0.severity() => Some(worst),
            _ => Some(one),
        });
    let of = |severity| match severity {
        Severity::Info => well,
        Severity::Warning => ItemState::Waiting,
        // What a workload does wrong is no fault of the box.
        Severity::Error if state.reason.is_none() => ItemState::Waiting,
        Severity::Error => ItemState::Failed,
    };
    ItemReport {
        domain: "kubernetes".into(),
        state: worst.as_ref().map_or(well, |(reason, _)| of(reason.severity())),
        reason: worst.as_ref().map(|(reason, _)| *reason),
        message: worst.map(|(_, message)| message).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::WantedRelease;
    use holdfast_api::kubernetes::{
        ComponentState, FailedRelease, PodCounts, PodProblem, ReleaseRef,
    };
    use holdfast_api::local::Problem;
    use jiff::Timestamp;

    fn parts<'a>(wanted: &'a Wanted, distribution: &'a DistributionState) -> Parts<'a> {
        Parts {
            wanted,
            distribution,
            seen: None,
            release: None,
            snapshots: None,
            restoring: false,
            stopped: false,
        }
    }

    #[test]
    fn a_release_waits_until_the_engine_speaks_of_it() {
        let reference = ReleaseRef { name: "web".into(), digest: "d".into(), ..Default::default() };
        let mut wanted = Wanted {
            release: Some(WantedRelease { reference: reference.clone(), content: None }),
            problem: Some(Problem::new(Reason::ReleaseUnavailable, "no answer")),
            ..Wanted::default()
        };
        let distribution = DistributionState::default();
        let told = state(&parts(&wanted, &distribution)).release;
        assert_eq!(
            (told.phase, told.reason),
            (ReleasePhase::Waiting, Some(Reason::ReleaseUnavailable))
        );
        wanted.problem = None;
        let told = state(&parts(&wanted, &distribution)).release;
        assert_eq!((told.phase, told.reason), (ReleasePhase::Waiting, None));
        let state_of = ReleaseState { wanted: reference, phase: ReleasePhase::Applying, ..told };
        let engine = Report { state: state_of, ..Report::default() };
        let told = Parts { release: Some(&engine), ..parts(&wanted, &distribution) };
        assert_eq!(state(&told).release.phase, ReleasePhase::Applying);

        // The next one finds no room in the ledger: what is under way goes on.
        let next = ReleaseRef { name: "next".into(), ..ReleaseRef::default() };
        let full = Problem::new(Reason::StateDiskFull, "cannot keep generation 7");
        let wanted = Wanted { unkept: Some((next.clone(), full)), ..wanted };
        let told = Parts { release: Some(&engine), ..parts(&wanted, &distribution) };
        assert_eq!(state(&told).release.phase, ReleasePhase::Applying);
        let mut engine = engine;
        engine.state.phase = ReleasePhase::Committed;
        let told = Parts { release: Some(&engine), ..parts(&wanted, &distribution) };
        let told = state(&told).release;
        let waits = (ReleasePhase::Waiting, Some(Reason::StateDiskFull));
        assert_eq!(((told.phase, told.reason), told.wanted), (waits, next));
    }

    #[test]
    fn what_is_bad_is_told_while_it_is_bad() {
        let one = |name: &str, ok| ComponentState { name: name.into(), ok, message: String::new() };
        let seen = Seen {
            components: vec![one("apiserver", true), one("etcd", true)],
            conditions: vec![one("Ready", false), one("DiskPressure", false)],
            pods: PodCounts { failed: 1, ..PodCounts::default() },
        };
        let wanted = Wanted::default();
        let told = |phase, seen: &Seen, restoring| {
            let distribution = DistributionState { phase, ..DistributionState::default() };
            let parts = parts(&wanted, &distribution);
            state(&Parts { seen: Some(seen), restoring, ..parts })
        };
        for phase in [KubernetesPhase::Ready, KubernetesPhase::NotReady, KubernetesPhase::Starting]
        {
            let told = told(phase, &seen, false);
            assert_eq!(
                (told.conditions, told.pods.failed),
                (seen.conditions.clone(), 1),
                "{phase:?}"
            );
        }
        let away = seen.clone().unanswered("connection refused");
        let not_ready = told(KubernetesPhase::NotReady, &away, false);
        assert_eq!(not_ready.components.len(), 1, "of etcd nothing is known");
        assert!(not_ready.components[0].name == "apiserver" && !not_ready.components[0].ok);
        assert_eq!(not_ready.conditions, seen.conditions, "as they were seen last");
        for (phase, restoring) in [
            (KubernetesPhase::Backoff, false),
            (KubernetesPhase::Off, false),
            (KubernetesPhase::Ready, true),
        ] {
            assert_eq!(told(phase, &seen, restoring).components, [], "nothing runs");
        }
    }

    #[test]
    fn words_of_others_have_a_bound() {
        let long = || "\"\u{80}".repeat(100_000);
        let part = ComponentState { name: "Ready".into(), ok: false, message: long() };
        let problem = PodProblem {
            pod: "default/web".into(),
            reason: long(),
            code: Reason::PodImagePull,
            message: long(),
        };
        let pods = PodCounts { problems: vec![problem], ..PodCounts::default() };
        let seen = Seen { components: vec![part.clone()], conditions: vec![part], pods };
        let failed = FailedRelease {
            release: ReleaseRef::default(),
            reason: Reason::ReleaseInvalid,
            message: long(),
            at: Timestamp::UNIX_EPOCH,
        };
        let told = ReleaseState { message: long(), failed: vec![failed], ..Default::default() };
        let engine = Report { state: told, ..Report::default() };
        let problem = Some(Problem::new(Reason::SnapshotFailed, long()));
        let snapshots = SnapshotsState { problem, ..Default::default() };
        let distribution = DistributionState {
            phase: KubernetesPhase::Ready,
            message: long(),
            ..Default::default()
        };
        let wanted = Wanted::default();
        let told = state(&Parts {
            seen: Some(&seen),
            release: Some(&engine),
            snapshots: Some(&snapshots),
            ..parts(&wanted, &distribution)
        });
        let status = serde_json::to_string(&told).unwrap();
        assert!(status.len() < 64 << 10, "{} bytes", status.len());
    }

    #[test]
    fn what_the_box_does_wrong_fails_and_what_a_workload_does_wrong_waits() {
        let mut told = KubernetesState { phase: KubernetesPhase::Ready, ..Default::default() };
        assert_eq!(item(&told).state, ItemState::Ok);
        let problem = PodProblem {
            pod: "default/web".into(),
            reason: "CrashLoopBackOff".into(),
            code: Reason::PodCrashing,
            message: String::new(),
        };
        told.pods = PodCounts { failed: 1, problems: vec![problem], ..Default::default() };
        let shown = item(&told);
        assert_eq!((shown.state, shown.reason), (ItemState::Waiting, Some(Reason::PodCrashing)));
        told.phase = KubernetesPhase::Backoff;
        told.reason = Some(Reason::KubernetesPortTaken);
        let shown = item(&told);
        assert_eq!(
            (shown.state, shown.reason),
            (ItemState::Failed, Some(Reason::KubernetesPortTaken))
        );
        told = KubernetesState { phase: KubernetesPhase::Starting, ..Default::default() };
        told.reason = Some(Reason::KubernetesStarting);
        assert_eq!(item(&told).state, ItemState::Waiting);
    }
}
