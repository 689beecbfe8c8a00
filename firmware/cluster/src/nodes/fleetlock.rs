//! FleetLock's HTTP protocol, as Zincati and other tools speak it: `POST /v1/pre-reboot` and
//! `POST /v1/steady-state` (coreos/zincati, docs/development/fleetlock/protocol.md).
//!
//! Requests carry the header `fleet-lock-protocol: true` and
//! `{"client_params": {"id": "…", "group": "…"}}`; what else is in it is ignored. 200 is a grant,
//! everything else a refusal with `{"kind": "…", "value": "…"}` ([`super::refusal`]) and, where
//! asking again helps, `Retry-After`.
//!
//! Draining takes longer than a request may. `pre-reboot` is therefore answered 503 with
//! `node_draining` until the node is drained, and asked again, which the protocol's clients do
//! after any failure.
//!
//! Who may ask: on a Unix socket the socket's mode decides. On a network address a [`Key`] should
//! be asked for, as a bearer token or as the password of basic authentication (which clients take
//! from the URL), and the protocol run over TLS ([`super::outside`]).

use super::cluster::Cluster;
use super::refusal::{Kind, Refusal};
use super::service::RebootLock;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The header that every request has, with the value `true`.
pub const PROTOCOL_HEADER: &str = "fleet-lock-protocol";
/// Longest body in bytes; the longest id and group need a tenth of it.
pub const BODY_LIMIT: usize = 4096;
/// Longest id in bytes; a Node's name has at most 253 (RFC 1123).
const ID_LIMIT: usize = 253;

/// Body of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Body {
    /// Who asks.
    pub client_params: ClientParams,
}

/// Who asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientParams {
    /// Name of the Node, its machine id or its system UUID.
    pub id: String,
    /// Group; `default` unless the site has others.
    pub group: String,
}

/// Body of a refusal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// One of few words ([`Kind::code`]).
    pub kind: String,
    /// For people.
    pub value: String,
}

/// What a client on the network has to know.
#[derive(Clone)]
pub struct Key(hmac::Key, String);

impl Key {
    /// The key of a site, made from the token that its nodes join with; the token itself never
    /// goes over this wire. A new token is a new key.
    pub fn of_site(join_token: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, join_token.as_bytes());
        let tag = hmac::sign(&key, b"holdfast reboot lock");
        Key(key, holdfast_api::hex(tag.as_ref()))
    }

    /// What a client sends after `Bearer`, or as password.
    pub fn text(&self) -> &str {
        &self.1
    }

    /// Compared by their authentication codes, which takes the same time wherever they differ.
    fn is(&self, text: &str) -> bool {
        let own = hmac::sign(&self.0, self.1.as_bytes());
        hmac::verify(&self.0, text.as_bytes(), own.as_ref()).is_ok()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.1);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(key)")
    }
}

/// The routes, to be served on a Unix socket or (with a key) on an address.
pub fn router<K: Cluster>(lock: Arc<RebootLock<K>>, key: Option<Key>) -> Router {
    Router::new()
        .route("/v1/{request}", post(answer::<K>))
        .method_not_allowed_fallback(async || {
            refuse(&Refusal::new(Kind::NotPost, "requests are POST"))
        })
        .fallback(async || refuse(&no_such_path()))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Face { lock, key })
}

struct Face<K> {
    lock: Arc<RebootLock<K>>,
    key: Option<Key>,
}

impl<K> Clone for Face<K> {
    fn clone(&self) -> Self {
        Face { lock: Arc::clone(&self.lock), key: self.key.clone() }
    }
}

async fn answer<K: Cluster>(
    State(face): State<Face<K>>,
    Path(request): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let lock = Arc::clone(&face.lock);
    let who = read(&headers, body, face.key.as_ref());
    // In a task of its own: a client that hangs up in the middle leaves no half-done request.
    let done = tokio::spawn(async move {
        match (request.as_str(), who) {
            ("pre-reboot", who) => {
                let ClientParams { id, group } = who?;
                lock.pre_reboot(&group, &id).await
            }
            ("steady-state", who) => {
                let ClientParams { id, group } = who?;
                lock.steady_state(&group, &id).await
            }
            _ => Err(no_such_path()),
        }
    });
    match done.await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::new(Kind::Unavailable, "the manager is ending")),
    }
}

fn no_such_path() -> Refusal {
    Refusal::new(Kind::NoSuchPath, "there are /v1/pre-reboot and /v1/steady-state")
}

fn read(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    key: Option<&Key>,
) -> Result<ClientParams, Refusal> {
    if headers.get(PROTOCOL_HEADER).is_none_or(|value| value != "true") {
        let message = format!("the header {PROTOCOL_HEADER}: true is missing");
        return Err(Refusal::new(Kind::BadHeader, message));
    }
    if let Some(key) = key
        && !presented(headers).is_some_and(|text| key.is(&text))
    {
        let message = "the key of the site is missing or wrong";
        return Err(Refusal::new(Kind::Unauthorized, message));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(Kind::TooLarge, format!("a request has at most {BODY_LIMIT} bytes"))
        }
        _ => Refusal::new(Kind::BadRequest, "the body broke off"),
    })?;
    let Body { client_params: who } = serde_json::from_slice(&body)
        .map_err(|error| Refusal::new(Kind::BadRequest, format!("the body is wrong: {error}")))?;
    match (who.id.len(), who.group.len()) {
        (0, _) => Err(Refusal::new(Kind::BadRequest, "client_params.id is empty")),
        (_, 0) => Err(Refusal::new(Kind::BadRequest, "client_params.group is empty")),
        (length, _) if length > ID_LIMIT => Err(Refusal::new(
            Kind::BadRequest,
            format!("client_params.id has more than {ID_LIMIT} bytes"),
        )),
        _ => Ok(who),
    }
}

/// The key in a request (RFC 6750 bearer, RFC 7617 basic).
fn presented(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let plain = STANDARD.decode(rest.trim()).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let password = plain.split_once(':')?.1;
    scheme.eq_ignore_ascii_case("basic").then(|| password.to_owned())
}

fn refuse(refusal: &Refusal) -> Response {
    let problem = Problem { kind: refusal.kind.code().into(), value: refusal.message.clone() };
    let status =
        StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(problem)).into_response();
    if let Some(after) = refusal.kind.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    if refusal.kind == Kind::Unauthorized {
        let challenge = HeaderValue::from_static("Basic realm=\"reboot lock\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests;
