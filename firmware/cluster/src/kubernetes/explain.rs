//! Why is an object not as it should be?
//!
//! Pure: a function of the object, its pods and the events about any of them. Of several causes
//! the gravest is told: first what is hopeless, then by how sure the cause is. Only pods of the
//! newest revision may be handed in ([`newest_pods`]); else the crashes of an old version would
//! speak against the one that mends them.

use super::readiness::{condition, is_seen};
use crate::object::ObjectId;
use holdfast_api::Reason;
use serde_json::Value;

/// A container that ended this often is not going to stay.
pub const CRASHES: i64 = 3;

/// Why an object does not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Our code.
    pub reason: Reason,
    /// Kubernetes' word, such as `ImagePullBackOff`.
    pub word: String,
    /// In detail: which pod and container, and what it says.
    pub message: String,
    /// It will hardly pass by itself: an image that does not exist, a container that crashed
    /// [`CRASHES`] times or needs more memory than it may have. Waiting for longer is idle.
    pub hopeless: bool,
}

impl Explanation {
    fn new(reason: Reason, word: &str, message: impl Into<String>) -> Self {
        Explanation { reason, word: word.into(), message: message.into(), hopeless: false }
    }

    fn hopeless(self, hopeless: bool) -> Self {
        Explanation { hopeless, ..self }
    }
}

/// Why `object` is not ready, as far as its `pods` and `events` tell. While its controller has not
/// seen its newest generation they only tell of an older one, and nothing is known.
pub fn explain(object: &Value, pods: &[Value], events: &[Value]) -> Option<Explanation> {
    if !is_seen(object) {
        return None;
    }
    let of_pods = pods.iter().filter_map(|pod| {
        let problem = pod_problem(pod, events)?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        Some(Explanation { message: format!("pod {name}: {}", problem.message), ..problem })
    });
    let of_pods = of_pods
        .enumerate()
        .max_by_key(|(place, one)| (one.hopeless, gravity(one.reason), std::cmp::Reverse(*place)));
    of_pods.map(|(_, problem)| problem).or_else(|| of_object(object, events))
}

/// Why a pod is neither ready nor ended well; none when it is, or is on its way.
pub fn pod_problem(pod: &Value, events: &[Value]) -> Option<Explanation> {
    let status = &pod["status"];
    let phase = status["phase"].as_str().unwrap_or_default();
    let is_ready = condition(pod, "Ready").is_some_and(|is| is.status == "True");
    if phase == "Succeeded" || is_ready || pod["metadata"]["deletionTimestamp"].is_string() {
        return None;
    }
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let events = || events.iter().filter(|event| event["involvedObject"]["uid"] == *uid);

    if phase == "Failed"
        && let Some(word) = status["reason"].as_str()
    {
        // Evicted, DeadlineExceeded, NodeLost, Preempting, UnexpectedAdmissionError …
        let message = status["message"].as_str().unwrap_or(word);
        return Some(Explanation::new(Reason::PodFailed, word, message));
    }
    if let Some(is) = condition(pod, "PodScheduled").filter(|is| is.status == "False") {
        let reason = match is.message.contains("hugepages-") {
            true => Reason::PodNoHugepages,
            false => Reason::PodUnschedulable,
        };
        return Some(Explanation::new(reason, is.reason, is.message));
    }
    let containers = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|list| status[list].as_array())
        .flatten();
    let told = containers.filter_map(|container| of_container(container, events));
    told.max_by_key(|one| (one.hopeless, gravity(one.reason))).or_else(|| {
        let event = events().filter(|event| event["type"] == "Warning").max_by_key(seen)?;
        of_event(event)
    })
}

