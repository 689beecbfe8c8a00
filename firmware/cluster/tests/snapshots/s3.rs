//! A small S3 server for tests. Debian has no S3 server that could be run here, so this is our own
//! subset: it believes nothing that is not signed (AWS Signature Version 4, checked against the
//! examples of its documentation below), and answers as the API reference says.
//!
//! Kept in memory: objects of one bucket, addressed by path. Known: PUT (also `If-None-Match: *`),
//! GET, HEAD, DELETE, ListObjectsV2 with pages of two, uploads in parts. Faults on demand.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_api::hex;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use ring::{digest, hmac};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(crate) const KEY_ID: &str = "AKIATEST";
pub(crate) const SECRET: &str = "not/a+real=secret";
pub(crate) const BUCKET: &str = "snapshots";
pub(crate) const REGION: &str = "eu-test-1";

/// Objects of one page of a list.
const PAGE: usize = 2;

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// So many requests are answered by 503 from now on.
    unavailable: u32,
    /// Answers stop after the first half of their content.
    stops_halfway: bool,
    requests: Vec<String>,
}

/// A running server; it ends when dropped.
pub(crate) struct S3 {
    state: Arc<Mutex<State>>,
    endpoint: String,
    task: JoinHandle<()>,
}

impl S3 {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// With TLS, for `localhost`.
    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::<Mutex<State>>::default();
        let served = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(state, stream).await,
                        Some(tls) => {
                            // A client that does not trust us hangs up.
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(state, stream).await;
                            }
                        }
                    }
                });
            }
        });
        S3 { state, endpoint: format!("{scheme}://localhost:{port}"), task }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn put(&self, key: &str, content: &'static [u8]) {
        self.state.lock().unwrap().objects.insert(key.into(), Bytes::from_static(content));
    }

    pub(crate) fn object(&self, key: &str) -> Option<Bytes> {
        self.state.lock().unwrap().objects.get(key).cloned()
    }

    pub(crate) fn unavailable(&self, requests: u32) {
        self.state.lock().unwrap().unavailable = requests;
    }

    /// From now on every answer stops after the first half of its content.
    pub(crate) fn stops_halfway(&self) {
        self.state.lock().unwrap().stops_halfway = true;
    }

    /// Requests since the last call, as `METHOD path?query`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    pub(crate) fn unfinished_uploads(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    state: Arc<Mutex<State>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { answer(state.clone(), request).await.map(|answer| sent(&state, answer)) }
    });
    // A client that goes away ends its connection.
    let _ended =
        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// An answer as it goes over the network.
fn sent(
    state: &Mutex<State>,
    answer: Answer,
) -> Response<UnsyncBoxBody<Bytes, std::convert::Infallible>> {
    if !state.lock().unwrap().stops_halfway {
        return answer.map(BodyExt::boxed_unsync);
    }
    answer.map(|whole| {
        let content = whole.into_inner().unwrap_or_default();
        let half = Frame::data(content.slice(..content.len() / 2));
        let rest = stream::iter([Ok(half)]).chain(stream::pending());
        StreamBody::new(rest).boxed_unsync()
    })
}

type Answer = Response<Full<Bytes>>;

