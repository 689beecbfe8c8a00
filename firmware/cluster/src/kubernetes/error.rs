//! What the API server's refusals mean.
//!
//! The server answers a refusal with a `Status` (Kubernetes API conventions, "Response Status
//! Kind"): an HTTP code, a word (`reason`), a sentence, and details. [`ApiError::from_answer`]
//! tells apart what needs different conduct. Versions differ: an unknown field in a server-side
//! apply is code 500 with the schema's words up to now, and a 400 where strict field validation
//! looked first (1.25 and later); both are [`ApiError::Refused`].

use holdfast_api::Reason;
use http::StatusCode;
use http_body_util::LengthLimitError;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// A field that another field manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldConflict {
    /// Who owns it, such as `kubectl-client-side-apply`.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// Why the API server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used. k3s writes it when it starts, so it may come yet.
    #[error("cannot use the kubeconfig {}: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No answer.
    #[error("the API server {server} does not answer: {attempt}")]
    Unavailable {
        /// What was asked for.
        attempt: String,
        /// Where it was looked for.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answers that it cannot answer now: overloaded, starting, a webhook of it is away.
    #[error("the API server cannot {attempt} now ({status}): {message}")]
    Busy {
        /// What was asked for.
        attempt: String,
        /// HTTP code.
        status: u16,
        /// Its words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// API group of what was asked for, empty for the core and what is in none. Another server
        /// may answer for a group (Kubernetes docs, "API Aggregation Layer").
        group: String,
    },
    /// We are not known (401), or have no right to do this (403).
    #[error("the API server does not let us {attempt}: {message}")]
    Forbidden {
        /// What was asked for.
        attempt: String,
        /// Its words.
        message: String,
    },
    /// The object, or the namespace it goes to, is not there.
    #[error("cannot {attempt}: {message}")]
    NotFound {
        /// What was asked for.
        attempt: String,
        /// Plural kind of what is missing, such as `namespaces`.
        kind: String,
        /// Its name.
        name: String,
        /// The server's words.
        message: String,
    },
    /// The object that was to be made is there already.
    #[error("cannot {attempt}: it exists")]
    Exists {
        /// What was asked for.
        attempt: String,
    },
    /// Somebody changed or replaced the object since it was read; or a list took so long that the
    /// server no longer knows its beginning.
    #[error("cannot {attempt}: it changed meanwhile: {message}")]
    Stale {
        /// What was asked for.
        attempt: String,
        /// The server's words.
        message: String,
    },
    /// Others own fields that were to be set.
    #[error("cannot {attempt}: {}", conflict_words(fields))]
    Conflict {
        /// What was asked for.
        attempt: String,
        /// Which fields, and whose.
        fields: Vec<FieldConflict>,
    },
    /// A disruption budget keeps the pod.
    #[error("cannot {attempt}: {message}")]
    Budget {
        /// What was asked for.
        attempt: String,
        /// The budget's words.
        message: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An admission webhook says no.
    #[error("cannot {attempt}: the webhook {webhook} refuses: {message}")]
    Webhook {
        /// What was asked for.
        attempt: String,
        /// Its name.
        webhook: String,
        /// Its words; may be empty.
        message: String,
    },
    /// The object is not as it must be, or a rule of the cluster refuses it.
    #[error("cannot {attempt}: {message}")]
    Refused {
        /// What was asked for.
        attempt: String,
        /// The fields at fault, such as `spec.replicas`, as far as the server names them.
        fields: Vec<String>,
        /// The server's words.
        message: String,
    },
    /// The cluster has no such kind. Its definition may come yet.
    #[error("the cluster has no kind {kind} of {api_version}")]
    UnknownKind {
        /// Such as `example.org/v1`.
        api_version: String,
        /// Such as `Gadget`.
        kind: String,
    },
    /// The answer cannot be understood, or is longer than any is.
    #[error("cannot understand the API server's answer to: {attempt}")]
    Answer {
        /// What was asked for.
        attempt: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn conflict_words(fields: &[FieldConflict]) -> String {
    let words: Vec<_> =
        fields.iter().map(|one| format!("{} belongs to {}", one.field, one.manager)).collect();
    words.join(", ")
}

impl ApiError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            ApiError::Unavailable { source, .. } if is_out_of_date(source.as_ref()) => {
                Reason::KubernetesCertificateExpired
            }
            ApiError::Kubeconfig { .. }
            | ApiError::Unavailable { .. }
            | ApiError::Busy { .. }
            | ApiError::Answer { .. } => Reason::KubernetesApiUnavailable,
            ApiError::Forbidden { .. } => Reason::KubernetesForbidden,
            ApiError::Conflict { .. } | ApiError::Exists { .. } | ApiError::Stale { .. } => {
                Reason::ReleaseConflict
            }
            ApiError::Budget { .. } => Reason::NodeDrainBlocked,
            ApiError::Webhook { .. } => Reason::ReleaseWebhookRefused,
            ApiError::NotFound { .. } | ApiError::Refused { .. } | ApiError::UnknownKind { .. } => {
                Reason::ReleaseApplyRefused
            }
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            ApiError::Kubeconfig { .. }
            | ApiError::Unavailable { .. }
            | ApiError::Busy { .. }
            | ApiError::Budget { .. } => true,
            ApiError::Forbidden { .. }
            | ApiError::NotFound { .. }
            | ApiError::Exists { .. }
            | ApiError::Stale { .. }
            | ApiError::Conflict { .. }
            | ApiError::Webhook { .. }
            | ApiError::Refused { .. }
            | ApiError::UnknownKind { .. }
            | ApiError::Answer { .. } => false,
        }
    }

    /// Whether admission let it not pass: a webhook or a rule of the cluster said no, or a webhook
    /// that has to be asked failed. It is an answer, unlike silence.
    pub fn is_admission(&self) -> bool {
        match self {
            ApiError::Webhook { .. } | ApiError::Refused { .. } => true,
            ApiError::Busy { message, .. } => message.contains("webhook"),
            ApiError::Kubeconfig { .. }
            | ApiError::Unavailable { .. }
            | ApiError::Forbidden { .. }
            | ApiError::NotFound { .. }
            | ApiError::Exists { .. }
            | ApiError::Stale { .. }
            | ApiError::Conflict { .. }
            | ApiError::Budget { .. }
            | ApiError::UnknownKind { .. }
            | ApiError::Answer { .. } => false,
        }
    }

    /// How long the server wants to be left alone before it is asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Busy { retry_after, .. } | ApiError::Budget { retry_after, .. } => {
                *retry_after
            }
            ApiError::Kubeconfig { .. }
            | ApiError::Unavailable { .. }
            | ApiError::Forbidden { .. }
            | ApiError::NotFound { .. }
            | ApiError::Exists { .. }
            | ApiError::Stale { .. }
            | ApiError::Conflict { .. }
            | ApiError::Webhook { .. }
            | ApiError::Refused { .. }
            | ApiError::UnknownKind { .. }
            | ApiError::Answer { .. } => None,
        }
    }

    /// Whether an answer was longer than it may be.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, ApiError::Answer { source, .. } if source.is::<LengthLimitError>())
    }

    /// The same, of a question below this API group.
    pub(super) fn below(mut self, asked: &str) -> ApiError {
        if let ApiError::Busy { group, .. } = &mut self {
            asked.clone_into(group);
        }
        self
    }

    /// The namespace that an object was to go to, when it is not there.
    pub fn missing_namespace(&self) -> Option<&str> {
        match self {
            ApiError::NotFound { kind, name, .. } if kind == "namespaces" => Some(name),
            _ => None,
        }
    }

    /// What an answer with an HTTP code from 300 on means. `retry_after` is the header
    /// `Retry-After`, in seconds.
    pub fn from_answer(
        attempt: &str,
        code: StatusCode,
        retry_after: Option<u64>,
        body: &[u8],
    ) -> ApiError {
        let status: Status = serde_json::from_slice(body).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(body).trim().chars().take(500).collect(),
            ..Status::default()
        });
        let Status { reason, message, details } = status;
        let details = details.unwrap_or_default();
        let attempt = attempt.to_owned();
        let retry_after = retry_after.or(details.retry_after_seconds).map(Duration::from_secs);
        let status = code.as_u16();
        let busy = |attempt, message| ApiError::Busy {
            attempt,
            status,
            message,
            retry_after,
            group: String::new(),
        };
        let has = |word: &str| details.causes.iter().any(|cause| cause.reason == word);

        if let Some((webhook, message)) = denied_by(&message) {
            return ApiError::Webhook { attempt, webhook, message };
        }
        if has("NamespaceTerminating") {
            return busy(attempt, message);
        }
        match code.as_u16() {
            401 => ApiError::Forbidden { attempt, message },
            // Quotas, pod security and other admission rules answer 403 as well; only a lack of
            // rights names the user.
            403 if message.contains("cannot ") && message.contains("ser \"") => {
                ApiError::Forbidden { attempt, message }
            }
            404 => ApiError::NotFound { attempt, kind: details.kind, name: details.name, message },
            409 if has("FieldManagerConflict") => {
                let conflicts = details.causes.iter().map(|cause| FieldConflict {
                    manager: quoted(&cause.message).unwrap_or("somebody").to_owned(),
                    field: cause.field.clone(),
                });
                ApiError::Conflict { attempt, fields: conflicts.collect() }
            }
            409 if reason == "AlreadyExists" => ApiError::Exists { attempt },
            409 | 410 => ApiError::Stale { attempt, message },
            429 if has("DisruptionBudget") => {
                let budget = details
                    .causes
                    .iter()
                    .find(|cause| cause.reason == "DisruptionBudget")
                    .map_or(message.as_str(), |cause| &cause.message);
                ApiError::Budget { attempt, message: budget.to_owned(), retry_after }
            }
            408 | 429 => busy(attempt, message),
            // Errors of the schema carry no code of their own, so the server gives this one.
            500 if of_schema(&message) => {
                ApiError::Refused { attempt, fields: fields_named(&message), message }
            }
            500.. => busy(attempt, message),
            _ => {
                let mut fields: Vec<String> = details
                    .causes
                    .iter()
                    .map(|cause| cause.field.clone())
                    .filter(|field| !field.is_empty())
                    .collect();
                if fields.is_empty() {
                    fields = fields_named(&message);
                }
                fields.dedup();
                ApiError::Refused { attempt, fields, message }
            }
        }
    }
}

