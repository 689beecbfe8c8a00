//! The device key: what makes this machine this machine.
//!
//! ECDSA on P-256, PKCS #8 in PEM, in `device.key`. It signs the certificate with which the device
//! asks to be registered, and the requests for all later certificates. It has no end date, so a
//! device whose certificate ran out, or whose clock stands in 1970, can still ask for a new one.

use crate::IdentityError;
use crate::files::read_or_make;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, date_time_ymd,
};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

const FILE: &str = "device.key";

/// The private key of this device. Wiped on drop, never printed.
pub struct DeviceKey {
    pair: KeyPair,
    path: PathBuf,
}

impl DeviceKey {
    /// The key in `dir`, made there when there is none; `dir` becomes 0700, the file 0600.
    /// Safe when several processes start at once: all of them get the same key.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] or [`IdentityError::Read`] when a key is there and cannot be
    /// used; it is never replaced. [`IdentityError::Directory`] or [`IdentityError::Write`] when
    /// a new one cannot be stored.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let pem = read_or_make(dir, &path, || {
            let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|error| crypto("the device key", &error))?;
            let pem = Zeroizing::new(pair.serialize_pem());
            pair.zeroize();
            Ok(pem)
        })?;
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ECDSA_P256_SHA256).map_err(
            |error| IdentityError::Damaged {
                path: path.clone(),
                why: format!("not a P-256 key in PKCS #8 PEM ({error})"),
            },
        )?;
        Ok(DeviceKey { pair, path })
    }

    /// Where the key lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key as SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), DER.
    pub fn spki_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// SHA-256 of [`DeviceKey::spki_der`].
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki_der())
    }

    /// The name of this device's `Registration`, see [`registration_name`].
    pub fn registration_name(&self) -> String {
        registration_name(&self.spki_der())
    }

    /// A client certificate that this key signed for itself, PEM: proves possession of the key in a
    /// TLS handshake before the controller has issued anything. Its common name is the
    /// registration's name. It is valid from 1970 until the end of RFC 5280's calendar
    /// (§4.1.2.5), so that neither side's clock can make it fail.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the library refuses to sign.
    pub fn self_signed_pem(&self) -> Result<String, IdentityError> {
        let mut params = self.params(&self.registration_name());
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 3600 - 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .self_signed(&self.pair)
            .map_err(|error| crypto("the device certificate", &error))?;
        Ok(certificate.pem())
    }

    /// A certificate signing request (PKCS #10, PEM) with this common name and nothing else.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the library refuses to sign.
    pub fn csr_pem(&self, common_name: &str) -> Result<String, IdentityError> {
        self.params(common_name)
            .serialize_request(&self.pair)
            .and_then(|request| request.pem())
            .map_err(|error| crypto("the signing request", &error))
    }

    /// The private key, PKCS #8 in PEM, for a TLS client. Wiped on drop.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }

    fn params(&self, common_name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
    }
}

impl Drop for DeviceKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The name of the `Registration` of the device with this public key (SubjectPublicKeyInfo, DER):
/// `reg-` and the first 20 hex digits of its SHA-256. The controller computes the same from the
/// signing request, so however often a token is presented, one key is one registration.
pub fn registration_name(spki_der: &[u8]) -> String {
    format!("reg-{}", holdfast_api::hex(&sha256(spki_der)[..10]))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

fn crypto(what: &'static str, error: &rcgen::Error) -> IdentityError {
    IdentityError::Crypto { what, why: error.to_string() }
}
