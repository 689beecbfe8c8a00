//! Who may talk in the mesh: edges, by the certificates that the controller issued them.
//!
//! These certificates are for clients and name no host, so both sides are checked in the same way:
//! the chain ends at the controller's CA, and the subject is that of an edge
//! (`CN=edge:<name>`, `O=holdfast:edges`). Whom one has dialled is compared by name afterwards.
//!
//! Dates are not checked. Certificates live for a day, and the way over the backbone must not end
//! because the controller is away for longer. Who belongs to the mesh is said by the list of edges
//! that the controller gave last: nobody else is dialled, and nobody else is spoken to.

use holdfast_client::{ClientError, certificates};
use holdfast_identity::{DeviceKey, NodeCertificate};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, X509Certificate};

const PROTOCOL: &[u8] = b"holdfast-mesh/1";

/// Why there is no TLS with these certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate cannot be read.
    #[error("the edge's certificate cannot be used in the mesh")]
    Certificate(#[source] ClientError),
    /// The parts do not fit together.
    #[error("the edge's certificate cannot be used in the mesh")]
    Tls(#[source] Error),
    /// The key cannot be read.
    #[error("the edge's key cannot be used in the mesh")]
    Key(#[source] rustls::pki_types::pem::Error),
}

/// Both ends of the mesh with this edge's certificate.
#[derive(Clone)]
pub struct MeshTls {
    /// For those who dial us.
    pub acceptor: TlsAcceptor,
    /// For those whom we dial.
    pub connector: TlsConnector,
}

impl std::fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshTls")
    }
}

impl MeshTls {
    /// With this edge's key and certificate.
    ///
    /// # Errors
    /// The key, the certificate or the CA cannot be used.
    pub fn new(key: &DeviceKey, certificate: &NodeCertificate) -> Result<Self, TlsError> {
        Self::from_pem(&certificate.chain_pem, &certificate.ca_pem, &key.key_pem())
    }

    /// As [`MeshTls::new`], from PEM texts.
    ///
    /// # Errors
    /// As [`MeshTls::new`].
    pub fn from_pem(chain: &str, ca: &str, key: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates(ca).map_err(TlsError::Certificate)? {
            roots.add(root).map_err(TlsError::Tls)?;
        }
        let chain = certificates(chain).map_err(TlsError::Certificate)?;
        let key = || PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(TlsError::Key);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| TlsError::Tls(Error::General(error.to_string())))?;
        let verifier = Arc::new(Edges { chain: verifier });
        let versions = &[&rustls::version::TLS13];

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(TlsError::Tls)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain.clone(), key()?)
            .map_err(TlsError::Tls)?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key()?)
            .map_err(TlsError::Tls)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.enable_sni = false;
        client.resumption = rustls::client::Resumption::disabled();
        Ok(MeshTls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

/// The name of the edge that this certificate was issued to.
pub fn edge_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let organization = subject.iter_organization().next()?.as_str().ok()?;
    let name = subject.iter_common_name().next()?.as_str().ok()?.strip_prefix("edge:")?;
    (organization == "holdfast:edges").then(|| name.to_string())
}

/// A moment at which the certificate was valid.
fn in_its_time(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let begin = u64::try_from(parsed.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(begin)))
}

#[derive(Debug)]
struct Edges {
    chain: Arc<dyn ClientCertVerifier>,
}

impl Edges {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let then =
            in_its_time(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        self.chain.verify_client_cert(leaf, rest, then)?;
        // A node's certificate comes from the same CA.
        edge_name(leaf)
            .map(drop)
            .ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl ClientCertVerifier for Edges {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, rest).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Edges {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, rest).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