fn of_container<'a, I>(container: &Value, events: impl Fn() -> I) -> Option<Explanation>
where
    I: Iterator<Item = &'a Value>,
{
    let name = container["name"].as_str().unwrap_or_default();
    let waiting = &container["state"]["waiting"];
    let word = waiting["reason"].as_str().unwrap_or_default();
    let said = waiting["message"].as_str().unwrap_or_default();
    let restarts = container["restartCount"].as_i64().unwrap_or(0);
    let last = match &container["state"]["terminated"] {
        Value::Null => &container["lastState"]["terminated"],
        ended => ended,
    };
    let is_ready = container["ready"] == true;

    match word {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ErrRegistryUnavailable"
        | "ImageInspectError" => {
            let image = container["image"].as_str().unwrap_or_default();
            let pulling = |event: &&Value| {
                let text = event["message"].as_str().unwrap_or_default();
                event["reason"] == "Failed" && text.contains("ull image") && text.contains(image)
            };
            // The words of the back-off do not tell why; the event of the attempt does.
            let event = events().filter(pulling).max_by_key(seen);
            let why = match event.and_then(|event| event["message"].as_str()) {
                Some(text) if word == "ImagePullBackOff" => text,
                _ if said.is_empty() => word,
                _ => said,
            };
            let hopeless =
                matches!(word, "InvalidImageName" | "ErrImageNeverPull") || does_not_exist(why);
            let message = format!("container {name}: {image}: {why}");
            Some(Explanation::new(Reason::PodImagePull, word, message).hopeless(hopeless))
        }
        "CreateContainerConfigError" | "CreateContainerError" => {
            let reason = match said.contains("not found") {
                true => Reason::PodConfigMissing,
                false => Reason::PodFailed,
            };
            Some(Explanation::new(reason, word, format!("container {name}: {said}")))
        }
        _ if last["reason"] == "OOMKilled" && !is_ready => {
            let message = format!(
                "container {name} used more memory than it may, {restarts} times restarted"
            );
            Some(Explanation::new(Reason::PodOutOfMemory, "OOMKilled", message).hopeless(true))
        }
        "CrashLoopBackOff" | "RunContainerError" => {
            let message = ended(name, last, restarts);
            let message = if message.is_empty() { said.to_owned() } else { message };
            let explained = Explanation::new(Reason::PodCrashing, word, message);
            Some(explained.hopeless(restarts >= CRASHES))
        }
        _ if last["exitCode"].as_i64().is_some_and(|code| code != 0) && !is_ready => {
            let probe = probe(name, events());
            let word = last["reason"].as_str().unwrap_or("Error");
            let crash = Explanation::new(Reason::PodCrashing, word, ended(name, last, restarts));
            Some(probe.unwrap_or(crash).hopeless(restarts >= CRASHES))
        }
        _ if container["state"]["running"].is_object() && !is_ready => probe(name, events()),
        _ => None,
    }
}

/// `container web ended with code 3, 4 times restarted: its last words`.
fn ended(name: &str, last: &Value, restarts: i64) -> String {
    let Some(code) = last["exitCode"].as_i64() else { return String::new() };
    let mut text = format!("container {name} ended with code {code}, {restarts} times restarted");
    if let Some(said) = last["message"].as_str().map(str::trim).filter(|said| !said.is_empty()) {
        text += &format!(": {said}");
    }
    text
}

/// A probe that fails: the event names the container by its field path.
fn probe<'a>(name: &str, events: impl Iterator<Item = &'a Value>) -> Option<Explanation> {
    let of_it = |event: &&Value| {
        let path = event["involvedObject"]["fieldPath"].as_str().unwrap_or_default();
        event["reason"] == "Unhealthy" && path.contains(&format!("{{{name}}}"))
    };
    let event = events.filter(of_it).max_by_key(seen)?;
    let text = event["message"].as_str().unwrap_or_default();
    let message = format!("container {name}: {text}");
    Some(Explanation::new(Reason::PodProbeFailing, "Unhealthy", message))
}

/// A warning about a pod whose containers do not say anything yet.
fn of_event(event: &Value) -> Option<Explanation> {
    let word = event["reason"].as_str().unwrap_or_default();
    let text = event["message"].as_str().unwrap_or_default();
    let reason = match word {
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Reason::PodConfigMissing,
        "FailedScheduling" if text.contains("hugepages-") => Reason::PodNoHugepages,
        "FailedScheduling" => Reason::PodUnschedulable,
        // `Failed` is left out: the container's status tells more a moment later.
        "FailedCreatePodSandBox" | "FailedPostStartHook" | "FailedSync" => Reason::PodFailed,
        _ => return None,
    };
    Some(Explanation::new(reason, word, text))
}

/// What the object itself says: pods that could not even be made, volumes that do not come.
fn of_object(object: &Value, events: &[Value]) -> Option<Explanation> {
    if let Some(is) = condition(object, "ReplicaFailure").filter(|is| is.status == "True") {
        return Some(Explanation::new(Reason::PodFailed, is.reason, is.message));
    }
    if let Some(is) = condition(object, "Failed").filter(|is| is.status == "True") {
        return Some(Explanation::new(Reason::PodFailed, is.reason, is.message).hopeless(true));
    }
    let uid = object["metadata"]["uid"].as_str()?;
    let event = events
        .iter()
        .filter(|event| event["involvedObject"]["uid"] == *uid && event["type"] == "Warning")
        .max_by_key(seen)?;
    let word = event["reason"].as_str().unwrap_or_default();
    let text = event["message"].as_str().unwrap_or_default();
    let reason = match word {
        "FailedCreate" | "FailedDaemonPod" => Reason::PodFailed,
        "FailedBinding" | "ProvisioningFailed" => Reason::PodConfigMissing,
        _ => return None,
    };
    Some(Explanation::new(reason, word, text))
}