/// Whether a connection failed because the server's certificate is past its time or before it.
fn is_out_of_date(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::{CertificateError as Certificate, Error as Tls};
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error does not give the error that it wraps as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = wrapped.and_then(|error| error.downcast_ref()).or(error.downcast_ref());
        if let Some(Tls::InvalidCertificate(why)) = tls {
            return matches!(
                why,
                Certificate::Expired
                    | Certificate::ExpiredContext { .. }
                    | Certificate::NotValidYet
                    | Certificate::NotValidYetContext { .. }
            );
        }
        next = error.source();
    }
    false
}

/// A `Status`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    name: String,
    kind: String,
    causes: Vec<Cause>,
    retry_after_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
    field: String,
}

/// `admission webhook "W" denied the request: WHY`, also `… without explanation`
/// (apiserver/pkg/admission/plugin/webhook/errors).
fn denied_by(message: &str) -> Option<(String, String)> {
    let (_, rest) = message.split_once("admission webhook \"")?;
    let (webhook, rest) = rest.split_once('"')?;
    let rest = rest.strip_prefix(" denied the request")?;
    Some((webhook.to_owned(), rest.trim_start_matches([':', ' ']).to_owned()))
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

/// The words of structured-merge-diff, which server-side apply passes on.
fn of_schema(message: &str) -> bool {
    [
        "field not declared in schema",
        "failed to create typed",
        "failed to convert",
        "strict decoding",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Fields that a sentence names: `unknown field "spec.a"`, `.spec.a: field not declared …`.
fn fields_named(message: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for words in ["unknown field \"", "duplicate field \""] {
        let named = message.split(words).skip(1).filter_map(|rest| rest.split('"').next());
        fields.extend(named.map(str::to_owned));
    }
    for word in message.split_whitespace() {
        let path = word.strip_prefix('.').and_then(|word| word.strip_suffix(':'));
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            fields.push(path.to_owned());
        }
    }
    fields.dedup();
    fields
}

#[cfg(test)]
#[path = "error/tests.rs"]
mod tests;
