//! The controller's API as calls: get, list, create, update, patch, delete, watch.
//!
//! The kind follows from the type asked for. A [`Client`] is a handle: cloning it shares the
//! connection. Nothing is sent by making one.

use crate::call::{Answer, Call, number};
use crate::connect::Connection;
use crate::trust::tls_config;
use crate::watch::Watch;
use crate::{ClientError, Endpoint, Identity, SystemClock, TimeSource, Trust};
use holdfast_api::meta::List;
use holdfast_api::resources::{Object, Resource};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

/// Objects asked for at once by [`Client::list`].
const PAGE: u32 = 500;

/// Waiting times and bounds; the default fits a node on a slow line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name lookup, TCP, TLS and HTTP/2 handshake together.
    pub connect_timeout: Duration,
    /// From the request to the last byte of the answer, without connecting.
    pub request_timeout: Duration,
    /// How long a watch may be without a whole line before it counts as ended.
    pub watch_idle: Duration,
    /// How long the server is asked to keep a watch open; less than `watch_idle`.
    pub watch_for: Duration,
    /// While something is under way: how often the server is asked for a sign of life.
    pub ping_every: Duration,
    /// How long such a sign may take.
    pub ping_timeout: Duration,
    /// Bytes of one answer.
    pub max_answer: usize,
    /// Bytes of one line of a watch.
    pub max_line: usize,
    /// The time by which certificates are checked.
    pub time: Arc<dyn TimeSource>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            watch_idle: Duration::from_secs(330),
            watch_for: Duration::from_secs(300),
            ping_every: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            max_answer: 16 << 20,
            max_line: 1 << 20,
            time: Arc::new(SystemClock),
        }
    }
}

/// Which objects of a collection; all when nothing is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// The one object of this name.
    pub name: Option<String>,
    /// A label selector, such as `region=us-west`.
    pub label: Option<String>,
    /// A field selector, such as `spec.node=ce01-1`; not together with `name`.
    pub field: Option<String>,
}

impl Selector {
    /// Everything.
    pub fn all() -> Self {
        Selector::default()
    }

    /// The one object of this name.
    pub fn name(name: impl Into<String>) -> Self {
        Selector { name: Some(name.into()), ..Selector::default() }
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let field = self.name.as_ref().map(|name| format!("metadata.name={name}"));
        let mut query = Vec::new();
        query.extend(field.or_else(|| self.field.clone()).map(|f| ("fieldSelector", f)));
        query.extend(self.label.clone().map(|l| ("labelSelector", l)));
        query
    }
}

/// Part of an object that is written by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `status`.
    Status,
}

/// Answer to a conditional GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conditional<T> {
    /// It still is what the ETag names.
    Unchanged {
        /// When the controller wants to be asked again.
        come_back: Option<Duration>,
    },
    /// It is something else now.
    Changed {
        /// What it is.
        value: T,
        /// Names this content; for the next request.
        etag: Option<String>,
        /// When the controller wants to be asked again.
        come_back: Option<Duration>,
    },
}

/// A handle to one controller, as one identity.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    connection: Connection,
    options: Options,
    bearer: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.connection.endpoint)
    }
}

impl Client {
    /// A client with the default [`Options`]. Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Identity`] when the key, certificate or CA cannot be used.
    pub fn new(endpoint: Endpoint, trust: Trust, identity: Identity) -> Result<Self, ClientError> {
        Client::with_options(endpoint, trust, identity, Options::default())
    }

