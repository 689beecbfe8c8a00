//! Pods counted, and the failed ones told.

use crate::kubernetes::explain::{Explanation, pod_problem};
use crate::kubernetes::{Readiness, readiness};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{PodCounts, PodProblem};
use serde_json::Value;

/// Problems that are told; the rest is only counted.
pub const PROBLEMS: usize = 20;

/// Counts `pods`: those that are ready or ended well, those on their way, and those that a
/// problem keeps, with the gravest problems first. `events` are those about any of them.
pub fn count(pods: &[Value], events: &[Value]) -> PodCounts {
    let mut counts = PodCounts::default();
    let mut problems = Vec::new();
    for pod in pods {
        let leaves = pod["metadata"]["deletionTimestamp"].is_string();
        match (readiness(pod), problem(pod, events)) {
            (Readiness::Ready, _) => counts.deployed += 1,
            (_, Some(problem)) if !leaves => {
                counts.failed += 1;
                problems.push((!problem.hopeless, told(pod, problem)));
            }
            _ => counts.in_progress += 1,
        }
    }
    problems.sort_by(|(passes, one), (passes_too, other)| {
        (passes, &one.pod).cmp(&(passes_too, &other.pod))
    });
    counts.problems = problems.into_iter().map(|(_, problem)| problem).take(PROBLEMS).collect();
    counts
}

/// Whether a pod's events may tell why it is not ready.
pub(crate) fn needs_events(pod: &Value) -> bool {
    readiness(pod) != Readiness::Ready && !pod["metadata"]["deletionTimestamp"].is_string()
}

fn problem(pod: &Value, events: &[Value]) -> Option<Explanation> {
    let unexplained = || match readiness(pod) {
        Readiness::Failed(reason, message) => {
            Some(Explanation { reason, word: "Failed".into(), message, hopeless: true })
        }
        Readiness::Ready | Readiness::Waiting(_) => None,
    };
    // A probe that fails while a container still starts is no problem yet: the pod is on its way.
    let starts = |problem: &Explanation| {
        problem.reason == Reason::PodProbeFailing && problem.message.contains("Startup probe")
    };
    pod_problem(pod, events).filter(|problem| !starts(problem)).or_else(unexplained)
}

fn told(pod: &Value, problem: Explanation) -> PodProblem {
    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    PodProblem {
        pod: format!("{}/{}", text("namespace"), text("name")),
        reason: problem.word,
        code: problem.reason,
        message: problem.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(name: &str, status: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "status": status,
               "metadata": {"name": name, "namespace": "default", "uid": name}})
    }

    fn ready() -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    }

    fn starting() -> Value {
        json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
               "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "ContainerCreating"}}}]})
    }

    fn crashing() -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
               "containerStatuses": [{"name": "web", "ready": false, "restartCount": 4,
                   "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                   "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]})
    }

    #[test]
    fn pods_are_counted_by_how_they_are() {
        let pods = [
            pod("a", ready()),
            pod("b", json!({"phase": "Succeeded"})),
            pod("c", starting()),
            pod("d", crashing()),
            pod(
                "e",
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
            ),
            pod("f", json!({"phase": "Failed"})),
        ];
        let counts = count(&pods, &[]);
        assert_eq!((counts.deployed, counts.in_progress, counts.failed), (2, 1, 3));
        let told: Vec<_> = counts
            .problems
            .iter()
            .map(|one| (one.pod.as_str(), one.reason.as_str(), one.code))
            .collect();
        assert_eq!(
            told,
            [
                ("default/d", "CrashLoopBackOff", Reason::PodCrashing),
                ("default/f", "Failed", Reason::PodFailed),
                ("default/e", "Evicted", Reason::PodFailed),
            ]
        );
    }

    #[test]
    fn a_pod_that_leaves_is_no_problem() {
        let mut pod = pod("a", crashing());
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let counts = count(&[pod], &[]);
        assert_eq!((counts.in_progress, counts.failed, counts.problems.len()), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn every_pod_is_counted_once_and_few_are_told(kinds in prop::collection::vec(0..4usize, 0..60)) {
            let status = [ready(), starting(), crashing(), json!({"phase": "Failed"})];
            let pods: Vec<_> =
                kinds.iter().enumerate().map(|(n, kind)| pod(&format!("p{n}"), status[*kind].clone())).collect();
            let counts = count(&pods, &[]);
            let all = counts.deployed + counts.in_progress + counts.failed;
            prop_assert_eq!(all as usize, pods.len());
            prop_assert_eq!(counts.problems.len(), (counts.failed as usize).min(PROBLEMS));
        }
    }
}
