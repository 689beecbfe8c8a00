//! What the API server's answers mean to the machine, and what a trial is made with where the
//! object itself cannot be tried. Pure.

use crate::kubernetes::ApiError;
use crate::object::Object;
use crate::release::model::{Release, group};
use crate::release::order::is_built_in;
use crate::release::target::{Failure, Retry};
use holdfast_api::{Reason, chain};

pub(super) fn brings_namespace(release: &Release, name: &str) -> bool {
    release.items.iter().any(|item| {
        let id = &item.object.id;
        id.kind == "Namespace" && id.api_version == "v1" && id.name == name
    })
}

/// Under a name that nobody in `default` has: what has the object's own name there is another one,
/// of which not everything can be changed.
pub(super) fn in_default(object: &Object) -> Object {
    // Most kinds whose names are short take this much (RFC 1123, labels); a CronJob's Jobs get eleven
    // characters more (kubernetes.io, "CronJob").
    let label = if object.id.kind == "CronJob" { 52 } else { 63 };
    let mut object = object.clone();
    let name = &mut object.id.name;
    let sum = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let suffix = format!("-{}", holdfast_api::hex(&sum.as_ref()[..4]));
    // A name that is too long stays so, and is refused.
    if name.len() <= label && name.len() + suffix.len() > label {
        name.truncate(name.floor_char_boundary(label - suffix.len()));
    }
    *name = format!("{}{suffix}", name.trim_end_matches(['-', '.']));
    object.value["metadata"]["name"] = name.as_str().into();
    object.id.namespace = Some("default".into());
    object.value["metadata"]["namespace"] = "default".into();
    object
}

/// What a refused dry run means, made under the name `tried`; nothing was changed by it.
pub(super) fn refused(object: &Object, tried: &str, error: &ApiError) -> Result<(), Failure> {
    let Object { id, origin, .. } = object;
    if let ApiError::Refused { message, .. } = error
        && message.contains("does not support dry run")
    {
        // A webhook with side effects; it is asked when the object is applied.
        return Ok(());
    }
    let told = failure(error);
    let (field, reason) = match error {
        ApiError::Refused { fields, .. } if fields.is_empty() => (String::new(), told.reason),
        ApiError::Refused { fields, .. } => {
            (format!("{}: ", fields.join(", ")), Reason::ReleaseInvalid)
        }
        ApiError::UnknownKind { .. } => ("kind: ".into(), Reason::ReleaseInvalid),
        _ if error.missing_namespace().is_some() => {
            ("metadata.namespace: ".into(), Reason::ReleaseInvalid)
        }
        _ => (String::new(), told.reason),
    };
    let retry = match error {
        // Kubernetes' own kinds are all there when it is ready.
        ApiError::UnknownKind { .. } if is_built_in(group(&id.api_version)) => Retry::Never,
        // The definition of another one may be on its way by other hands.
        _ => told.retry,
    };
    let said = told.message.replace(tried, &id.name);
    let message = format!("{origin}: {field}{said} ({id})");
    Err(Failure::new(reason, message, retry).after(told.after))
}

/// An answer of the API server as the machine sees it.
pub(super) fn failure(error: &ApiError) -> Failure {
    meaning(error).after(error.retry_after())
}

fn meaning(error: &ApiError) -> Failure {
    let (reason, message) = (error.reason(), chain(error));
    match error {
        ApiError::Kubeconfig { .. } | ApiError::Unavailable { .. } => {
            Failure::always(reason, message)
        }
        // The aggregator's word for a group whose server is away, which may stay so.
        ApiError::Busy { status: 502..=504, group, .. } if !is_built_in(group) => {
            let message = format!("the API group {group}: {message}");
            Failure::soon(Reason::KubernetesApiPartAway, message)
        }
        // Overloaded or starting; everything else (a webhook that does not answer, a namespace
        // that is being emptied) may stay so.
        ApiError::Busy { status: 408 | 429 | 502..=504, .. } => Failure::always(reason, message),
        ApiError::Busy { message: said, .. } if said.contains("webhook") => {
            Failure::soon(Reason::ReleaseWebhookRefused, message)
        }
        ApiError::Busy { .. }
        | ApiError::Budget { .. }
        | ApiError::Forbidden { .. }
        | ApiError::Exists { .. }
        | ApiError::Stale { .. }
        | ApiError::UnknownKind { .. }
        | ApiError::Answer { .. } => Failure::soon(reason, message),
        ApiError::NotFound { .. }
        | ApiError::Conflict { .. }
        | ApiError::Webhook { .. }
        | ApiError::Refused { .. } => Failure::never(reason, message),
    }
}

