//! One request and its answer, as values: what goes into the URL and the headers, and what an
//! answer means.

use crate::client::Subresource;
use crate::{ClientError, Endpoint};
use bytes::Bytes;
use holdfast_api::meta;
use holdfast_api::resources::{self, Kind};
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// A request before it has headers: what it takes to make it once more.
pub(crate) struct Call {
    pub(crate) method: Method,
    path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) if_none_match: Option<String>,
    content_type: &'static str,
    pub(crate) credential: Option<Zeroizing<String>>,
    body: Bytes,
}

impl Call {
    pub(crate) fn new(
        method: Method,
        kind: Kind,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Self {
        let (namespace, name) = (namespace.map(encoded), name.map(encoded));
        Call {
            method,
            path: resources::path(kind, namespace.as_deref(), name.as_deref()),
            query: Vec::new(),
            if_none_match: None,
            content_type: "application/json",
            credential: None,
            body: Bytes::new(),
        }
    }

    pub(crate) fn subresource(&mut self, subresource: Option<Subresource>) {
        match subresource {
            Some(Subresource::Status) => self.path += "/status",
            None => {}
        }
    }

    pub(crate) fn json<B: Serialize + ?Sized>(
        &mut self,
        endpoint: &Endpoint,
        body: &B,
        content_type: &'static str,
    ) -> Result<(), ClientError> {
        self.content_type = content_type;
        self.body = serde_json::to_vec(body)
            .map_err(|error| self.protocol(endpoint, format!("it has no JSON form: {error}")))?
            .into();
        Ok(())
    }

    /// What an error says was tried.
    pub(crate) fn attempt(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn protocol(&self, endpoint: &Endpoint, why: String) -> ClientError {
        ClientError::Protocol { endpoint: endpoint.to_string(), attempt: self.attempt(), why }
    }

    pub(crate) fn request(
        &self,
        endpoint: &Endpoint,
        bearer: Option<&Zeroizing<String>>,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut uri = format!("{endpoint}{}", self.path);
        for (index, (key, value)) in self.query.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri += &format!("{key}={}", encoded(value));
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")));
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        if let Some(etag) = &self.if_none_match {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(secret) = self.credential.as_ref().or(bearer) {
            let text = Zeroizing::new(format!("Bearer {}", secret.as_str()));
            let mut value = HeaderValue::from_str(&text)?;
            // Keeps it out of HPACK's table and of debug output.
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Full::new(self.body.clone()))
    }
}

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn parse<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| call.protocol(endpoint, error.to_string()))
    }

    pub(crate) fn refusal(&self, endpoint: &Endpoint, call: &Call) -> ClientError {
        let Ok(mut status) = serde_json::from_slice::<meta::Status>(&self.body) else {
            let why = format!("HTTP status {} without a Status object", self.code);
            return call.protocol(endpoint, why);
        };
        // The code on the wire is the one that proxies and we agree on.
        status.code = self.code.as_u16();
        if let Some(secs) = number(&self.headers, header::RETRY_AFTER) {
            let details = status.details.get_or_insert_default();
            details.retry_after_seconds = details.retry_after_seconds.or(u32::try_from(secs).ok());
        }
        ClientError::Refused {
            endpoint: endpoint.to_string(),
            attempt: call.attempt(),
            status: Box::new(status),
        }
    }
}

pub(crate) fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Percent-encodes all but the unreserved characters of RFC 3986 §2.3.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into());
            }
            _ => out += &format!("%{byte:02X}"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_url_is_encoded() {
        assert_eq!(encoded("metadata.name=a b/ü"), "metadata.name%3Da%20b%2F%C3%BC");
    }
}
