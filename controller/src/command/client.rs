//! How the commands find and speak to the server.

use anyhow::{Context, bail};
use bytes::Bytes;
use holdfast_api::meta::Status;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The CA's certificate, PEM.
pub(super) fn read_ca(data: &Path) -> anyhow::Result<String> {
    let path = data.join("ca/ca.crt");
    std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}; has the server run with this data directory?", path.display())
    })
}

/// The URL given, or that of the server that runs with this data directory.
pub(super) fn server_url(data: &Path, given: Option<&str>) -> anyhow::Result<String> {
    if let Some(given) = given {
        let given = given.trim_end_matches('/');
        return Ok(if given.contains("://") { given.into() } else { format!("https://{given}") });
    }
    let path = data.join("address");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; is the server running?", path.display()))?;
    let mut address: SocketAddr =
        text.trim().parse().with_context(|| format!("{} has no address", path.display()))?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from([127, 0, 0, 1]));
    }
    Ok(format!("https://{address}"))
}

/// Speaks to the server, trusting the CA of the data directory and nobody else.
pub(super) struct Client {
    authority: String,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(super) fn new(data: &Path, server: Option<&str>) -> anyhow::Result<Self> {
        let url = server_url(data, server)?;
        let authority =
            url.strip_prefix("https://").context("--server must begin with https://")?;
        let ca = CertificateDer::from_pem_slice(read_ca(data)?.as_bytes())
            .map_err(|error| anyhow::anyhow!("the CA's certificate is damaged: {error}"))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Client { authority: authority.into(), tls: Arc::new(tls) })
    }

    pub(super) async fn post(
        &self,
        path: &str,
        bearer: &str,
        body: &[u8],
    ) -> anyhow::Result<Value> {
        let (host, port) = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse()?),
            _ => (self.authority.as_str(), 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port))
            .await
            .with_context(|| format!("cannot connect to {}", self.authority))?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .context("the server is not who it should be")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post(path)
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, format!("Bearer {bearer}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))?;
        let response = sender.send_request(request).await.context("the server does not answer")?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        connection.abort();
        if !code.is_success() {
            match serde_json::from_slice::<Status>(&bytes) {
                Ok(status) => bail!("the server refused: {}", status.message),
                Err(_) => bail!("the server answered {code}"),
            }
        }
        serde_json::from_slice(&bytes).context("the server's answer cannot be read")
    }
}