/// The same for what is no part of a release: the site's record, marks.
pub(super) fn own_failure(error: &ApiError) -> Failure {
    let failure = failure(error);
    if !error.is_admission() {
        return failure;
    }
    // Whoever refuses it may be a release's own webhook whose pods are a moment behind.
    Failure::soon(Reason::KubernetesAdmissionRefused, failure.message).after(failure.after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ObjectId, Origin};
    use http::StatusCode;
    use serde_json::json;

    fn busy(status: u16, group: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        let error = ApiError::from_answer("read Gadget a", status, Some(7), b"service unavailable");
        let ApiError::Busy { attempt, status, message, retry_after, .. } = error else {
            panic!("{error:?}")
        };
        let group = group.to_owned();
        failure(&ApiError::Busy { attempt, status, message, retry_after, group })
    }

    #[test]
    fn a_part_that_is_away_is_told_from_the_whole() {
        let part = busy(503, "gadgets.example");
        assert_eq!((part.reason, part.retry), (Reason::KubernetesApiPartAway, Retry::Soon));
        assert!(part.message.contains("gadgets.example"), "{part}");
        for (status, group) in [(503, ""), (503, "apps"), (429, "gadgets.example")] {
            let whole = busy(status, group);
            let told = (Reason::KubernetesApiUnavailable, Retry::Always);
            assert_eq!((whole.reason, whole.retry), told, "{status} {group}");
            assert_eq!(whole.after, Some(std::time::Duration::from_secs(7)));
        }
    }

    #[test]
    fn a_misspelt_kind_of_kubernetes_own_is_refused_and_another_one_may_come() {
        let told = |api_version: &str, kind: &str| {
            let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
            let error =
                ApiError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() };
            let id = ObjectId { api_version, kind, namespace: None, name: "a".into() };
            let object = Object { id, origin: Origin::default(), value: json!({}) };
            refused(&object, "a", &error).unwrap_err()
        };
        for (version, kind) in [("v1", "ConfigMapp"), ("apps/v1", "Deploymint"), ("v2", "Pod")] {
            let failure = told(version, kind);
            assert_eq!((failure.reason, failure.retry), (Reason::ReleaseInvalid, Retry::Never));
            assert!(failure.message.contains("kind: "), "{failure}");
        }
        let failure = told("x.example/v1", "Gadget");
        assert_eq!((failure.reason, failure.retry), (Reason::ReleaseInvalid, Retry::Soon));
    }

    #[test]
    fn a_trial_in_default_has_a_name_of_its_own() {
        let tried = |name: &str| {
            let id = ObjectId {
                api_version: "v1".into(),
                kind: "Service".into(),
                namespace: Some("shop".into()),
                name: name.into(),
            };
            let value = json!({"metadata": {"name": name, "namespace": "shop"}});
            let tried = in_default(&Object { id, origin: Origin::default(), value });
            assert_eq!(tried.value["metadata"]["name"], tried.id.name.as_str());
            assert_eq!(tried.value["metadata"]["namespace"], "default");
            tried.id.name
        };
        assert!(tried("web").starts_with("web-") && tried("web").len() == 12);
        assert_ne!(tried("web"), tried("we-b"));
        assert_eq!(tried(&"a".repeat(63)).len(), 63, "what fits goes on fitting");
        assert_eq!(tried(&"a".repeat(64)).len(), 73, "what does not is refused");
        assert!(!tried(&format!("{}-bbbbbbbb", "a".repeat(53))).contains("--"));
        // RBAC's names may have any characters; one of two bytes lies where this one is cut.
        assert!(tried(&format!("a{}", "é".repeat(30))).len() <= 63);
    }
}
