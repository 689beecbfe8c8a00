//! What a client certificate proves.
//!
//! | certificate | identity |
//! |---|---|
//! | none | [`TlsIdentity::None`] |
//! | chains to our CA, in its time, subject as we write it | [`TlsIdentity::Certified`] |
//! | chains to our CA, out of its time | [`TlsIdentity::Device`]: may only ask for a new one |
//! | signed by itself | [`TlsIdentity::Device`] |
//! | anything else | the handshake fails |
//!
//! TLS itself proves possession of the key (CertificateVerify, RFC 8446 §4.4.3). The verifier here
//! only decides what is let in; the identity is read from the certificate again after the
//! handshake by [`identify`], a pure function of certificate, CA and time.

use super::authority::Subject;
use super::csr::DeviceId;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whom the TLS handshake proved to be on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsIdentity {
    /// Nobody in particular.
    None,
    /// The holder of a device key.
    Device(DeviceId),
    /// The holder of a certificate of ours.
    Certified {
        /// Its key.
        device: DeviceId,
        /// Whom we certified it to be.
        subject: Subject,
    },
}

impl TlsIdentity {
    /// The key that was proved.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            TlsIdentity::None => None,
            TlsIdentity::Device(device) | TlsIdentity::Certified { device, .. } => Some(*device),
        }
    }
}

/// Reads the identity from the certificates of a finished handshake.
pub fn identify(
    verifier: &PeerVerifier,
    certificates: Option<&[CertificateDer<'_>]>,
    now: Timestamp,
) -> TlsIdentity {
    let Some((leaf, rest)) = certificates.and_then(|all| all.split_first()) else {
        return TlsIdentity::None;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return TlsIdentity::None };
    let device = DeviceId::of_spki(parsed.public_key().raw);
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    match verifier.chain.verify_client_cert(leaf, rest, at) {
        Ok(_) => match subject_of(&parsed) {
            Some(subject) => TlsIdentity::Certified { device, subject },
            None => TlsIdentity::Device(device),
        },
        Err(_) => TlsIdentity::Device(device),
    }
}

fn subject_of(certificate: &X509Certificate<'_>) -> Option<Subject> {
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next()?.as_str().ok()?;
    let organization = subject.iter_organization().next()?.as_str().ok()?;
    Subject::parse(common_name, organization)
}

/// Lets in what the table above lets in.
#[derive(Debug)]
pub struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
}

impl PeerVerifier {
    /// A verifier that trusts `ca`.
    ///
    /// # Errors
    /// `ca` is not a CA certificate.
    pub fn new(ca: &CertificateDer<'static>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(PeerVerifier { chain })
    }
}

fn out_of_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

/// Issuer and subject are the same and the certificate verifies with its own key.
fn signed_by_itself(leaf: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| {
        certificate.issuer() == certificate.subject() && certificate.verify_signature(None).is_ok()
    })
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Empty, so that clients offer their self-signed certificates too (RFC 8446 §4.2.4).
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.chain.verify_client_cert(end_entity, intermediates, now) {
            Err(error) if out_of_time(&error) || signed_by_itself(end_entity) => {
                Ok(ClientCertVerified::assertion())
            }
            result => result,
        }
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
