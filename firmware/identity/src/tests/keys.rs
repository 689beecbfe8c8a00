use super::{ask, write};
use crate::{DeviceKey, IdentityError, WireguardKey, registration_name};
use holdfast_api::Reason;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_key_is_made_once_and_closed_to_others() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("var/identity");
    let first = DeviceKey::load_or_create(&dir).unwrap();
    let again = DeviceKey::load_or_create(&dir).unwrap();
    assert_eq!(first.spki_sha256(), again.spki_sha256());
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(first.path()), 0o600);
    let wireguard = WireguardKey::load_or_create(&dir).unwrap();
    assert_eq!(wireguard.public(), WireguardKey::load_or_create(&dir).unwrap().public());
    assert_eq!(mode(wireguard.path()), 0o600);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "no temporary may stay");
}

/// The law: however many start at once, there is one key.
#[test]
fn many_that_start_at_once_get_the_same_key() {
    for _ in 0..20 {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("identity");
        let barrier = std::sync::Barrier::new(16);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                let device = DeviceKey::load_or_create(&dir).unwrap().spki_sha256();
                (device, WireguardKey::load_or_create(&dir).unwrap().public())
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }
}

#[test]
fn a_damaged_key_is_reported_and_left_as_it_is() {
    for content in ["", "junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        let dir = tempfile::tempdir().unwrap();
        for file in ["device.key", "wireguard.key"] {
            write(&dir.path().join(file), content);
        }
        let device = DeviceKey::load_or_create(dir.path()).unwrap_err();
        let wireguard = WireguardKey::load_or_create(dir.path()).unwrap_err();
        for error in [device, wireguard] {
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(error.reason(), Reason::IdentityUnusable);
            assert!(!error.retryable());
        }
        let kept = std::fs::read_to_string(dir.path().join("device.key")).unwrap();
        assert_eq!(kept, content);
    }
}

#[test]
fn a_key_cut_short_anywhere_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let whole = key.key_pem();
    for cut in 0..whole.trim_end().len() {
        write(key.path(), &whole[..cut]);
        let error = DeviceKey::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "cut at {cut}: {error}");
    }
    write(key.path(), whole.as_bytes());
    let restored = DeviceKey::load_or_create(dir.path()).unwrap();
    assert_eq!(restored.spki_sha256(), key.spki_sha256());
}

#[test]
fn something_else_in_the_keys_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("device.key")).unwrap();
    let error = DeviceKey::load_or_create(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    let error = DeviceKey::load_or_create(Path::new("/proc/no-such/identity")).unwrap_err();
    assert!(matches!(error, IdentityError::Directory { attempt: "make", .. }), "{error}");
    assert_eq!(error.reason(), Reason::StateUnwritable);
    assert!(error.retryable());
}

#[test]
fn a_key_that_others_could_read_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    DeviceKey::load_or_create(dir.path()).unwrap();
    assert_eq!(mode(key.path()), 0o600);
}

#[test]
fn names_derive_from_the_public_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let name = key.registration_name();
    assert_eq!(name, registration_name(&key.spki_der()));
    assert!(name.starts_with("reg-") && name.len() == 24, "{name}");
    assert!(holdfast_api::meta::is_dns_label(&name));
    // SHA-256 of nothing, FIPS 180-4.
    assert_eq!(registration_name(b""), "reg-e3b0c44298fc1c149afb");
}

#[test]
fn nothing_secret_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let wireguard = WireguardKey::load_or_create(dir.path()).unwrap();
    let secret = std::fs::read_to_string(wireguard.path()).unwrap();
    let shown = format!("{key:?} {wireguard:?}");
    assert!(!shown.contains("PRIVATE") && !shown.contains(secret.trim()), "{shown}");
}

#[test]
fn openssl_accepts_what_we_make() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let csr = key.csr_pem("node-a").unwrap();
    let Some((ok, text)) = ask("openssl", &["req", "-verify", "-noout", "-subject"], &csr) else {
        return;
    };
    assert!(ok && text.contains("verify OK") && text.contains("node-a"), "{text}");

    let certificate = key.self_signed_pem().unwrap();
    let show = ["x509", "-noout", "-dates", "-subject", "-ext", "extendedKeyUsage"];
    let (ok, text) = ask("openssl", &show, &certificate).unwrap();
    assert!(ok, "{text}");
    for part in [
        "notBefore=Jan  1 00:00:00 1970 GMT",
        "notAfter=Dec 31 23:59:59 9999 GMT",
        "TLS Web Client Authentication",
        key.registration_name().as_str(),
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let spki = ["pkey", "-pubout", "-outform", "PEM"];
    let (_, from_key) = ask("openssl", &spki, &key.key_pem()).unwrap();
    let (_, from_certificate) =
        ask("openssl", &["x509", "-noout", "-pubkey"], &certificate).unwrap();
    assert_eq!(from_key, from_certificate);
}

#[test]
fn wg_computes_the_same_public_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = WireguardKey::load_or_create(dir.path()).unwrap();
    let secret = std::fs::read_to_string(key.path()).unwrap();
    if let Some((ok, public)) = ask("wg", &["pubkey"], &secret) {
        assert!(ok);
        assert_eq!(public.trim(), key.public().to_string());
    }
}