fn reply(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

fn error(status: StatusCode, code: &str) -> Answer {
    reply(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let path = head.uri.path().to_owned();
    let mut state = state.lock().unwrap();
    state.requests.push(format!("{} {path}?{query}", head.method));
    if state.unavailable > 0 {
        state.unavailable -= 1;
        return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
    }
    let signed =
        Signed { method: &head.method, path: &path, query: &query, headers: &head.headers };
    let now = jiff::Timestamp::now();
    if let Err(code) = signed.check(SECRET, &body, now) {
        return Ok(error(StatusCode::FORBIDDEN, code));
    }
    let pairs = pairs(&query);
    let path = decode(&path);
    let Some(key) = path.strip_prefix(&format!("/{BUCKET}")) else {
        return Ok(error(StatusCode::NOT_FOUND, "NoSuchBucket"));
    };
    let key = key.trim_start_matches('/').to_owned();
    Ok(state.serve(&head.method, &key, &pairs, &head.headers, body))
}

impl State {
    fn serve(
        &mut self,
        method: &Method,
        key: &str,
        query: &BTreeMap<String, String>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Answer {
        let upload = query.get("uploadId").cloned();
        match (method.as_str(), upload) {
            ("GET", None) if key.is_empty() => self.list(query),
            ("POST", None) if query.contains_key("uploads") => {
                let id = format!("upload-{}", self.uploads.len() + 1);
                self.uploads.insert(id.clone(), BTreeMap::new());
                let head = format!("<Bucket>{BUCKET}</Bucket><Key>{key}</Key>");
                reply(
                    StatusCode::OK,
                    format!(
                        "<InitiateMultipartUploadResult>{head}<UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            ("PUT", Some(id)) => {
                let number = query.get("partNumber").and_then(|number| number.parse().ok());
                let Some((parts, number)) = self.uploads.get_mut(&id).zip(number) else {
                    return error(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                parts.insert(number, body.clone());
                tagged(StatusCode::OK, &body, Bytes::new())
            }
            ("POST", Some(id)) => {
                let Some(parts) = self.uploads.remove(&id) else {
                    return error(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                let last = parts.keys().copied().max().unwrap_or_default();
                if parts.iter().any(|(number, part)| *number < last && part.len() < 5 << 20) {
                    return error(StatusCode::BAD_REQUEST, "EntityTooSmall");
                }
                let whole = Bytes::from(parts.into_values().collect::<Vec<_>>().concat());
                let tag = etag(&whole);
                self.objects.insert(key.into(), whole);
                reply(
                    StatusCode::OK,
                    format!(
                        "<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
                    ),
                )
            }
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                reply(StatusCode::NO_CONTENT, Bytes::new())
            }
            ("PUT", None) => {
                let once = headers.get("if-none-match").is_some_and(|value| value == "*");
                if once && self.objects.contains_key(key) {
                    return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
                }
                self.objects.insert(key.into(), body.clone());
                tagged(StatusCode::OK, &body, Bytes::new())
            }
            ("GET" | "HEAD", None) => match self.objects.get(key) {
                Some(object) => {
                    let content = if method == Method::GET { object.clone() } else { Bytes::new() };
                    let mut answer = tagged(StatusCode::OK, object, content);
                    let length = object.len().to_string().parse().unwrap();
                    answer.headers_mut().insert("content-length", length);
                    let modified = "Sun, 22 Nov 2026 00:00:00 GMT".parse().unwrap();
                    answer.headers_mut().insert("last-modified", modified);
                    answer
                }
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            ("DELETE", None) => {
                self.objects.remove(key);
                reply(StatusCode::NO_CONTENT, Bytes::new())
            }
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        if query.get("list-type").map(String::as_str) != Some("2") {
            return error(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
        }
        let prefix = query.get("prefix").cloned().unwrap_or_default();
        let after = query.get("continuation-token").cloned().unwrap_or_default();
        let found: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
            .collect();
        let mut text = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
        for (key, object) in found.iter().take(PAGE) {
            text += &format!(
                "<Contents><Key>{key}</Key><LastModified>2026-11-22T00:00:00.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                etag(object),
                object.len()
            );
        }
        let more = found.len() > PAGE;
        text += &format!("<IsTruncated>{more}</IsTruncated>");
        if more {
            text +=
                &format!("<NextContinuationToken>{}</NextContinuationToken>", found[PAGE - 1].0);
        }
        reply(StatusCode::OK, text + "</ListBucketResult>")
    }
}

fn etag(content: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, content).as_ref())[..32].to_owned()
}

fn tagged(status: StatusCode, content: &[u8], body: Bytes) -> Answer {
    let mut answer = reply(status, body);
    answer.headers_mut().insert("etag", format!("\"{}\"", etag(content)).parse().unwrap());
    answer
}

/// A query, whose spaces may have been written as `+` (a form's way; a path's `+` is one).
fn pairs(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(&key.replace('+', " ")), decode(&value.replace('+', " "))))
        .collect()
}

/// As signatures want it: all but letters, digits and `-._~` by their bytes.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            let pair = std::str::from_utf8(&pair).unwrap_or("00").to_owned();
            bytes.push(u8::from_str_radix(&pair, 16).unwrap_or_default());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a signature is over (Amazon S3 API reference, "Authenticating Requests: Using the
/// Authorization Header"). Path and query are as they were sent.
struct Signed<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    headers: &'a HeaderMap,
}

impl Signed<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn check(&self, secret: &str, body: &[u8], now: jiff::Timestamp) -> Result<(), &'static str> {
        let given = self.header("authorization").ok_or("AccessDenied")?;
        let part = |name: &str| {
            let rest = given.split_once(name)?.1;
            Some(rest.split(',').next().unwrap_or(rest).trim())
        };
        let (Some(credential), Some(names), Some(signature)) =
            (part("Credential="), part("SignedHeaders="), part("Signature="))
        else {
            return Err("AuthorizationHeaderMalformed");
        };
        let Some((id, scope)) = credential.split_once('/') else {
            return Err("AuthorizationHeaderMalformed");
        };
        if id != KEY_ID && id != "AKIAIOSFODNN7EXAMPLE" {
            return Err("InvalidAccessKeyId");
        }
        let at = self.header("x-amz-date").ok_or("AccessDenied")?;
        let sent = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", at)
            .and_then(|time| time.to_datetime())
            .and_then(|time| time.in_tz("UTC"))
            .map_err(|_| "AccessDenied")?;
        if now.duration_since(sent.timestamp()).abs() > jiff::SignedDuration::from_mins(15) {
            return Err("RequestTimeTooSkewed");
        }
        let promised = self.header("x-amz-content-sha256").ok_or("AccessDenied")?;
        if promised != hex(digest::digest(&digest::SHA256, body).as_ref()) {
            return Err("XAmzContentSHA256Mismatch");
        }
        for must in ["host", "x-amz-content-sha256", "x-amz-date"] {
            if !names.split(';').any(|name| name == must) {
                return Err("AccessDenied");
            }
        }
        match self.signature(secret, scope, names, at, promised)? == signature {
            true => Ok(()),
            false => Err("SignatureDoesNotMatch"),
        }
    }

    fn signature(
        &self,
        secret: &str,
        scope: &str,
        names: &str,
        at: &str,
        promised: &str,
    ) -> Result<String, &'static str> {
        let mut pairs: Vec<String> = pairs(self.query)
            .iter()
            .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
            .collect();
        pairs.sort();
        let mut lines = vec![self.method.to_string(), self.path.to_owned(), pairs.join("&")];
        for name in names.split(';') {
            let value = self.header(name).ok_or("AccessDenied")?;
            lines.push(format!("{name}:{}", value.trim()));
        }
        lines.extend([String::new(), names.to_owned(), promised.to_owned()]);
        let canonical = digest::digest(&digest::SHA256, lines.join("\n").as_bytes());
        let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(canonical.as_ref()));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in scope.split('/') {
            let signer = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&signer, part.as_bytes()).as_ref().to_vec();
        }
        let signer = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(hex(hmac::sign(&signer, text.as_bytes()).as_ref()))
    }
}

struct Example {
    method: &'static str,
    path: &'static str,
    query: &'static str,
    body: &'static [u8],
    headers: &'static [(&'static str, &'static str)],
    signed: &'static str,
    signature: &'static str,
}

/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The examples of the API reference: "Example: GET Object", "Example: PUT Object", "Example: Get
/// Bucket (List Objects)".
const EXAMPLES: [Example; 3] = [
    Example {
        method: "GET",
        path: "/test.txt",
        query: "",
        body: b"",
        headers: &[("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY)],
        signed: "host;range;x-amz-content-sha256;x-amz-date",
        signature: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    },
    Example {
        method: "PUT",
        path: "/test%24file.text",
        query: "",
        body: b"Welcome to Amazon S3.",
        headers: &[
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            (
                "x-amz-content-sha256",
                "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            ),
        ],
        signed: "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        signature: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    },
    Example {
        method: "GET",
        path: "/",
        query: "max-keys=2&prefix=J",
        body: b"",
        headers: &[("x-amz-content-sha256", EMPTY)],
        signed: "host;x-amz-content-sha256;x-amz-date",
        signature: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    },
];

#[test]
fn signatures_are_those_of_the_api_reference() {
    let now = "2013-05-24T00:00:00Z".parse().unwrap();
    for Example { method, path, query, body, headers: given, signed, signature } in EXAMPLES {
        let mut headers = HeaderMap::new();
        headers.insert("host", "examplebucket.s3.amazonaws.com".parse().unwrap());
        headers.insert("x-amz-date", "20130524T000000Z".parse().unwrap());
        for (name, value) in given {
            headers.insert(*name, value.parse().unwrap());
        }
        let scope = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        let text = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={scope},SignedHeaders={signed},Signature={signature}"
            )
            .parse()
            .unwrap()
        };
        let method = method.parse().unwrap();
        let check = |headers: &HeaderMap, body: &[u8]| {
            Signed { method: &method, path, query, headers }.check(
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                body,
                now,
            )
        };
        headers.insert("authorization", text(signature));
        assert_eq!(check(&headers, body), Ok(()), "{method} {path}");
        assert_eq!(check(&headers, b"other"), Err("XAmzContentSHA256Mismatch"));
        headers.insert("authorization", text(&signature.replace('0', "1")));
        assert_eq!(check(&headers, body), Err("SignatureDoesNotMatch"));
    }
}
