//! What a device asks to have certified (PKCS #10, RFC 2986).

use rcgen::{CertificateSigningRequestParams, PublicKey};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It cannot be read.
    #[error("is not a certificate signing request in PEM")]
    Unreadable,
    /// Who made it does not have the key.
    #[error("its signature does not match its key: {0}")]
    Signature(String),
}

/// SHA-256 of a SubjectPublicKeyInfo: what a device is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId(pub [u8; 32]);

impl DeviceId {
    /// The device with this SubjectPublicKeyInfo (DER).
    pub fn of_spki(spki: &[u8]) -> Self {
        DeviceId(crate::sha256(spki))
    }

    /// Name of the device's registration: `reg-` and the first 20 hex digits. 80 bits cannot be
    /// met by chance, and meeting them on purpose gains nothing: the key must be proved too.
    pub fn registration(&self) -> String {
        format!("reg-{}", holdfast_api::hex(&self.0[..10]))
    }
}

impl std::fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&holdfast_api::hex(&self.0))
    }
}

/// A request whose signature was checked.
#[derive(Debug)]
pub struct DeviceRequest {
    device: DeviceId,
    public_key: PublicKey,
}

impl DeviceRequest {
    /// Reads a request and checks that it was signed by the key that it names. Everything but the
    /// key is ignored: the controller decides what the certificate says.
    ///
    /// # Errors
    /// Not a request, or not signed by its key.
    pub fn parse(pem: &str) -> Result<Self, CsrError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CsrError::Unreadable)?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Unreadable)?;
        let device = DeviceId::of_spki(request.certification_request_info.subject_pki.raw);
        let public_key = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| CsrError::Signature(error.to_string()))?
            .public_key;
        Ok(DeviceRequest { device, public_key })
    }

    /// Whose request it is.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}