    /// A client with these options.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_options(
        endpoint: Endpoint,
        trust: Trust,
        identity: Identity,
        options: Options,
    ) -> Result<Self, ClientError> {
        let config = tls_config(&trust, &identity, options.time.clone())?;
        let bearer = match identity {
            Identity::Bearer(token) => Some(token),
            Identity::None | Identity::Certificate { .. } => None,
        };
        let connection = Connection::new(endpoint, Arc::new(config));
        Ok(Client(Arc::new(Inner { connection, options, bearer })))
    }

    /// The controller's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.connection.endpoint
    }

    /// One object.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::is_not_found`] when there is none of this name.
    pub async fn get<T>(&self, namespace: Option<&str>, name: &str) -> Result<T, ClientError>
    where
        T: Resource + DeserializeOwned,
    {
        let call = Call::new(Method::GET, T::KIND, namespace, Some(name));
        self.exchange(&call).await?.parse(self.endpoint(), &call)
    }

    /// One object, unless it still is what `etag` names (RFC 9110 §13.1.2).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_if_changed<T>(
        &self,
        namespace: Option<&str>,
        name: &str,
        etag: Option<&str>,
    ) -> Result<Conditional<T>, ClientError>
    where
        T: Resource + DeserializeOwned,
    {
        let mut call = Call::new(Method::GET, T::KIND, namespace, Some(name));
        call.if_none_match = etag.map(Into::into);
        let answer = self.exchange(&call).await?;
        let come_back = number(&answer.headers, header::RETRY_AFTER).map(Duration::from_secs);
        if answer.code == StatusCode::NOT_MODIFIED {
            return Ok(Conditional::Unchanged { come_back });
        }
        let etag = answer.headers.get(header::ETAG).and_then(|v| v.to_str().ok()).map(Into::into);
        Ok(Conditional::Changed { value: answer.parse(self.endpoint(), &call)?, etag, come_back })
    }

    /// All objects that `selector` selects; across namespaces when `namespace` is none. Long
    /// collections are fetched in pages.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list<T>(
        &self,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Result<List<T>, ClientError>
    where
        T: Resource + DeserializeOwned,
    {
        let mut call = Call::new(Method::GET, T::KIND, namespace, None);
        call.query = selector.query();
        call.query.push(("limit", PAGE.to_string()));
        let mut whole: List<T> = self.exchange(&call).await?.parse(self.endpoint(), &call)?;
        while !whole.metadata.continue_token.is_empty() {
            call.query.retain(|(key, _)| *key != "continue");
            call.query.push(("continue", std::mem::take(&mut whole.metadata.continue_token)));
            let page: List<T> = self.exchange(&call).await?.parse(self.endpoint(), &call)?;
            whole.items.extend(page.items);
            whole.metadata = page.metadata;
        }
        Ok(whole)
    }

    /// Creates an object. `credential` goes into the `Authorization: Bearer` header of this one
    /// request: a device presents its token so.
    ///
    /// # Errors
    /// As [`Client::get`]; [`ClientError::is_conflict`] when the name is taken.
    pub async fn create<S, U>(
        &self,
        object: &Object<S, U>,
        credential: Option<&str>,
    ) -> Result<Object<S, U>, ClientError>
    where
        Object<S, U>: Resource + Serialize + DeserializeOwned,
    {
        let namespace = object.metadata.namespace.as_deref();
        let mut call = Call::new(Method::POST, <Object<S, U>>::KIND, namespace, None);
        call.json(self.endpoint(), object, "application/json")?;
        call.credential = credential.map(|text| Zeroizing::new(text.to_string()));
        self.exchange(&call).await?.parse(self.endpoint(), &call)
    }

    /// Replaces an object's metadata and spec.
    ///
    /// # Errors
    /// As [`Client::get`]; [`ClientError::is_conflict`] when it changed since it was read.
    pub async fn update<S, U>(&self, object: &Object<S, U>) -> Result<Object<S, U>, ClientError>
    where
        Object<S, U>: Resource + Serialize + DeserializeOwned,
    {
        self.put(object, None).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn update_status<S, U>(
        &self,
        object: &Object<S, U>,
    ) -> Result<Object<S, U>, ClientError>
    where
        Object<S, U>: Resource + Serialize + DeserializeOwned,
    {
        self.put(object, Some(Subresource::Status)).await
    }

    /// Merges `patch` into an object or its status (RFC 7396).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn merge_patch<T>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &serde_json::Value,
        subresource: Option<Subresource>,
    ) -> Result<T, ClientError>
    where
        T: Resource + DeserializeOwned,
    {
        let mut call = Call::new(Method::PATCH, T::KIND, namespace, Some(name));
        call.subresource(subresource);
        call.json(self.endpoint(), patch, "application/merge-patch+json")?;
        self.exchange(&call).await?.parse(self.endpoint(), &call)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<T: Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, T::KIND, namespace, Some(name));
        self.exchange(&call).await.map(drop)
    }

    /// Changes of a collection since `resource_version` (from [`Client::list`]); from now on,
    /// beginning with what is there, when none.
    ///
    /// # Errors
    /// As [`Client::get`]; [`ClientError::is_gone`] when the version is too old: list again.
    pub async fn watch<T>(
        &self,
        namespace: Option<&str>,
        selector: &Selector,
        resource_version: Option<&str>,
    ) -> Result<Watch<T>, ClientError>
    where
        T: Resource + DeserializeOwned,
    {
        let mut call = Call::new(Method::GET, T::KIND, namespace, None);
        call.query = selector.query();
        call.query.push(("watch", "true".into()));
        call.query.push(("allowWatchBookmarks", "true".into()));
        call.query.push(("timeoutSeconds", self.0.options.watch_for.as_secs().to_string()));
        call.query.extend(resource_version.map(|v| ("resourceVersion", v.to_string())));
        let (response, deadline) = self.send(&call).await?;
        if response.status() != StatusCode::OK {
            let answer = self.collect(&call, response, deadline).await?;
            return Err(answer.refusal(self.endpoint(), &call));
        }
        let endpoint = self.endpoint().to_string();
        Ok(Watch::new(response.into_body(), endpoint, call.attempt(), &self.0.options))
    }

    async fn put<S, U>(
        &self,
        object: &Object<S, U>,
        subresource: Option<Subresource>,
    ) -> Result<Object<S, U>, ClientError>
    where
        Object<S, U>: Resource + Serialize + DeserializeOwned,
    {
        let meta = &object.metadata;
        let kind = <Object<S, U>>::KIND;
        let mut call = Call::new(Method::PUT, kind, meta.namespace.as_deref(), Some(&meta.name));
        call.subresource(subresource);
        call.json(self.endpoint(), object, "application/json")?;
        self.exchange(&call).await?.parse(self.endpoint(), &call)
    }

    /// A whole exchange. 2xx and 304 are answers, all else is an error.
    async fn exchange(&self, call: &Call) -> Result<Answer, ClientError> {
        let (response, deadline) = self.send(call).await?;
        let answer = self.collect(call, response, deadline).await?;
        let unchanged = answer.code == StatusCode::NOT_MODIFIED && call.if_none_match.is_some();
        if answer.code.is_success() || unchanged {
            Ok(answer)
        } else {
            Err(answer.refusal(self.endpoint(), call))
        }
    }

    /// The head of the answer, and until when the rest of it may take.
    async fn send(&self, call: &Call) -> Result<(Response<Incoming>, Instant), ClientError> {
        let request = call.request(self.endpoint(), self.0.bearer.as_ref()).map_err(|error| {
            call.protocol(self.endpoint(), format!("it cannot be asked for: {error}"))
        })?;
        self.0.connection.send(request, &self.0.options).await
    }

    async fn collect(
        &self,
        call: &Call,
        response: Response<Incoming>,
        deadline: Instant,
    ) -> Result<Answer, ClientError> {
        let (head, body) = response.into_parts();
        let limit = self.0.options.max_answer;
        let body = match timeout_at(deadline, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(
                    call.protocol(self.endpoint(), format!("it is longer than {limit} bytes"))
                );
            }
            Ok(Err(error)) => return Err(self.0.connection.unreachable("read the answer", error)),
            Err(_) => {
                return Err(ClientError::TimedOut {
                    endpoint: self.endpoint().to_string(),
                    attempt: "read the answer",
                    after: self.0.options.request_timeout,
                });
            }
        };
        Ok(Answer { code: head.status, headers: head.headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_by_field() {
        assert_eq!(
            Selector::name("ce01").query(),
            [("fieldSelector", "metadata.name=ce01".to_string())]
        );
        assert!(Selector::all().query().is_empty());
    }
}
