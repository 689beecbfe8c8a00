use super::{Ca, write};
use crate::{CertificateStore, DeviceKey, IdentityError};
use holdfast_api::Reason;
use jiff::Timestamp;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn what_was_issued_is_kept_with_its_dates() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let store = CertificateStore::new(dir.path());
    assert!(store.load(&key).unwrap().is_none());
    let issued = Ca::new("ca").issue(&key);
    let facts = store.store(&key, &issued).unwrap();
    assert_eq!(facts.common_name, "node-a");
    assert_eq!(facts.not_before, at("2026-01-01T00:00:00Z"));
    assert_eq!(facts.not_after, at("2027-01-01T00:00:00Z"));
    assert_eq!(facts.renew_at, at("2026-05-02T16:00:00Z"), "a third of 365 days");
    assert_eq!(store.load(&key).unwrap(), Some((issued, facts)));
}

#[test]
fn a_certificate_of_another_key_is_refused_and_the_old_one_stays() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let stranger = DeviceKey::load_or_create(other.path()).unwrap();
    let store = CertificateStore::new(dir.path());
    let ca = Ca::new("ca");
    let good = ca.issue(&key);
    store.store(&key, &good).unwrap();

    let error = store.store(&key, &ca.issue(&stranger)).unwrap_err();
    let IdentityError::Certificate { why } = &error else { panic!("{error}") };
    assert!(why.contains("another key"), "{why}");
    assert_eq!(error.reason(), Reason::ControllerProtocol);
    assert_eq!(store.load(&key).unwrap().unwrap().0, good);
    // A copied disk: the certificate is there and the key is new.
    assert!(matches!(store.load(&stranger), Err(IdentityError::Certificate { .. })));
}

#[test]
fn a_chain_must_end_at_a_ca_that_was_sent_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let (ca, impostor) = (Ca::new("ca"), Ca::new("ca"));
    let mut issued = ca.issue(&key);
    issued.ca_pem = impostor.pem.clone();
    let error = issued.check(&key).unwrap_err();
    assert!(error.to_string().contains("does not end at one of the CAs"), "{error}");
    // While a rotation lasts, both are sent.
    issued.ca_pem = impostor.pem + &ca.pem;
    issued.check(&key).unwrap();
}

#[test]
fn junk_is_refused_with_a_word_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let good = Ca::new("ca").issue(&key);
    for chain_pem in ["", "junk", &good.chain_pem[..good.chain_pem.len() / 2]] {
        let bad = crate::NodeCertificate { chain_pem: chain_pem.into(), ..good.clone() };
        assert!(matches!(bad.check(&key), Err(IdentityError::Certificate { .. })), "{chain_pem}");
        assert!(matches!(bad.facts(), Err(IdentityError::Certificate { .. })), "{chain_pem}");
    }
    let bad = crate::NodeCertificate { ca_pem: String::new(), ..good };
    assert!(matches!(bad.check(&key), Err(IdentityError::Certificate { .. })));
}

#[test]
fn a_newest_copy_cut_short_costs_one_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let store = CertificateStore::new(dir.path());
    let ca = Ca::new("ca");
    let (first, second) = (ca.issue(&key), ca.issue(&key));
    assert_ne!(first, second);
    store.store(&key, &first).unwrap();
    store.store(&key, &second).unwrap();
    let path = dir.path().join("certificate.json");
    let whole = std::fs::read(&path).unwrap();
    write(&path, &whole[..whole.len() / 2]);
    assert_eq!(store.load(&key).unwrap().unwrap().0, first);
    write(&dir.path().join("certificate.json.last"), "junk");
    let error = store.load(&key).unwrap_err();
    assert!(matches!(error, IdentityError::Kept { .. }), "{error}");
    assert_eq!(error.reason(), Reason::IdentityUnusable);
}