/// The words of registries and of containerd for what is not there, as against a registry that
/// does not answer.
fn does_not_exist(text: &str) -> bool {
    let text = text.to_lowercase();
    let away = ["connection refused", "no such host", "timeout", "dial tcp", "unreachable", " eof"];
    let missing = [": not found", "manifest unknown", "name unknown", "does not exist"];
    !away.iter().any(|word| text.contains(word)) && missing.iter().any(|word| text.contains(word))
}

fn seen<'a>(event: &&'a Value) -> &'a str {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["firstTimestamp"]];
    times.iter().find_map(|time| time.as_str()).unwrap_or_default()
}

/// How sure a cause is: what a container did weighs more than what it waits for.
fn gravity(reason: Reason) -> u8 {
    match reason {
        Reason::PodOutOfMemory => 6,
        Reason::PodCrashing => 5,
        Reason::PodImagePull => 4,
        Reason::PodConfigMissing => 3,
        Reason::PodNoHugepages => 2,
        Reason::PodUnschedulable | Reason::PodProbeFailing => 1,
        _ => 0,
    }
}

/// Which pods belong to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodsOf {
    /// It is one.
    Itself(ObjectId),
    /// Those of its namespace with these labels (a selector as in a list).
    Labels {
        /// Namespace.
        namespace: String,
        /// Selector.
        labels: String,
    },
}

/// Which pods belong to `object`; none when it has none by its kind.
pub fn pods_of(id: &ObjectId, object: &Value) -> Option<PodsOf> {
    match id.kind.as_str() {
        "Pod" => Some(PodsOf::Itself(id.clone())),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
            let labels = selector(&object["spec"]["selector"]);
            let namespace = object["metadata"]["namespace"].as_str()?.to_owned();
            (!labels.is_empty()).then_some(PodsOf::Labels { namespace, labels })
        }
        _ => None,
    }
}

/// A `LabelSelector` (Kubernetes API reference) as text.
fn selector(selector: &Value) -> String {
    let mut parts = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = rule["key"].as_str().unwrap_or_default();
        let values: Vec<_> =
            rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        match rule["operator"].as_str().unwrap_or_default() {
            "In" => parts.push(format!("{key} in ({values})")),
            "NotIn" => parts.push(format!("{key} notin ({values})")),
            "Exists" => parts.push(key.to_owned()),
            "DoesNotExist" => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.join(",")
}

/// Of `pods` those of the newest revision. `revisions` are the ReplicaSets (of a Deployment) or
/// ControllerRevisions (of a DaemonSet or StatefulSet) of its namespace. Without any of its own,
/// all pods are.
pub fn newest_pods(object: &Value, revisions: &[Value], pods: Vec<Value>) -> Vec<Value> {
    let uid = &object["metadata"]["uid"];
    let owned = revisions.iter().filter(|one| {
        let owners = one["metadata"]["ownerReferences"].as_array();
        owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == *uid))
    });
    let number = |one: &&Value| {
        let annotation = &one["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        let text = annotation.as_str().and_then(|text| text.parse().ok());
        text.or_else(|| one["revision"].as_i64()).unwrap_or(0)
    };
    let Some(newest) = owned.max_by_key(number) else { return pods };
    // Deployments mark their pods with the one label, DaemonSets with the other, both with a hash;
    // StatefulSets with the revision's name (kubernetes pkg/controller/statefulset).
    let [template, revision] = ["pod-template-hash", "controller-revision-hash"];
    let mark = |one: &Value, label: &str| one["metadata"]["labels"][label].clone();
    let is_newest = |pod: &Value| {
        let name = newest["metadata"]["name"].clone();
        let marks = [
            (mark(newest, template), mark(pod, template)),
            (mark(newest, revision), mark(pod, revision)),
            (name, mark(pod, revision)),
        ];
        marks.iter().any(|(want, have)| want.is_string() && want == have)
    };
    pods.into_iter().filter(|pod| is_newest(pod)).collect()
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
