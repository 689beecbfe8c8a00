//! Why a request to the controller failed.

use crate::plain::plain;
use holdfast_api::{Reason, meta};
use rustls::CertificateError;
use std::time::Duration;

/// A failed request, with the controller it went to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configured address is not an address.
    #[error("{text:?} is not a controller's address: {why}")]
    Endpoint {
        /// What was configured.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Our own key, certificate or CA cannot be used.
    #[error("{what} cannot be used: {why}")]
    Identity {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No connection, or it broke.
    #[error("{endpoint} does not answer ({attempt})")]
    Unreachable {
        /// The controller.
        endpoint: String,
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing, or too little, came within the time allowed.
    #[error("{endpoint} did not answer within {} ms ({attempt})", after.as_millis())]
    TimedOut {
        /// The controller.
        endpoint: String,
        /// What was tried.
        attempt: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The certificate does not come from the CA that we trust, or is made out to another name.
    /// Nothing but the TLS handshake was sent.
    #[error("{endpoint} is not the controller that is trusted; nothing secret was sent")]
    WrongCa {
        /// Who answered.
        endpoint: String,
        /// What is wrong with the certificate.
        #[source]
        source: rustls::Error,
    },
    /// The certificate is not valid yet or not any more, by our clock. Nothing but the TLS
    /// handshake was sent.
    #[error("the certificate of {endpoint} is not valid by this machine's clock")]
    NotNow {
        /// Who answered.
        endpoint: String,
        /// The times.
        #[source]
        source: rustls::Error,
    },
    /// The controller broke the TLS handshake off; most often it refused our certificate.
    #[error("{endpoint} broke off the TLS handshake")]
    Handshake {
        /// Who answered.
        endpoint: String,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
    /// The controller answered no.
    #[error("{endpoint} refused to {attempt}: {} ({})", status.message, status.code)]
    Refused {
        /// The controller.
        endpoint: String,
        /// The request: method and path.
        attempt: String,
        /// Its answer.
        status: Box<meta::Status>,
    },
    /// The answer could not be understood.
    #[error("the answer of {endpoint} to {attempt} cannot be understood: {why}")]
    Protocol {
        /// Who answered.
        endpoint: String,
        /// The request: method and path.
        attempt: String,
        /// What is wrong.
        why: String,
    },
}

/// What was tried when a handshake failed.
pub(crate) const HANDSHAKE: &str = "the TLS handshake";

impl ClientError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            ClientError::Endpoint { .. } => Reason::ConfigInvalid,
            ClientError::Identity { .. } => Reason::IdentityUnusable,
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => {
                Reason::ControllerUnreachable
            }
            ClientError::WrongCa { .. } => Reason::ControllerWrongCa,
            ClientError::NotNow { .. } => Reason::ClockImplausible,
            ClientError::Handshake { .. } => Reason::ControllerRefused,
            ClientError::Refused { status, .. } => {
                status.holdfast_reason().unwrap_or(Reason::ControllerRefused)
            }
            ClientError::Protocol { .. } => Reason::ControllerProtocol,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything here.
    pub fn retryable(&self) -> bool {
        match self {
            ClientError::Endpoint { .. } | ClientError::Identity { .. } => false,
            // The network between us and the controller, the clock and whoever answers at its
            // address may all change by themselves.
            ClientError::Unreachable { .. }
            | ClientError::TimedOut { .. }
            | ClientError::WrongCa { .. }
            | ClientError::NotNow { .. }
            | ClientError::Handshake { .. }
            | ClientError::Protocol { .. } => true,
            ClientError::Refused { status, .. } => {
                matches!(status.code, 408 | 410 | 425 | 429 | 500..=599)
            }
        }
    }

    /// HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            ClientError::Refused { status, .. } => Some(status.code),
            ClientError::Endpoint { .. }
            | ClientError::Identity { .. }
            | ClientError::Unreachable { .. }
            | ClientError::TimedOut { .. }
            | ClientError::WrongCa { .. }
            | ClientError::NotNow { .. }
            | ClientError::Handshake { .. }
            | ClientError::Protocol { .. } => None,
        }
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else wrote first, or an object of this name exists.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The resource version is too old for a watch: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// How long the controller asks us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let ClientError::Refused { status, .. } = self else { return None };
        let secs = status.details.as_ref()?.retry_after_seconds?;
        Some(Duration::from_secs(secs.into()))
    }

    /// Sorts a failed handshake by what it means to a person.
    pub(crate) fn handshake(endpoint: String, error: std::io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            let source = Box::new(plain(error));
            return ClientError::Unreachable { endpoint, attempt: "TLS handshake", source };
        };
        let source = tls.clone();
        match &source {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => ClientError::NotNow { endpoint, source },
            rustls::Error::InvalidCertificate(_) => ClientError::WrongCa { endpoint, source },
            rustls::Error::InvalidMessage(_)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::InappropriateHandshakeMessage { .. }
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::PeerMisbehaved(_)
            | rustls::Error::NoApplicationProtocol => ClientError::Protocol {
                endpoint,
                attempt: HANDSHAKE.into(),
                why: format!("it is not the TLS that is wanted here ({source})"),
            },
            _ => ClientError::Handshake { endpoint, source },
        }
    }
}
