//! Waiting until a registration is decided: the half of enrolment that nodes and edges share.
//!
//! Whoever presents a token creates a [`Registration`] and then waits here, over any number of
//! watches, until the controller has admitted it or says no. Fails with the connection; the caller
//! presents the token again, which changes nothing on the controller's side. Left out: what is
//! registered, and where certificates are kept.

use crate::{Client, ClientError, Event, Selector};
use holdfast_api::Reason;
use holdfast_api::resources::{Registration, RegistrationPhase, RegistrationStatus};

/// What the controller issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate and its intermediates, PEM.
    pub certificate: String,
    /// The controller's CA, PEM.
    pub ca: String,
}

/// What an admitted machine was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its certificate.
    pub issued: Issued,
    /// The name under which the controller knows the machine: a node's or an edge's.
    pub name: String,
    /// The site; empty for an edge.
    pub site: String,
}

/// Why the waiting ended without an admission.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The controller cannot be asked any more.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The controller says no, and says why.
    #[error("{1}")]
    Refused(Reason, String),
}

/// Waits until `made` is decided. `undecided` is called once when the controller has not decided
/// at first sight, as a person may have to approve.
///
/// # Errors
/// The connection broke, or the controller said no.
pub async fn await_admission(
    client: &Client,
    made: Registration,
    undecided: impl AsyncFnOnce(),
) -> Result<Admission, AdmissionError> {
    let namespace = made.metadata.namespace;
    let selector = Selector::name(made.metadata.name);
    let mut version = made.metadata.resource_version;
    let mut status = made.status.unwrap_or_default();
    let mut undecided = Some(undecided);
    loop {
        let phase = status.phase;
        if let Some(admission) = verdict(status)? {
            return Ok(admission);
        }
        if phase == RegistrationPhase::Pending
            && let Some(tell) = undecided.take()
        {
            tell().await;
        }
        let mut watch =
            client.watch::<Registration>(namespace.as_deref(), &selector, Some(&version)).await?;
        status = RegistrationStatus { phase, ..RegistrationStatus::default() };
        while let Some(event) = watch.next().await {
            match event? {
                Event::Added(seen) | Event::Modified(seen) => {
                    version = seen.metadata.resource_version;
                    status = seen.status.unwrap_or_default();
                    break;
                }
                Event::Deleted(_) => {
                    let text = "an operator deleted the registration".to_owned();
                    return Err(AdmissionError::Refused(Reason::RegistrationRejected, text));
                }
                Event::Bookmark { resource_version } => version = resource_version,
            }
        }
    }
}

/// Asks for the next certificate of the registration `name` of `tenant`, with the signing request
/// `csr` (PEM). None when the controller has not issued one yet: ask again later.
///
/// # Errors
/// The controller cannot be asked, or refuses.
pub async fn renew(
    client: &Client,
    tenant: Option<&str>,
    name: &str,
    csr: &str,
) -> Result<Option<Issued>, ClientError> {
    let patch = serde_json::json!({ "spec": { "csr": csr } });
    let seen: Registration = client.merge_patch(tenant, name, &patch, None).await?;
    let status = seen.status.unwrap_or_default();
    Ok(status.certificate.zip(status.ca).map(|(certificate, ca)| Issued { certificate, ca }))
}

/// What a registration's status means to the machine: done, go on waiting, or an end.
fn verdict(status: RegistrationStatus) -> Result<Option<Admission>, AdmissionError> {
    let refused = |fallback: Reason| {
        let reason = Reason::from_code(&status.reason).unwrap_or(fallback);
        let said = Some(status.message.clone()).filter(|text| !text.is_empty());
        AdmissionError::Refused(reason, said.unwrap_or_else(|| reason.sentence().into()))
    };
    match status.phase {
        RegistrationPhase::Pending | RegistrationPhase::Approved => Ok(None),
        RegistrationPhase::Admitted | RegistrationPhase::Online => Ok((|| {
            Some(Admission {
                issued: Issued { certificate: status.certificate?, ca: status.ca? },
                name: status.node?,
                site: status.site.unwrap_or_default(),
            })
        })()),
        RegistrationPhase::Rejected => Err(refused(Reason::RegistrationRejected)),
        RegistrationPhase::Retired => Err(refused(Reason::RegistrationRetired)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: RegistrationPhase) -> RegistrationStatus {
        RegistrationStatus { phase, ..RegistrationStatus::default() }
    }

    fn whole(phase: RegistrationPhase) -> RegistrationStatus {
        RegistrationStatus {
            certificate: Some("c".into()),
            ca: Some("a".into()),
            node: Some("ce01".into()),
            site: Some("s".into()),
            ..status(phase)
        }
    }

    #[test]
    fn only_a_whole_admission_ends_the_waiting() {
        use RegistrationPhase::{Admitted, Approved, Online, Pending};
        for phase in [Pending, Approved, Admitted, Online] {
            assert!(verdict(status(phase)).unwrap().is_none(), "{phase:?} without its parts");
        }
        for phase in [Pending, Approved] {
            assert!(verdict(whole(phase)).unwrap().is_none(), "{phase:?} decides nothing");
        }
        for phase in [Admitted, Online] {
            let given = verdict(whole(phase)).unwrap().unwrap();
            assert_eq!((given.name.as_str(), given.site.as_str()), ("ce01", "s"));
            let half = RegistrationStatus { ca: None, ..whole(phase) };
            assert!(verdict(half).unwrap().is_none(), "{phase:?} without its CA");
        }
    }

    #[test]
    fn a_no_carries_the_controllers_reason_or_says_its_own() {
        let reason = |status| match verdict(status) {
            Err(AdmissionError::Refused(reason, text)) => (reason, text),
            other => panic!("{other:?}"),
        };
        for (phase, fallback) in [
            (RegistrationPhase::Rejected, Reason::RegistrationRejected),
            (RegistrationPhase::Retired, Reason::RegistrationRetired),
        ] {
            assert_eq!(reason(status(phase)), (fallback, fallback.sentence().into()));
            let told = RegistrationStatus {
                reason: Reason::TokenExpired.code().into(),
                message: "since yesterday".into(),
                ..status(phase)
            };
            assert_eq!(reason(told), (Reason::TokenExpired, "since yesterday".into()));
        }
    }
}
