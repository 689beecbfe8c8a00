//! The server's own certificate: made anew when the names change or a third of its life is left,
//! at the start and once an hour while the server runs.

use super::authority::{Authority, TrustError};
use super::peer::PeerVerifier;
use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Life of a server certificate.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The certificate that is shown to clients; replaced while the server runs.
pub struct ServerCertificate {
    dir: PathBuf,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Option<Current>>,
}

struct Current {
    key: Arc<CertifiedKey>,
    from: Timestamp,
    until: Timestamp,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCertificate({})", self.names.join(", "))
    }
}

impl ServerCertificate {
    /// The certificate kept in `dir` if it is good for `names`, else a new one.
    ///
    /// # Errors
    /// A name is not one, or the files cannot be written.
    pub fn load_or_make(
        dir: &Path,
        names: &[String],
        authority: &Authority,
        provider: Arc<CryptoProvider>,
        now: Timestamp,
    ) -> Result<Arc<Self>, TrustError> {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        let server =
            ServerCertificate { dir: dir.into(), names, provider, current: RwLock::new(None) };
        // Whatever is wrong with the kept one, a new one mends it.
        *server.current.write().unwrap_or_else(PoisonError::into_inner) = server.kept(authority);
        server.renew(authority, now)?;
        Ok(Arc::new(server))
    }

    /// Makes a new certificate when a third of the life of this one is left. Answers whether it did.
    ///
    /// # Errors
    /// As [`ServerCertificate::load_or_make`]; the old certificate then stays.
    pub fn renew(&self, authority: &Authority, now: Timestamp) -> Result<bool, TrustError> {
        let good = |current: &Current| {
            let third = current.until.duration_since(current.from) / 3;
            current.from <= now && current.until.duration_since(now) > third
        };
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(good) {
            return Ok(false);
        }
        drop(current);
        let (certificate, key) = authority.sign_server(&self.names, now, LIFE)?;
        let key_pem = Zeroizing::new(pem("PRIVATE KEY", key.secret_der()));
        let keep = |name: &str, content: &str, mode| {
            let path = self.dir.join(name);
            holdfast_durable::write(&path, content.as_bytes(), mode).map_err(TrustError::Write)
        };
        keep("server.key", &key_pem, 0o600)?;
        keep("server.crt", &certificate, 0o644)?;
        // Beside the certificate, so that a start can tell whether the names have changed.
        keep("server.names", &self.names.join("\n"), 0o644)?;
        let made = self.assemble(&certificate, key, authority).map_err(TrustError::Tls)?;
        tracing::info!(names = %self.names.join(","), until = %made.until, "made a server certificate");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(true)
    }

    fn kept(&self, authority: &Authority) -> Option<Current> {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).ok();
        if read("server.names")? != self.names.join("\n") {
            return None;
        }
        let key = Zeroizing::new(read("server.key")?);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
        let certificate = read("server.crt")?;
        let current = self.assemble(&certificate, key, authority).ok()?;
        let issued_by_us = X509Certificate::from_der(authority.der()).is_ok_and(|(_, ca)| {
            current.key.cert.first().is_some_and(|leaf| {
                X509Certificate::from_der(leaf)
                    .is_ok_and(|(_, leaf)| leaf.verify_signature(Some(ca.public_key())).is_ok())
            })
        });
        issued_by_us.then_some(current)
    }

    /// Leaf and CA: nodes look for the pinned CA in the chain.
    fn assemble(
        &self,
        certificate: &str,
        key: PrivateKeyDer<'static>,
        authority: &Authority,
    ) -> Result<Current, rustls::Error> {
        let unreadable = |_| rustls::Error::General("the server certificate is not PEM".into());
        let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unreadable)?;
        let (from, until) = {
            let (_, parsed) = X509Certificate::from_der(&leaf)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            let time = |t: x509_parser::time::ASN1Time| {
                Timestamp::from_second(t.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH)
            };
            (time(parsed.validity().not_before), time(parsed.validity().not_after))
        };
        let chain = vec![leaf, authority.der().clone()];
        let key = CertifiedKey::from_der(chain, key, &self.provider)?;
        Ok(Current { key: Arc::new(key), from, until })
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| current.key.clone())
    }
}

/// TLS 1.2 and 1.3 with optional client certificates, HTTP/2 preferred.
///
/// # Errors
/// The provider lacks what the protocol versions need.
pub fn tls_config(
    certificate: Arc<ServerCertificate>,
    verifier: Arc<PeerVerifier>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, TrustError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    #[test]
    fn a_certificate_is_kept_until_names_change_or_a_third_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_make(&dir.path().join("ca"), now(0)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let leaf = |names: &[&str], days| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let server = ServerCertificate::load_or_make(
                dir.path(),
                &names,
                &authority,
                provider.clone(),
                now(days),
            );
            let server = server.unwrap();
            let current = server.current.read().unwrap();
            let chain = current.as_ref().unwrap().key.cert.clone();
            assert_eq!(chain[1], *authority.der(), "the CA comes along");
            chain[0].to_vec()
        };
        let first = leaf(&["a.example", "192.0.2.1"], 0);
        assert_eq!(
            leaf(&["192.0.2.1", "a.example"], 59),
            first,
            "the order of names does not matter"
        );
        let second = leaf(&["a.example"], 59);
        assert_ne!(second, first);
        assert_eq!(leaf(&["a.example"], 118), second);
        let third = leaf(&["a.example"], 120);
        assert_ne!(third, second, "a third of its life is left");
        // A clock that was put back must not leave a certificate that is not valid yet.
        assert_ne!(leaf(&["a.example"], 0), third);
        std::fs::remove_file(dir.path().join("server.key")).unwrap();
        leaf(&["a.example"], 0);
    }

    #[test]
    fn a_certificate_of_another_ca_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let make = |ca: &str| {
            let authority = Authority::load_or_make(&dir.path().join(ca), now(0)).unwrap();
            let names = ["a.example".to_owned()];
            ServerCertificate::load_or_make(
                dir.path(),
                &names,
                &authority,
                provider.clone(),
                now(0),
            )
            .unwrap();
            std::fs::read(dir.path().join("server.crt")).unwrap()
        };
        let first = make("one");
        assert_eq!(make("one"), first);
        assert_ne!(make("two"), first);
    }
}
