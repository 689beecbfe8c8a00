//! HTTP for the object store, over what is in the tree: hyper and rustls, no second stack.
//!
//! Certificates are checked against the authorities of the machine (where Debian's package
//! `ca-certificates` keeps them); plain HTTP is for storage inside the site. Requests are signed
//! over their content, so even there nobody can store something else.

use ::http::{Response, Uri};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector as Tcp};
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// As [`super::REQUEST`]: the whole of a request.
const PATIENCE: Duration = super::REQUEST;

/// Makes clients for one storage.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls: Option<TlsConfig>,
}

#[derive(Clone)]
struct TlsConfig(Arc<ClientConfig>);

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig")
    }
}

impl Connector {
    /// For this address; the authorities are read when it is `https`.
    pub(super) fn new(endpoint: &str, authorities: &Path) -> Result<Self, String> {
        let uri: Uri = endpoint.parse().map_err(|_| format!("{endpoint:?} is no address"))?;
        match uri.scheme_str() {
            Some("http") => Ok(Connector { tls: None }),
            Some("https") => Ok(Connector { tls: Some(tls(authorities)?) }),
            _ => Err(format!("{endpoint:?} begins neither with https:// nor with http://")),
        }
    }
}

fn tls(authorities: &Path) -> Result<TlsConfig, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("{} cannot be read ({error}); install ca-certificates", authorities.display())
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(authorities)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(&error))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(unreadable(&"no authority is in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConfig(Arc::new(config)))
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(super::CONNECT));
        let dial = Dial { tcp, tls: self.tls.clone() };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(dial);
        Ok(HttpClient::new(Requests { client }))
    }
}

/// One client.
#[derive(Debug)]
struct Requests {
    client: Client<Dial, HttpRequestBody>,
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
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            Ok(Response::from_parts(parts, HttpResponseBody::new(body)))
        })
    }
}

/// What the object store's retries go by.
fn kind(error: &hyper_util::client::legacy::Error) -> HttpErrorKind {
    if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request }
}

/// Opens connections, plain or with TLS as the address says.
#[derive(Debug, Clone)]
struct Dial {
    tcp: Tcp,
    tls: Option<TlsConfig>,
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Stream, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.tcp.call(uri.clone());
        let tls = self.tls.clone();
        Box::pin(async move {
            let tcp: TokioIo<TcpStream> = connecting.await?;
            match tls {
                None => Ok(Stream::Plain(tcp)),
                Some(TlsConfig(config)) => {
                    let host = uri.host().unwrap_or_default();
                    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    let name = ServerName::try_from(host)?;
                    let handshake = TlsConnector::from(config).connect(name, tcp.into_inner());
                    let stream = tokio::time::timeout(super::CONNECT, handshake).await??;
                    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
                }
            }
        })
    }
}

/// A connection of either kind.
#[derive(Debug)]
enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_there_is_tls() {
        assert!(
            Connector::new("http://10.0.0.1:9000", Path::new("/nowhere")).unwrap().tls.is_none()
        );
        for wrong in ["", "s3.example", "ftp://s3.example", "not an address"] {
            assert!(Connector::new(wrong, Path::new("/nowhere")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_without_authorities_is_told_what_to_install() {
        let error = tls(Path::new("/nowhere")).err().unwrap();
        assert!(error.contains("ca-certificates"), "{error}");
    }
}
