//! The controller's certificate authority: one ECDSA P-256 key in the data directory.
//!
//! Nodes pin this CA by the fingerprint in their token, so it is made once and never replaced by
//! itself: when one of its two files is missing or damaged, the start fails and says so.

use crate::trust::csr::DeviceRequest;
use holdfast_api::Reason;
use holdfast_api::token::CaFingerprint;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Life of the CA. Appliances live long and nobody comes by to change what they trust.
const CA_LIFE: SignedDuration = SignedDuration::from_hours(30 * 365 * 24);
/// Certificates are valid from a little earlier than now, for clocks that run late.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// What goes wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot keep a key or certificate")]
    Write(#[source] holdfast_durable::WriteError),
    /// A file does not hold what it should.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Only one of the CA's two files is there.
    #[error("{} is missing; restore it from a backup, nodes trust no other CA", path.display())]
    Half {
        /// The missing file.
        path: PathBuf,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate for {subject}")]
    Issue {
        /// Whom it is for.
        subject: String,
        /// The library's answer.
        #[source]
        source: rcgen::Error,
    },
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl TrustError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            TrustError::Write(error) if error.disk_full() => Reason::StateDiskFull,
            TrustError::Write(_) => Reason::StateUnwritable,
            TrustError::Read { .. } | TrustError::Damaged { .. } | TrustError::Half { .. } => {
                Reason::IdentityUnusable
            }
            TrustError::Issue { .. } | TrustError::Tls(_) => Reason::Internal,
        }
    }
}

/// The certificate authority. The key stays inside.
pub struct Authority {
    der: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads the CA from `dir`, or makes one when neither of its files exists.
    ///
    /// # Errors
    /// Files that are damaged, half there, or cannot be written.
    pub fn load_or_make(dir: &Path, now: Timestamp) -> Result<Self, TrustError> {
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        match (read(&key_path)?, read(&certificate_path)?) {
            (Some(key), Some(certificate)) => {
                let key = KeyPair::from_pem(&key).map_err(|e| damaged(&key_path, &e))?;
                Self::assemble(key, certificate, &certificate_path)
            }
            (None, None) => {
                let key = KeyPair::generate().map_err(|e| issue("the CA", e))?;
                let certificate =
                    ca_params(now).self_signed(&key).map_err(|e| issue("the CA", e))?.pem();
                // The key first: a certificate without key would be taken for half a CA.
                let keep = |path: &Path, content: &str, mode| {
                    holdfast_durable::write(path, content.as_bytes(), mode)
                        .map_err(TrustError::Write)
                };
                keep(&key_path, &zeroize::Zeroizing::new(key.serialize_pem()), 0o600)?;
                keep(&certificate_path, &certificate, 0o644)?;
                tracing::info!(path = %certificate_path.display(), "made a certificate authority");
                Self::assemble(key, certificate, &certificate_path)
            }
            (None, Some(_)) => Err(TrustError::Half { path: key_path }),
            (Some(_), None) => Err(TrustError::Half { path: certificate_path }),
        }
    }

