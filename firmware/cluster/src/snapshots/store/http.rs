//! HTTP for the object store, over our own connections ([`crate::https`]).
//!
//! Plain HTTP is for storage inside the site. Requests are signed over their content, so even
//! there nobody can store something else. An answer that stands still is broken off: whoever waits
//! for a snapshot must not wait for a storage that went away in the middle of a word.

use crate::https::{self, Dial, TlsConfig};
use ::http::Response;
use futures_util::TryStreamExt;
use http_body_util::{BodyStream, StreamBody};
use hyper_util::client::legacy::Client;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// As [`super::REQUEST`]: a request until the head of its answer is there.
const PATIENCE: Duration = super::REQUEST;

/// Makes clients for one storage.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls: Option<TlsConfig>,
    stands_still: Duration,
}

impl Connector {
    /// For this address; the authorities are read when it is `https`. Answers that stand still for
    /// so long are broken off.
    pub(super) fn new(
        endpoint: &str,
        authorities: &Path,
        stands_still: Duration,
    ) -> Result<Self, String> {
        https::tls_of(endpoint, authorities).map(|tls| Connector { tls, stands_still })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = https::client(self.tls.clone());
        Ok(HttpClient::new(Requests { client, stands_still: self.stands_still }))
    }
}

/// One client.
#[derive(Debug)]
struct Requests {
    client: Client<Dial, HttpRequestBody>,
    stands_still: Duration,
}

impl HttpService for Requests {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(PATIENCE, self.client.request(request))
                .await
                .map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
            let (parts, body) =
                answer.map_err(|error| HttpError::new(kind(&error), error))?.into_parts();
            let content = https::paced(BodyStream::new(body), self.stands_still)
                .map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            let body = HttpResponseBody::new(StreamBody::new(content));
            Ok(Response::from_parts(parts, body))
        })
    }
}

/// What the object store's retries go by.
fn kind(error: &hyper_util::client::legacy::Error) -> HttpErrorKind {
    if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request }
}
