//! Is an object as it should be?
//!
//! Pure: a function of the object as the API server answers it. The rules follow
//! `kubectl rollout status` and the Kubernetes API reference on each kind's status; a kind that has
//! no rule here is ready as soon as it exists. An object whose controller has not seen its newest
//! generation (`status.observedGeneration`) is never ready: its status tells of an older one.

use Readiness::{Failed, Ready, Waiting};
use holdfast_api::Reason;
use serde_json::Value;

/// Whether an object is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// Not yet; what it waits for, as a phrase.
    Waiting(String),
    /// It will not be without somebody changing something.
    Failed(Reason, String),
}

/// Whether `object` is as it should be.
///
/// A claim for a volume that waits for its first pod is told as waiting, for its object does not
/// show that; [`claim_readiness`] knows its storage class as well.
pub fn readiness(object: &Value) -> Readiness {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Waiting("it is being deleted".into());
    }
    if !is_seen(object) {
        return Waiting("its controller has not seen it yet".into());
    }
    match kind(object) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => {
            of("replicas are ready", count(object, "readyReplicas"), wanted(object))
        }
        ("batch", "Job") => job(object),
        ("", "Pod") => pod(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        ("apiregistration.k8s.io", "APIService") => match condition(object, "Available") {
            Some(is) if is.status == "True" => Ready,
            Some(is) => Waiting(is.words()),
            None => Waiting("it is not available yet".into()),
        },
        ("", "PersistentVolumeClaim") => claim_readiness(object, None),
        ("", "Namespace") => match phase(object) {
            "Terminating" => Waiting("it is being deleted".into()),
            _ => Ready,
        },
        _ => Ready,
    }
}

/// Whether the object's controller has seen its newest generation; then the pods' revisions are
/// those of that one as well.
pub(crate) fn is_seen(object: &Value) -> bool {
    let generation = object["metadata"]["generation"].as_i64();
    let observed = object["status"]["observedGeneration"].as_i64();
    match (generation, observed) {
        (Some(is), Some(seen)) => seen >= is,
        (_, Some(_)) => true,
        (_, None) => !matches!(kind(object), ("apps", "Deployment" | "StatefulSet" | "DaemonSet")),
    }
}

/// Group and kind.
fn kind(object: &Value) -> (&str, &str) {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    (group, object["kind"].as_str().unwrap_or_default())
}

/// Whether a claim for a volume is as it should be, `class` being its StorageClass: with
/// `volumeBindingMode: WaitForFirstConsumer` it is bound when the first pod uses it, and until
/// then as it should be.
pub fn claim_readiness(claim: &Value, class: Option<&Value>) -> Readiness {
    match phase(claim) {
        "Bound" => Ready,
        "Lost" => Failed(Reason::PodConfigMissing, "its volume is gone".into()),
        _ if class.is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer") => {
            Ready
        }
        _ => Waiting("no volume is bound to it yet".into()),
    }
}

fn deployment(object: &Value) -> Readiness {
    if let Some(is) = condition(object, "Progressing")
        && is.reason == "ProgressDeadlineExceeded"
    {
        return Failed(Reason::ReleaseTimeout, is.words());
    }
    let (wanted, updated) = (wanted(object), count(object, "updatedReplicas"));
    if updated < wanted {
        return match condition(object, "ReplicaFailure") {
            Some(is) if is.status == "True" => Waiting(is.words()),
            _ if object["spec"]["paused"] == true => Waiting("it is paused".into()),
            _ => Waiting(format!("{updated} of {wanted} replicas are new")),
        };
    }
    let old = count(object, "replicas") - updated;
    if old > 0 {
        return Waiting(format!("{old} old replicas have not ended yet"));
    }
    of("replicas are available", count(object, "availableReplicas"), wanted)
}

fn stateful_set(object: &Value) -> Readiness {
    let wanted = wanted(object);
    let strategy = &object["spec"]["updateStrategy"];
    let ready = of("replicas are ready", count(object, "readyReplicas"), wanted);
    if ready != Ready || strategy["type"] == "OnDelete" {
        return ready;
    }
    let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    let updated = count(object, "updatedReplicas");
    let status = &object["status"];
    if partition > 0 {
        return of("replicas are new", updated, (wanted - partition).max(0));
    }
    if status["updateRevision"] != status["currentRevision"] {
        return Waiting(format!("{updated} of {wanted} replicas are new"));
    }
    Ready
}

fn daemon_set(object: &Value) -> Readiness {
    let wanted = count(object, "desiredNumberScheduled");
    if object["spec"]["updateStrategy"]["type"] != "OnDelete" {
        let updated = of("pods are new", count(object, "updatedNumberScheduled"), wanted);
        if updated != Ready {
            return updated;
        }
    }
    of("pods are available", count(object, "numberAvailable"), wanted)
}

fn job(object: &Value) -> Readiness {
    if let Some(is) = condition(object, "Failed").filter(|is| is.status == "True") {
        return Failed(Reason::PodFailed, is.words());
    }
    if condition(object, "Complete").is_some_and(|is| is.status == "True") {
        return Ready;
    }
    if object["spec"]["suspend"] == true {
        return Waiting("it is suspended".into());
    }
    let wanted = object["spec"]["completions"].as_i64().unwrap_or(1);
    Waiting(format!("{} of {wanted} pods have ended well", count(object, "succeeded")))
}

fn pod(object: &Value) -> Readiness {
    let status = &object["status"];
    match phase(object) {
        "Succeeded" => return Ready,
        "Failed" => {
            let words = [&status["reason"], &status["message"]];
            let words: Vec<_> = words.iter().filter_map(|word| word.as_str()).collect();
            return Failed(Reason::PodFailed, words.join(": "));
        }
        _ => {}
    }
    match condition(object, "Ready") {
        Some(is) if is.status == "True" => Ready,
        Some(is) => Waiting(is.words()),
        None => Waiting("it is not on a node yet".into()),
    }
}

fn definition(object: &Value) -> Readiness {
    if let Some(is) = condition(object, "NamesAccepted").filter(|is| is.status == "False") {
        return Failed(Reason::ReleaseCrdNotEstablished, is.words());
    }
    match condition(object, "Established") {
        Some(is) if is.status == "True" => Ready,
        Some(is) => Waiting(is.words()),
        None => Waiting("it is not established yet".into()),
    }
}

fn of(what: &str, have: i64, wanted: i64) -> Readiness {
    if have < wanted { Waiting(format!("{have} of {wanted} {what}")) } else { Ready }
}

fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or_default()
}

/// Counters that are zero are left out of a status.
fn count(object: &Value, name: &str) -> i64 {
    object["status"][name].as_i64().unwrap_or(0)
}

fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// A condition of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition<'a> {
    /// `True`, `False` or `Unknown`.
    pub(crate) status: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

impl Condition<'_> {
    /// `Reason: message`, as far as they are there.
    pub(crate) fn words(&self) -> String {
        match (self.reason, self.message) {
            (reason, "") => reason.to_owned(),
            ("", message) => message.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        }
    }
}

/// The condition of `object` with this type.
pub(crate) fn condition<'a>(object: &'a Value, name: &str) -> Option<Condition<'a>> {
    let all = object["status"]["conditions"].as_array()?;
    let found = all.iter().find(|one| one["type"] == name)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some(Condition { status: text("status"), reason: text("reason"), message: text("message") })
}

#[cfg(test)]
#[path = "readiness/tests.rs"]
mod tests;
