//! A client as simple as can be: it hides nothing of what the server says.

use super::world::{PATIENCE, of};
use bytes::{Bytes, BytesMut};
use holdfast_api::meta::Status;
use holdfast_api::token::Envelope;
use holdfast_poll::until_async;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A connection to the server.
pub(crate) struct Http {
    sender: Mutex<Sender>,
    bearer: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn status(&self) -> Status {
        serde_json::from_value(self.body.clone()).unwrap()
    }

    /// Our reason code.
    pub(crate) fn reason(&self) -> &'static str {
        self.status().holdfast_reason().map_or("none", |reason| reason.code())
    }

    /// Fields that are wrong.
    pub(crate) fn fields(&self) -> Vec<String> {
        self.status().details.unwrap_or_default().causes.into_iter().map(|c| c.field).collect()
    }
}

/// A TLS connection on which nothing has been said.
pub(crate) async fn tls(
    address: SocketAddr,
    ca: &str,
    certificate: Option<(&str, &str)>,
    alpn: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
}

impl Http {
    pub(crate) async fn connect(
        address: SocketAddr,
        ca: &str,
        bearer: Option<&str>,
        certificate: Option<(&str, &str)>,
    ) -> Http {
        Self::try_connect(address, ca, bearer, certificate, b"h2").await.unwrap()
    }

    pub(crate) async fn try_connect(
        address: SocketAddr,
        ca: &str,
        bearer: Option<&str>,
        certificate: Option<(&str, &str)>,
        alpn: &[u8],
    ) -> anyhow::Result<Http> {
        let io = TokioIo::new(tls(address, ca, certificate, alpn).await?);
        let sender = if alpn == b"h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::One(sender)
        };
        Ok(Http { sender: Mutex::new(sender), bearer: bearer.map(Into::into) })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<hyper::Response<Incoming>> {
        let mut request = Request::builder().method(method);
        if let Some(bearer) = &self.bearer
            && !headers.iter().any(|(name, _)| *name == "authorization")
        {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(body.into());
        let mut sender = self.sender.lock().await;
        let answer = match &mut *sender {
            Sender::One(sender) => {
                sender.ready().await?;
                let request = request.uri(path).header("host", "controller").body(body)?;
                sender.send_request(request).await?
            }
            Sender::Two(two) => {
                let mut two = two.clone();
                drop(sender);
                let request = request.uri(format!("https://controller{path}")).body(body)?;
                two.send_request(request).await?
            }
        };
        Ok(answer)
    }

    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let response = self.send(method, path, headers, body).await?;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { code: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call(method, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        let media = [("content-type", "application/merge-patch+json")];
        self.call("PATCH", path, &media, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &[], "").await
    }

    /// Creates, which must succeed.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    /// The object, which must be there.
    pub(crate) async fn must(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// Presents a token.
    pub(crate) async fn present(&self, token: &Envelope, registration: &Value) -> Answer {
        let authorization = format!("Bearer {}", *token.credential());
        let headers =
            [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let path = of(&token.tenant, "registrations");
        self.call("POST", &path, &headers, registration.to_string()).await
    }

    /// Looks at an object until it is as it should be.
    pub(crate) async fn until(&self, path: &str, good: impl Fn(&Value) -> bool) -> Value {
        until_async(path, PATIENCE, async || {
            let Answer { body, .. } = self.get(path).await;
            if good(&body) { Ok(body) } else { Err(body) }
        })
        .await
    }

    pub(crate) async fn watch(&self, path: &str) -> Lines {
        let response = self.send("GET", path, &[], "").await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Lines { body: response.into_body(), buffer: BytesMut::new() }
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next event; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let next = async {
            loop {
                if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                    return Some(serde_json::from_slice(&self.buffer.split_to(end + 1)).unwrap());
                }
                let frame = self.body.frame().await?.ok()?;
                self.buffer.extend_from_slice(&frame.into_data().ok()?);
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event in time")
    }

    /// Type and name of the next event.
    pub(crate) async fn short(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}
