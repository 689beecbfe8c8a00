//! The node's certificate: what the controller issued, kept with the one before it.
//!
//! The pair of chain and CA is one value in one file (`certificate.json`), so a power loss never
//! leaves a new certificate beside an old CA. Only what belongs to the device key and verifies
//! against its CA is stored; dates are not checked here, because a clock may be wrong
//! ([`crate::known_time`]).

use crate::{DeviceKey, IdentityError};
use holdfast_client::Issued;
use holdfast_durable::{Loaded, Slots};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::Path;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const FILE: &str = "certificate.json";
/// Renewed once this part of its life is over, so two thirds are left to find a controller.
const RENEW_AFTER_PART: i64 = 3;

/// A client certificate and whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCertificate {
    /// Client certificate, PEM, leaf first.
    pub chain_pem: String,
    /// CA certificates to trust, PEM; the old and the new one while a rotation lasts.
    pub ca_pem: String,
}

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Common name of the subject.
    pub common_name: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// When to ask for the next one: a third of its life after it began.
    pub renew_at: Timestamp,
}

impl From<Issued> for NodeCertificate {
    fn from(issued: Issued) -> Self {
        NodeCertificate { chain_pem: issued.certificate, ca_pem: issued.ca }
    }
}

impl NodeCertificate {
    /// What the leaf says.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the chain has no readable certificate.
    pub fn facts(&self) -> Result<CertificateFacts, IdentityError> {
        let leaf = first_pem(&self.chain_pem)?;
        facts_of(&parse(&leaf)?)
    }

    /// Checks that the leaf is for `key` and that its chain ends at one of the CAs. Dates are left
    /// to the caller.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] says which of the two does not hold.
    pub fn check(&self, key: &DeviceKey) -> Result<CertificateFacts, IdentityError> {
        let chain = pems(&self.chain_pem)?;
        let cas = pems(&self.ca_pem)?;
        let chain: Vec<_> = chain.iter().map(parse).collect::<Result<_, _>>()?;
        let cas: Vec<_> = cas.iter().map(parse).collect::<Result<_, _>>()?;
        let leaf = chain.first().ok_or_else(|| unusable("the chain is empty"))?;
        if leaf.public_key().raw != key.spki_der() {
            return Err(unusable("it is for another key than this device's"));
        }
        for (below, above) in chain.iter().zip(chain.iter().skip(1)) {
            if !issued(below, above) {
                return Err(unusable("a certificate of the chain is not issued by the next one"));
            }
        }
        let top = chain.last().unwrap_or(leaf);
        if !cas.iter().any(|ca| issued(top, ca)) {
            return Err(unusable("its chain does not end at one of the CAs sent with it"));
        }
        facts_of(leaf)
    }
}

/// Where the certificate is kept.
#[derive(Debug, Clone)]
pub struct CertificateStore {
    slots: Slots,
}

impl CertificateStore {
    /// The store in the identity directory `dir`.
    pub fn new(dir: &Path) -> Self {
        CertificateStore { slots: Slots::new(dir.join(FILE), 0o600) }
    }

    /// The newest usable certificate of `key`; none when none was ever issued.
    ///
    /// # Errors
    /// [`IdentityError::Kept`] when both copies are damaged, [`IdentityError::Certificate`] when
    /// what is stored does not belong to `key`. The device key can ask for a new one either way.
    pub fn load(
        &self,
        key: &DeviceKey,
    ) -> Result<Option<(NodeCertificate, CertificateFacts)>, IdentityError> {
        let certificate: NodeCertificate = match self.slots.load().map_err(kept)? {
            Loaded::Empty => return Ok(None),
            Loaded::Newest(certificate) => certificate,
            Loaded::LastGood(certificate, why) => {
                tracing::warn!(why, "the newest certificate was damaged; using the one before it");
                certificate
            }
        };
        let facts = certificate.check(key)?;
        Ok(Some((certificate, facts)))
    }

    /// Stores `certificate` once it has been checked against `key`; the one before it stays as the
    /// last good one.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when it is not for `key`, [`IdentityError::Kept`] when the
    /// disk refuses. What was loadable before still is.
    pub fn store(
        &self,
        key: &DeviceKey,
        certificate: &NodeCertificate,
    ) -> Result<CertificateFacts, IdentityError> {
        let facts = certificate.check(key)?;
        self.slots.store(certificate).map_err(kept)?;
        Ok(facts)
    }
}

fn kept(source: holdfast_durable::SlotError) -> IdentityError {
    IdentityError::Kept { what: "the node's certificate", source }
}

fn unusable(why: impl Into<String>) -> IdentityError {
    IdentityError::Certificate { why: why.into() }
}

fn pems(text: &str) -> Result<Vec<Pem>, IdentityError> {
    Pem::iter_from_buffer(text.as_bytes())
        .map(|pem| pem.map_err(|error| unusable(format!("not PEM: {error}"))))
        .collect()
}

fn first_pem(text: &str) -> Result<Pem, IdentityError> {
    pems(text)?.into_iter().next().ok_or_else(|| unusable("the chain is empty"))
}

fn parse(pem: &Pem) -> Result<X509Certificate<'_>, IdentityError> {
    pem.parse_x509().map_err(|error| unusable(format!("not a certificate: {error}")))
}

fn issued(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    below.issuer() == above.subject() && below.verify_signature(Some(above.public_key())).is_ok()
}

fn facts_of(leaf: &X509Certificate<'_>) -> Result<CertificateFacts, IdentityError> {
    let time = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp()).map_err(|_| unusable("a date is out of range"))
    };
    let not_before = time(leaf.validity().not_before)?;
    let not_after = time(leaf.validity().not_after)?;
    if not_after <= not_before {
        return Err(unusable("it ends before it begins"));
    }
    let life = not_after.as_second() - not_before.as_second();
    let renew_at = Timestamp::from_second(not_before.as_second() + life / RENEW_AFTER_PART)
        .map_err(|_| unusable("a date is out of range"))?;
    let common_name = leaf
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    Ok(CertificateFacts { common_name, not_before, not_after, renew_at })
}
