use super::*;
use proptest::prelude::*;

fn refusal(code: u16, body: &str) -> ApiError {
    let code = StatusCode::from_u16(code).unwrap();
    ApiError::from_answer("apply Deployment default/web", code, None, body.as_bytes())
}

#[test]
fn a_field_of_another_manager_is_named_with_its_owner() {
    let error = refusal(
        409,
        r#"{"kind":"Status","status":"Failure","reason":"Conflict","code":409,
            "message":"Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas",
            "details":{"causes":[{"reason":"FieldManagerConflict","field":".spec.replicas",
              "message":"conflict with \"kubectl-client-side-apply\" using apps/v1"}]}}"#,
    );
    let ApiError::Conflict { fields, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        fields[..],
        [FieldConflict {
            manager: "kubectl-client-side-apply".into(),
            field: ".spec.replicas".into()
        }]
    );
    assert_eq!(error.reason(), Reason::ReleaseConflict);
    assert!(error.to_string().ends_with(".spec.replicas belongs to kubectl-client-side-apply"));
}

#[test]
fn a_changed_object_is_told_from_one_that_exists() {
    let changed = refusal(
        409,
        r#"{"reason":"Conflict","message":"Operation cannot be fulfilled on leases.coordination.k8s.io \"l\": the object has been modified"}"#,
    );
    assert!(matches!(changed, ApiError::Stale { .. }), "{changed:?}");
    let exists =
        refusal(409, r#"{"reason":"AlreadyExists","message":"namespaces \"a\" already exists"}"#);
    assert!(matches!(exists, ApiError::Exists { .. }), "{exists:?}");
    let list = refusal(
        410,
        r#"{"reason":"Expired","message":"The provided continue parameter is too old"}"#,
    );
    assert!(matches!(list, ApiError::Stale { .. }), "{list:?}");
}

#[test]
fn a_webhook_that_denies_is_named_whatever_code_it_gives() {
    for code in [400, 403, 422] {
        let error = refusal(
            code,
            r#"{"message":"admission webhook \"policy.example.org\" denied the request: no root here"}"#,
        );
        let ApiError::Webhook { webhook, message, .. } = &error else { panic!("{error:?}") };
        assert_eq!((webhook.as_str(), message.as_str()), ("policy.example.org", "no root here"));
        assert_eq!(error.reason(), Reason::ReleaseWebhookRefused);
    }
    let error = refusal(
        400,
        r#"{"message":"admission webhook \"w\" denied the request without explanation"}"#,
    );
    assert!(matches!(error, ApiError::Webhook { .. }), "{error:?}");
}

#[test]
fn a_webhook_that_is_away_may_come_back() {
    let error = refusal(
        500,
        r#"{"reason":"InternalError","message":"Internal error occurred: failed calling webhook \"w\": connect: connection refused"}"#,
    );
    assert!(error.retryable() && error.reason() == Reason::KubernetesApiUnavailable, "{error:?}");
}

#[test]
fn unknown_fields_are_named_in_the_words_of_every_version() {
    // 1.20 answers a server-side apply with code 500, newer ones with 400.
    let words = [
        (500, r"failed to create typed patch object: .spec.replica: field not declared in schema"),
        (
            500,
            r"failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
        (400, r#"strict decoding error: unknown field \"spec.replica\""#),
    ];
    for (code, words) in words {
        let error = refusal(code, &format!(r#"{{"message":"{words}"}}"#));
        let ApiError::Refused { fields, .. } = &error else { panic!("{error:?}") };
        assert_eq!(fields[..], ["spec.replica"], "{words}");
        assert_eq!(error.reason(), Reason::ReleaseApplyRefused);
        assert!(!error.retryable());
    }
}

#[test]
fn a_value_that_is_not_valid_names_its_field() {
    let error = refusal(
        422,
        r#"{"reason":"Invalid","message":"Deployment.apps \"web\" is invalid",
            "details":{"name":"web","kind":"Deployment","causes":[
              {"reason":"FieldValueInvalid","field":"spec.replicas","message":"Invalid value: -1"}]}}"#,
    );
    let ApiError::Refused { fields, .. } = &error else { panic!("{error:?}") };
    assert_eq!(fields[..], ["spec.replicas"]);
}

#[test]
fn a_lack_of_rights_is_told_from_a_quota() {
    let rights = refusal(
        403,
        r#"{"reason":"Forbidden","message":"pods is forbidden: User \"system:node:n1\" cannot list resource \"pods\" in API group \"\" at the cluster scope"}"#,
    );
    assert_eq!(rights.reason(), Reason::KubernetesForbidden);
    let quota = refusal(
        403,
        r#"{"reason":"Forbidden","message":"pods \"web\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1"}"#,
    );
    assert_eq!(quota.reason(), Reason::ReleaseApplyRefused);
    assert_eq!(refusal(401, r#"{"message":"Unauthorized"}"#).reason(), Reason::KubernetesForbidden);
}

#[test]
fn a_namespace_that_goes_is_waited_for() {
    let error = refusal(
        403,
        r#"{"reason":"Forbidden","message":"configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated",
            "details":{"causes":[{"reason":"NamespaceTerminating","message":"namespace x is being terminated","field":"metadata.namespace"}]}}"#,
    );
    assert!(error.retryable(), "{error:?}");
}

#[test]
fn a_missing_namespace_is_told() {
    let error = refusal(
        404,
        r#"{"reason":"NotFound","message":"namespaces \"edge\" not found","details":{"name":"edge","kind":"namespaces"}}"#,
    );
    assert_eq!(error.missing_namespace(), Some("edge"));
}

#[test]
fn a_budget_is_told_from_an_overloaded_server() {
    let budget = refusal(
        429,
        r#"{"reason":"TooManyRequests","message":"Cannot evict pod as it would violate the pod's disruption budget.",
            "details":{"causes":[{"reason":"DisruptionBudget","message":"The disruption budget web needs 1 healthy pods and has 1 currently"}]}}"#,
    );
    assert_eq!(budget.reason(), Reason::NodeDrainBlocked);
    assert!(budget.to_string().contains("budget web needs 1"), "{budget}");
    let overloaded = refusal(
        429,
        r#"{"reason":"TooManyRequests","message":"too many requests, please try again later","details":{"retryAfterSeconds":3}}"#,
    );
    assert_eq!(overloaded.reason(), Reason::KubernetesApiUnavailable);
    assert_eq!(overloaded.retry_after(), Some(Duration::from_secs(3)));
}

/// The filter before all others answers in plain text.
#[test]
fn an_overloaded_server_says_so_in_plain_text() {
    let error = refusal(429, "Too many requests, please try again later.");
    assert!(matches!(error, ApiError::Busy { status: 429, .. }), "{error:?}");
}

#[test]
fn a_certificate_past_its_time_is_told_from_a_server_that_is_away() {
    let unavailable = |source: std::io::Error| ApiError::Unavailable {
        attempt: "say that it is ready".into(),
        server: "127.0.0.1:6443".into(),
        source: Box::new(kube::Error::Service(source.into())),
    };
    let wrong = |why| {
        let tls = rustls::Error::InvalidCertificate(why);
        unavailable(std::io::Error::new(std::io::ErrorKind::InvalidData, tls))
    };
    let expired = wrong(rustls::CertificateError::Expired);
    assert_eq!(expired.reason(), Reason::KubernetesCertificateExpired);
    assert!(expired.retryable(), "the distribution renews it when it starts");
    let foreign = wrong(rustls::CertificateError::UnknownIssuer);
    assert_eq!(foreign.reason(), Reason::KubernetesApiUnavailable);
    let away = unavailable(std::io::ErrorKind::ConnectionRefused.into());
    assert_eq!(away.reason(), Reason::KubernetesApiUnavailable);
}

proptest! {
    /// Whatever a proxy or a broken server answers is an error with a reason.
    #[test]
    fn any_answer_is_understood(code in 300u16..600, body in "\\PC{0,80}") {
        let error = refusal(code, &body);
        let retryable = matches!(code, 408 | 429 | 500..);
        prop_assert_eq!(error.retryable(), retryable, "{:?}", error);
        prop_assert!(error.to_string().contains("Deployment default/web"));
    }
}
