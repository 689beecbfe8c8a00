//! Failed requests, as Kubernetes' `Status` objects. A failed request changed nothing.

use crate::schema::FieldError;
use crate::store::StoreError;
use holdfast_api::Reason;
use holdfast_api::meta::{GROUP, Status, StatusCause, StatusDetails};
use holdfast_api::resources::Kind;

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    code: u16,
    reason: &'static str,
    message: String,
    details: Box<StatusDetails>,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, kind: Kind, name: &str) -> Self {
        self.details.group = GROUP.into();
        self.details.kind = kind.plural().into();
        self.details.name = name.into();
        self
    }

    /// Adds one of our reason codes to the causes.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.details.causes.push(StatusCause {
            reason: reason.code().into(),
            message: reason.sentence().into(),
            field: String::new(),
        });
        self
    }

    /// There is no such object.
    pub fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{}.{GROUP} {name:?} not found", kind.plural());
        ApiError::new(404, "NotFound", message).about(kind, name)
    }

    /// There is no such path.
    pub fn no_such_path() -> Self {
        ApiError::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// The name is taken.
    pub fn already_exists(kind: Kind, name: &str) -> Self {
        let message = format!("{}.{GROUP} {name:?} already exists", kind.plural());
        ApiError::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// The object is not as the client believes.
    pub fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {}.{GROUP} {name:?}: {why}", kind.plural());
        ApiError::new(409, "Conflict", message).about(kind, name)
    }

    /// Other field managers own what the client wants to apply.
    pub fn apply_conflict(kind: Kind, name: &str, conflicts: Vec<(String, String)>) -> Self {
        let owners: Vec<String> =
            conflicts.iter().map(|(owner, field)| format!("{field} is of {owner:?}")).collect();
        let message = format!(
            "Apply failed with {} conflicts: {}; apply with force to take them over",
            owners.len(),
            owners.join(", ")
        );
        let mut error = ApiError::new(409, "Conflict", message).about(kind, name);
        error.details.causes = conflicts
            .into_iter()
            .map(|(owner, field)| StatusCause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {owner:?}"),
                field: format!(".{field}"),
            })
            .collect();
        error
    }

    /// The object breaks the rules of its kind.
    pub fn invalid(kind: Kind, name: &str, errors: Vec<FieldError>) -> Self {
        let list: Vec<String> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
        let list = if list.len() == 1 { list.concat() } else { format!("[{}]", list.join(", ")) };
        // One that is to be named by the server has no name yet.
        let name_or_none = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}.{GROUP}{name_or_none} is invalid: {list}", kind.name());
        let mut error = ApiError::new(422, "Invalid", message).about(kind, name);
        error.details.causes = errors
            .into_iter()
            .map(|e| StatusCause { reason: e.reason.into(), message: e.message, field: e.field })
            .collect();
        error
    }

    /// The request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ApiError::new(400, "BadRequest", message)
    }

    /// The credentials are not known.
    pub fn unauthorized() -> Self {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// The caller may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        ApiError::new(403, "Forbidden", message)
    }

    /// The token is no good for this.
    pub fn token(reason: Reason) -> Self {
        let sentence = reason.sentence();
        ApiError::new(403, "Forbidden", format!("{reason}: {sentence} {}", reason.next_step()))
            .because(reason)
    }

    /// This cannot be done to this resource.
    pub fn method_not_allowed(method: &str) -> Self {
        let message = format!("the method {method} is not allowed on the requested resource");
        ApiError::new(405, "MethodNotAllowed", message)
    }

    /// None of the answers we have is accepted.
    pub fn not_acceptable() -> Self {
        let message =
            "only the following media types are accepted: application/json, application/yaml";
        ApiError::new(406, "NotAcceptable", message)
    }

    /// Changes of that age are no longer known.
    pub fn expired(message: impl Into<String>) -> Self {
        ApiError::new(410, "Expired", message)
    }

    /// The body is too large.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request is larger than {limit} bytes");
        ApiError::new(413, "RequestEntityTooLarge", message)
    }

    /// The body is of a kind that is not understood here.
    pub fn unsupported_media(media: &str, supported: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - {media:?}, accepted media types include: {supported}"
        );
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    /// Something failed that should not.
    pub fn internal(message: impl Into<String>) -> Self {
        ApiError::new(500, "InternalError", message).because(Reason::Internal)
    }

    /// HTTP status.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The `Status` to answer with.
    pub fn status(&self) -> Status {
        let empty = *self.details == StatusDetails::default();
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: "Failure".into(),
            message: self.message.clone(),
            reason: self.reason.into(),
            details: (!empty).then(|| (*self.details).clone()),
            code: self.code,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = format!("the store did not take the change: {error}");
        let mut api = ApiError::new(503, "ServiceUnavailable", message).because(error.reason());
        api.details.retry_after_seconds = error.retryable().then_some(5);
        api
    }
}
