//! How the commands find and speak to the server.

use super::failure::Failure;
use bytes::Bytes;
use holdfast_api::meta::Status;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for the whole errand: a person sits in front of it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// The CA's certificate, PEM.
pub(super) fn read_ca(data: &Path) -> Result<String, Failure> {
    read(data, "ca/ca.crt")
}

fn read(data: &Path, name: &str) -> Result<String, Failure> {
    let path = data.join(name);
    std::fs::read_to_string(&path).map_err(|source| Failure::Data { path, source })
}

/// The URL given, or that of the server that runs with this data directory; without a slash at its
/// end.
pub(super) fn server_url(data: &Path, given: Option<&str>) -> Result<String, Failure> {
    if let Some(given) = given {
        return given_url(given);
    }
    let text = read(data, "address")?;
    let mut address: SocketAddr = text.trim().parse().map_err(|_| Failure::Damaged {
        path: data.join("address"),
        what: "it has no address and port".into(),
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from([127, 0, 0, 1]));
    }
    Ok(format!("https://{address}"))
}

fn given_url(given: &str) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::argument("--server", format!("{given:?} {why}"));
    let whole = if given.contains("://") { given.to_owned() } else { format!("https://{given}") };
    let uri: Uri = whole.parse().map_err(|_| wrong("is no URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("must begin with https://"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("must have no path"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.is_empty() || authority.contains('@') {
        return Err(wrong("must name a host"));
    }
    Ok(format!("https://{authority}"))
}

/// Speaks to the server, trusting the CA of the data directory and nobody else.
pub(super) struct Client {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(super) fn new(data: &Path, server: Option<&str>) -> Result<Self, Failure> {
        let url = server_url(data, server)?;
        let uri: Uri =
            url.parse().map_err(|_| Failure::argument("--server", format!("{url:?} is no URL")))?;
        let damaged = |what: String| Failure::Damaged { path: data.join("ca/ca.crt"), what };
        let ca = CertificateDer::from_pem_slice(read_ca(data)?.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca).map_err(|error| damaged(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| damaged(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Client { host, port: uri.port_u16().unwrap_or(443), tls: Arc::new(tls) })
    }

    /// Host and port, for people and for the header.
    fn to(&self) -> String {
        let Client { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub(super) async fn post(
        &self,
        path: &str,
        bearer: &str,
        body: &[u8],
    ) -> Result<Value, Failure> {
        let answer = tokio::time::timeout(PATIENCE, self.send(path, bearer, body));
        answer.await.unwrap_or_else(|_| {
            Err(self.unreachable(format!("no answer within {} s", PATIENCE.as_secs())))
        })
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::Unreachable { to: self.to(), source: source.into() }
    }

    async fn send(&self, path: &str, bearer: &str, body: &[u8]) -> Result<Value, Failure> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| self.unreachable(error))?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Failure::argument("--server", format!("{:?} is no host", self.host)))?;
        let connect = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = connect.await.map_err(|error| self.untrusted(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        let connection = tokio::spawn(connection);
        let answer = |what: String| Failure::Answer { to: self.to(), what };
        let request = Request::post(path)
            .header(HOST, self.to())
            .header(AUTHORIZATION, format!("Bearer {bearer}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| Failure::argument("--server", error.to_string()))?;
        let response =
            sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        let code = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| self.unreachable(error))?
            .to_bytes();
        connection.abort();
        if !code.is_success() {
            return Err(match serde_json::from_slice::<Status>(&bytes) {
                Ok(status) => Failure::Refused { status: Box::new(status) },
                Err(_) => answer(format!("it is {code} without a reason")),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| answer(error.to_string()))
    }

    /// A handshake that failed: because of who is there, or because nobody is.
    fn untrusted(&self, error: io::Error) -> Failure {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(source) => Failure::Stranger { to: self.to(), source: source.clone() },
            None => self.unreachable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_given_with_or_without_scheme_and_slash() {
        for good in ["c.example:6443", "https://c.example:6443", "https://c.example:6443/"] {
            assert_eq!(given_url(good).unwrap(), "https://c.example:6443");
        }
        assert_eq!(given_url("[::1]:6443").unwrap(), "https://[::1]:6443");
        for bad in ["", "http://c.example", "https://", "a b", "c/path", "c?x", "u@c", "c\nuser: x"]
        {
            let error = given_url(bad).unwrap_err();
            assert!(matches!(&error, Failure::Argument { argument: "--server", .. }), "{error:?}");
            assert!(error.line().contains("[config.invalid]") && !error.line().contains('\n'));
        }
    }
}
