//! One question to the API server and its answer.
//!
//! Paths are put together from segments that are percent-encoded here, so an object's name can
//! never lead anywhere else; an empty name, `.` and `..` are refused (Kubernetes:
//! `path.IsValidPathSegmentName`). An answer has at most [`ANSWER_BYTES`].

use super::connect::{ANSWER_TIMEOUT, Api};
use super::error::ApiError;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::timeout;

/// Longer answers are refused. etcd takes objects up to 1.5 MiB, so a page of a list may be longer;
/// then it is asked for in smaller ones.
pub const ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    method: Method,
    uri: String,
    content: Option<(&'static str, Vec<u8>)>,
    accept: &'static str,
    /// What is asked for, as messages say it: `apply Deployment default/web`.
    attempt: String,
    patience: Duration,
}

impl Question {
    pub(crate) fn new(method: Method, path: &str, attempt: impl Into<String>) -> Self {
        Question {
            method,
            uri: path.to_owned(),
            content: None,
            accept: "application/json",
            attempt: attempt.into(),
            patience: ANSWER_TIMEOUT,
        }
    }

    pub(crate) fn get(path: &str, attempt: impl Into<String>) -> Self {
        Self::new(Method::GET, path, attempt)
    }

    /// Adds a parameter.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        let mark = if self.uri.contains('?') { '&' } else { '?' };
        let _infallible = write!(self.uri, "{mark}{name}={}", encode(value));
        self
    }

    /// Its answer is none.
    pub(super) fn misunderstood(
        &self,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ApiError {
        ApiError::Answer { attempt: self.attempt.clone(), source: why.into() }
    }

    /// The API group that it is about.
    fn group(&self) -> &str {
        let below = self.uri.strip_prefix("/apis/").unwrap_or_default();
        below.split(['/', '?']).next().unwrap_or_default()
    }

    pub(crate) fn body(mut self, kind: &'static str, value: &Value) -> Self {
        self.content = Some((kind, value.to_string().into_bytes()));
        self
    }

    pub(crate) fn accept(mut self, kind: &'static str) -> Self {
        self.accept = kind;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl Api {
    /// Asks, and takes any answer with an HTTP code.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Told, ApiError> {
        let session = self.session();
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| {
            let attempt = question.attempt.clone();
            ApiError::Unavailable { attempt, server: session.server.clone(), source }
        };
        let mut request = Request::builder()
            .method(&question.method)
            .uri(format!("https://{}{}", session.server, question.uri))
            .header(USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, question.accept);
        if let Some(bearer) = &session.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let body = match &question.content {
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, *kind);
                Body::from(bytes.clone())
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|error| unavailable(error.into()))?;
        let answered = timeout(question.patience, async {
            let answer =
                session.client.send(request).await.map_err(|error| unavailable(error.into()))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| {
                // It does answer, and will not become shorter by being asked again.
                if error.is::<LengthLimitError>() {
                    return question.misunderstood(error);
                }
                unavailable(error)
            })?;
            Ok(Told { code: head.status, headers: head.headers, body: body.to_bytes() })
        });
        answered.await.unwrap_or_else(|elapsed| Err(unavailable(elapsed.into())))
    }

    /// Asks; a refusal is an error.
    pub(crate) async fn call(&self, question: &Question) -> Result<Told, ApiError> {
        let told = self.ask(question).await?;
        if told.code.is_success() {
            return Ok(told);
        }
        let retry_after = told.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok());
        let error = ApiError::from_answer(&question.attempt, told.code, retry_after, &told.body);
        Err(error.below(question.group()))
    }

    /// Asks for JSON.
    pub(crate) async fn call_json<T: DeserializeOwned>(
        &self,
        question: &Question,
    ) -> Result<T, ApiError> {
        self.call(question).await?.json(question)
    }
}

/// An answer.
pub(crate) struct Told {
    pub(crate) code: StatusCode,
    headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Told {
    pub(crate) fn json<T: DeserializeOwned>(&self, question: &Question) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| question.misunderstood(error))
    }
}

/// A segment of a path or the value of a parameter, percent-encoded (RFC 3986 §2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _infallible = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Whether the API server takes this as the name in a path.
pub(crate) fn is_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_one_segment_and_comes_back(text in "\\PC*") {
            let encoded = encode(&text);
            prop_assert!(!encoded.contains(['/', '?', '#', '&', '=', '+', ' ']));
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let [first, tail @ ..] = rest {
                if *first == b'%' {
                    let hex = std::str::from_utf8(&tail[..2]).unwrap();
                    bytes.push(u8::from_str_radix(hex, 16).unwrap());
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(bytes, text.as_bytes());
        }
    }

    #[test]
    fn parameters_are_joined() {
        let question = Question::get("/api/v1/pods", "list").query("limit", "5").query("a", "b=c");
        assert_eq!(question.uri, "/api/v1/pods?limit=5&a=b%3Dc");
    }

    #[test]
    fn the_group_is_told_from_the_path() {
        for (path, group) in [
            ("/apis/metrics.k8s.io/v1beta1/nodes", "metrics.k8s.io"),
            ("/apis/apps/v1?limit=1", "apps"),
            ("/apis", ""),
            ("/api/v1/pods", ""),
        ] {
            assert_eq!(Question::get(path, "ask").group(), group, "{path}");
        }
    }

    #[test]
    fn a_name_stays_within_its_folder() {
        assert!(is_name("system:node") && is_name("a.b-c"));
        for name in ["", ".", "..", "a/b", "%2e%2e"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