    fn assemble(key: KeyPair, pem: String, path: &Path) -> Result<Self, TrustError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(path, &e))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| damaged(path, &e))?;
        Ok(Authority { der, pem, issuer })
    }

    /// The CA's certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The CA's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What tokens say of this CA.
    pub fn fingerprint(&self) -> CaFingerprint {
        CaFingerprint::of(&self.der)
    }

    /// A client certificate for the device of `request`.
    ///
    /// # Errors
    /// The key is of a kind that cannot be certified.
    pub fn sign_device(
        &self,
        request: &DeviceRequest,
        subject: &Subject,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<String, TrustError> {
        let mut params = leaf_params(subject.common_name(), now, life);
        params.distinguished_name.push(DnType::OrganizationName, subject.organization());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let fail = |e| issue(&subject.common_name(), e);
        Ok(params.signed_by(request.public_key(), &self.issuer).map_err(fail)?.pem())
    }

    /// A server certificate for these names (DNS names and IP addresses), and its new key.
    ///
    /// # Errors
    /// A name is not one.
    pub fn sign_server(
        &self,
        names: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<(String, PrivateKeyDer<'static>), TrustError> {
        let key = KeyPair::generate().map_err(|e| issue("the server", e))?;
        let fail = |e| issue(&names.join(", "), e);
        let mut params = leaf_params("holdfast-controller".into(), now, life);
        params.subject_alt_names =
            CertificateParams::new(names.to_vec()).map_err(fail)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?.pem();
        Ok((certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

/// Whom a client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A node of a tenant.
    Node {
        /// The tenant.
        tenant: String,
        /// The node's name.
        node: String,
    },
    /// A regional edge.
    Edge {
        /// Its name.
        name: String,
    },
}

impl Subject {
    /// The subject's common name.
    pub fn common_name(&self) -> String {
        match self {
            Subject::Node { tenant, node } => format!("node:{tenant}/{node}"),
            Subject::Edge { name } => format!("edge:{name}"),
        }
    }

    /// The subject's organization.
    pub fn organization(&self) -> &'static str {
        match self {
            Subject::Node { .. } => "holdfast:nodes",
            Subject::Edge { .. } => "holdfast:edges",
        }
    }

    /// Reads what [`Subject::common_name`] and [`Subject::organization`] wrote.
    pub fn parse(common_name: &str, organization: &str) -> Option<Subject> {
        let subject = if let Some(name) = common_name.strip_prefix("edge:") {
            Subject::Edge { name: name.into() }
        } else {
            let (tenant, node) = common_name.strip_prefix("node:")?.split_once('/')?;
            Subject::Node { tenant: tenant.into(), node: node.into() }
        };
        (subject.organization() == organization).then_some(subject)
    }
}

fn ca_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Holdfast CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = SystemTime::from(now.saturating_sub(BACKDATE).unwrap_or(now)).into();
    params.not_after = SystemTime::from(now.saturating_add(CA_LIFE).unwrap_or(now)).into();
    params
}

fn leaf_params(common_name: String, now: Timestamp, life: SignedDuration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = SystemTime::from(now.saturating_sub(BACKDATE).unwrap_or(now)).into();
    params.not_after = SystemTime::from(now.saturating_add(life).unwrap_or(now)).into();
    params
}

/// 16 random bytes, positive and not starting with zero (RFC 5280 §4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = crate::random();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn read(path: &Path) -> Result<Option<String>, TrustError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TrustError::Read { path: path.into(), source }),
    }
}

fn damaged(path: &Path, what: &dyn std::fmt::Display) -> TrustError {
    TrustError::Damaged { path: path.into(), what: what.to_string() }
}

fn issue(subject: &str, source: rcgen::Error) -> TrustError {
    TrustError::Issue { subject: subject.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let first = Authority::load_or_make(dir.path(), now).unwrap().fingerprint();
        assert_eq!(Authority::load_or_make(dir.path(), now).unwrap().fingerprint(), first);
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Authority::load_or_make(dir.path(), now).err().unwrap();
        assert!(matches!(error, TrustError::Half { .. }), "{error}");
        assert_eq!(error.reason(), Reason::IdentityUnusable);
    }

    #[test]
    fn subjects_read_back_and_nothing_else_does() {
        let node = Subject::Node { tenant: "t".into(), node: "n".into() };
        let edge = Subject::Edge { name: "e".into() };
        for subject in [&node, &edge] {
            let (name, organization) = (subject.common_name(), subject.organization());
            assert_eq!(Subject::parse(&name, organization).as_ref(), Some(subject));
        }
        assert_eq!(Subject::parse(&node.common_name(), edge.organization()), None);
        assert_eq!(Subject::parse("operator:x", "holdfast:nodes"), None);
        assert_eq!(Subject::parse("node:x", "holdfast:nodes"), None);
    }
}
