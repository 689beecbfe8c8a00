//! Whom we believe to be the controller, and who we are to it.
//!
//! Before admission a node knows nothing but the fingerprint in its token: [`Trust::Pinned`]
//! looks for the one certificate with this fingerprint among those that the server presents and
//! then verifies the server's certificate against exactly that one. After admission the CA
//! certificates themselves are known: [`Trust::Roots`]. Names and validity are checked in both
//! cases, and the handshake fails before a request (and with it a secret) is written.

use crate::{ClientError, TimeSource};
use holdfast_api::token::CaFingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Whose word counts for the controller's certificate.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The CA with this fingerprint, which the server presents along with its own certificate.
    Pinned(CaFingerprint),
    /// These CA certificates.
    Roots(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// The CA certificates in this PEM text.
    ///
    /// # Errors
    /// [`ClientError::Identity`] when there is none or one cannot be read.
    pub fn pem(text: &str) -> Result<Self, ClientError> {
        certificates(text).map(Trust::Roots)
    }
}

/// Who we are to the controller.
#[derive(Clone, Default)]
pub enum Identity {
    /// Nobody yet; a request may still carry a credential.
    #[default]
    None,
    /// The holder of a client certificate: one that the controller issued, or a device's
    /// self-signed one.
    Certificate {
        /// Certificates, PEM, leaf first.
        chain: String,
        /// Private key, PEM (PKCS #8, SEC 1 or PKCS #1).
        key: Zeroizing<String>,
    },
    /// The bearer of an operator's token.
    Bearer(Zeroizing<String>),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Identity::None => "None",
            Identity::Certificate { .. } => "Certificate(redacted)",
            Identity::Bearer(_) => "Bearer(redacted)",
        })
    }
}

/// The certificates in a PEM text, in order.
///
/// # Errors
/// [`ClientError::Identity`] when there is none or one cannot be read.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ClientError::Identity { what: "a certificate", why: error.to_string() })?;
    if found.is_empty() {
        let why = "the text holds no certificate".into();
        return Err(ClientError::Identity { what: "a certificate", why });
    }
    Ok(found)
}

/// TLS 1.3, HTTP/2, ring.
pub(crate) fn tls_config(
    trust: &Trust,
    identity: &Identity,
    time: Arc<dyn TimeSource>,
) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let broken =
        |what, error: &dyn fmt::Display| ClientError::Identity { what, why: error.to_string() };
    let builder =
        ClientConfig::builder_with_details(provider.clone(), Arc::new(Clock(time.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| broken("the cryptography", &error))?;
    let anchor = match trust {
        Trust::Pinned(fingerprint) => Anchor::Pinned(*fingerprint),
        Trust::Roots(roots) => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root.clone()).map_err(|error| broken("a CA certificate", &error))?;
            }
            Anchor::Roots(store)
        }
    };
    let verifier = Arc::new(Verifier { anchor, provider, time });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Identity::None | Identity::Bearer(_) => builder.with_no_client_auth(),
        Identity::Certificate { chain, key } => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|error| broken("the private key", &error))?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(|error| broken("the client certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // One connection is kept; resumption would only keep tickets in memory.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Clock(Arc<dyn TimeSource>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[derive(Debug)]
enum Anchor {
    Pinned(CaFingerprint),
    Roots(RootCertStore),
}

#[derive(Debug)]
struct Verifier {
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeSource>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented;
        let (roots, now) = match &self.anchor {
            Anchor::Roots(roots) => (roots, now),
            Anchor::Pinned(fingerprint) => {
                presented = pinned_root(*fingerprint, intermediates)?;
                let now = if self.time.is_believed() { now } else { no_earlier(now, end_entity)? };
                (&presented, now)
            }
        };
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
        verify_server_name(&leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `now`, or the beginning of the certificate's validity when that is later.
fn no_earlier(now: UnixTime, certificate: &CertificateDer<'_>) -> Result<UnixTime, Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let begin = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(begin))))
}

/// The presented certificate with this fingerprint, as the only root.
fn pinned_root(
    fingerprint: CaFingerprint,
    presented: &[CertificateDer<'_>],
) -> Result<RootCertStore, Error> {
    let ca = presented
        .iter()
        .find(|certificate| CaFingerprint::of(certificate) == fingerprint)
        .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}
