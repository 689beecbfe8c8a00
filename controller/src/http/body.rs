//! Bodies of requests and answers.

use super::ApiError;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// Largest request, in bytes.
const REQUEST_MAX: usize = 2 << 20;
/// A request that takes longer to arrive is given up.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

/// An answer of one piece.
pub(super) fn answer(code: u16, media: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(super) fn json(code: u16, body: impl Into<Bytes>) -> Answer {
    answer(code, "application/json", body)
}

pub(super) fn json_value(code: u16, value: &Value) -> Answer {
    json(code, serde_json::to_vec(value).unwrap_or_default())
}

pub(super) fn failure(error: &ApiError) -> Answer {
    let status = error.status();
    let mut answer = json(error.code(), serde_json::to_vec(&status).unwrap_or_default());
    let retry = status.details.and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// An answer that goes on for as long as `lines` does.
pub(super) fn stream(lines: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    use futures_util::StreamExt;
    let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(line)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The whole body of a request.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let whole = tokio::time::timeout(REQUEST_WITHIN, Limited::new(body, REQUEST_MAX).collect());
    let Ok(whole) = whole.await else {
        return Err(ApiError::bad_request("the request did not arrive in time"));
    };
    match whole {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(REQUEST_MAX))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request broke off: {error}"))),
    }
}

/// A document in JSON or YAML, told apart by the media type.
pub(super) fn parse(bytes: &[u8], media: &str) -> Result<Value, ApiError> {
    let bad = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the body cannot be decoded: {error}"))
    };
    match media {
        "application/json" | "" => serde_json::from_slice(bytes).map_err(|e| bad(&e)),
        media if media.ends_with("+json") => serde_json::from_slice(bytes).map_err(|e| bad(&e)),
        "application/yaml" | "application/apply-patch+yaml" => {
            serde_yaml_ng::from_slice(bytes).map_err(|e| bad(&e))
        }
        other => Err(ApiError::unsupported_media(other, "application/json, application/yaml")),
    }
}
