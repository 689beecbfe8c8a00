//! Connections to servers of the outside, plain or with TLS, over what is in the tree: hyper and
//! rustls, no second stack.
//!
//! Certificates are checked against the authorities of the machine (`/etc/ssl/certs`, where Debian's
//! `ca-certificates` keeps them).

use ::http::Uri;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector as Tcp};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
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

/// Where Debian keeps the authorities that a machine trusts.
pub(crate) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// TCP, and then TLS, each.
const CONNECT: Duration = Duration::from_secs(10);
/// Content that stands still for so long is broken off.
pub(crate) const STANDS_STILL: Duration = Duration::from_secs(60);
/// A server that went without a word is noticed after the first and three of the second (tcp(7)).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How servers are checked.
#[derive(Clone)]
pub(crate) struct TlsConfig(Arc<ClientConfig>);

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig")
    }
}

/// How the servers behind this address are checked; none when it is plain `http`.
///
/// # Errors
/// It is no address of either kind, or the machine has no authorities.
pub(crate) fn tls_of(endpoint: &str, authorities: &Path) -> Result<Option<TlsConfig>, String> {
    let uri: Uri = endpoint.parse().map_err(|_| format!("{endpoint:?} is no address"))?;
    match uri.scheme_str() {
        Some("http") => Ok(None),
        Some("https") => tls(authorities).map(Some),
        _ => Err(format!("{endpoint:?} begins neither with https:// nor with http://")),
    }
}

/// A client that keeps a few connections for a while.
pub(crate) fn client<B>(tls: Option<TlsConfig>) -> Client<Dial, B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut tcp = Tcp::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEP_ALIVE.0));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE.1));
    tcp.set_keepalive_retries(Some(3));
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(2)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_timer(TokioTimer::new())
        .build(Dial { tcp, tls })
}

/// Content that ends with an error when it stands still for longer than `patience`.
pub(crate) fn paced<T, E>(
    content: impl futures_util::Stream<Item = Result<T, E>> + Send,
    patience: Duration,
) -> impl futures_util::Stream<Item = io::Result<T>> + Send
where
    T: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let paced = futures_util::stream::unfold(Some(Box::pin(content)), move |content| async move {
        let mut content = content?;
        match tokio::time::timeout(patience, content.next()).await {
            Ok(next) => Some((next?.map_err(io::Error::other), Some(content))),
            Err(_) => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "nothing arrives any more");
                Some((Err(late), None))
            }
        }
    });
    // hyper's users may ask once more after the end.
    paced.fuse()
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

/// Opens connections, plain or with TLS as the address says.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
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
                    let stream = tokio::time::timeout(CONNECT, handshake).await??;
                    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
                }
            }
        })
    }
}

/// A connection of either kind, which tells hyper which HTTP was agreed on.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Stream::Plain(_) | Stream::Tls(_) => Connected::new(),
        }
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
        assert!(tls_of("http://10.0.0.1:9000", Path::new("/nowhere")).unwrap().is_none());
        for wrong in ["", "s3.example", "ftp://s3.example", "not an address"] {
            assert!(tls_of(wrong, Path::new("/nowhere")).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn content_that_stands_still_is_broken_off() {
        use futures_util::stream::{iter, pending};
        let content = iter([Ok(1), Ok(2)]).chain(pending::<io::Result<u8>>());
        let got: Vec<_> = paced(content, Duration::from_millis(20)).collect().await;
        assert!(matches!(got.as_slice(), [Ok(1), Ok(2), Err(_)]), "{got:?}");
        let whole: Vec<_> = paced(iter([io::Result::Ok(1)]), CONNECT).collect().await;
        assert!(matches!(whole.as_slice(), [Ok(1)]), "{whole:?}");
    }

    #[test]
    fn a_machine_without_authorities_is_told_what_to_install() {
        let error = tls(Path::new("/nowhere")).err().unwrap();
        assert!(error.contains("ca-certificates"), "{error}");
    }
}
