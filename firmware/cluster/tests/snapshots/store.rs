//! The storage of snapshots, against a server that checks every signature.

use crate::s3::{BUCKET, KEY_ID, REGION, S3, SECRET};
use holdfast_api::kubernetes::{S3Target, Secret};
use holdfast_api::{Reason, chain};
use holdfast_cluster::snapshots::store::{Manners, Store};
use holdfast_cluster::snapshots::{SnapshotError, Stamp};
use std::path::Path;
use std::time::Duration;

pub(crate) fn target(server: &S3) -> S3Target {
    S3Target {
        endpoint: server.endpoint(),
        bucket: BUCKET.into(),
        folder: "/fleet/a b/".into(),
        region: REGION.into(),
        access_key_id: KEY_ID.into(),
        secret_access_key: Secret(SECRET.into()),
    }
}

fn file(dir: &Path, length: usize) -> std::path::PathBuf {
    let path = dir.join("file");
    let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    holdfast_durable::write(&path, &content, 0o600).unwrap();
    path
}

fn name(stamp: u64) -> String {
    format!("{}-n1-1", Stamp(stamp).base_name())
}

#[tokio::test]
async fn snapshots_are_stored_once_listed_over_pages_fetched_and_deleted() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&target(&server), "site-1", "n1").unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    for stamp in 1..=5 {
        store.put(&name(stamp), &file(dir.path(), 1000)).await.unwrap();
    }
    let key = |stamp| format!("fleet/a b/site-1/n1/{}.tar.gz.age", name(stamp));
    assert_eq!(server.keys(), (1..=5).map(key).collect::<Vec<_>>());
    // Another node's, another site's, and what is nobody's.
    server.put(&key(6).replace("/n1/", "/n2/"), b"n2");
    server.put(&key(7).replace("site-1", "site-2"), b"other");
    server.put("fleet/a b/site-1/n1/readme.txt", b"other");
    server.put("fleet/a b/site-1/n1/holdfast-notes.tar.gz.age", b"other");
    server.put(&format!("fleet/a b/site-1/n1/old/{}.tar.gz.age", name(8)), b"other");

    let mut listed = store.list().await.unwrap();
    listed.sort_by_key(|one| one.stamp);
    assert_eq!(listed.iter().map(|one| one.stamp.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(listed[0].bytes, 1000);
    let site = store.list_site().await.unwrap();
    assert_eq!(site.len(), 6);
    assert_eq!(site[0].0, format!("n2/{}.tar.gz.age", name(6)), "the newest first");

    // What is there already is not written again, whatever it is.
    store.put(&name(1), &file(dir.path(), 7)).await.unwrap();
    assert_eq!(server.object(&key(1)).unwrap().len(), 1000);

    let fetched = dir.path().join("deep/fetched");
    store.get(&format!("n1/{}.tar.gz.age", name(1)), &fetched).await.unwrap();
    assert_eq!(std::fs::read(&fetched).unwrap(), server.object(&key(1)).unwrap());
    for _ in 0..2 {
        store.delete(&listed[0].name).await.unwrap();
    }
    assert_eq!(server.object(&key(1)), None);
    let error = store.get(&format!("n1/{}.tar.gz.age", name(1)), &fetched).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SnapshotUpload, "{error}");
}

#[tokio::test]
async fn a_large_snapshot_goes_in_parts_and_none_is_left_behind() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&target(&server), "s", "n1").unwrap();
    let large = file(dir.path(), (16 << 20) + 5);
    store.put(&name(1), &large).await.unwrap();
    let key = format!("fleet/a b/s/n1/{}.tar.gz.age", name(1));
    assert_eq!(server.object(&key).unwrap(), std::fs::read(&large).unwrap());
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|one| one.contains("partNumber=")).count(), 3);
    assert_eq!(server.unfinished_uploads(), 0);
    store.put(&name(1), &large).await.unwrap();
    assert!(!server.requests().iter().any(|one| one.starts_with("PUT")));
}

#[tokio::test]
async fn a_storage_that_stumbles_is_asked_again_and_one_that_refuses_is_not() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&target(&server), "s", "n1").unwrap();
    server.unavailable(2);
    store.put(&name(1), &file(dir.path(), 10)).await.unwrap();
    assert_eq!(server.requests().len(), 3);

    let wrong = S3Target { secret_access_key: Secret("wrong".into()), ..target(&server) };
    let store = Store::new(&wrong, "s", "n1").unwrap();
    let error = store.put(&name(2), &file(dir.path(), 10)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SnapshotUpload);
    assert!(chain(&error).contains("SignatureDoesNotMatch"), "{}", chain(&error));
    assert!(!chain(&error).contains("wrong"), "{}", chain(&error));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.keys().len(), 1);
}

#[tokio::test]
async fn a_storage_that_stops_in_the_middle_of_an_answer_holds_nobody_forever() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let soon = Manners { stands_still: Duration::from_millis(50), ..Manners::default() };
    let store = Store::with(&soon, &target(&server), "s", "n1").unwrap();
    store.put(&name(1), &file(dir.path(), 1000)).await.unwrap();
    server.stops_halfway();
    let fetched = dir.path().join("fetched");
    let object = format!("n1/{}.tar.gz.age", name(1));
    let get = tokio::time::timeout(Duration::from_secs(60), store.get(&object, &fetched)).await;
    assert_eq!(get.expect("it waits forever").unwrap_err().reason(), Reason::SnapshotUpload);
    let list = tokio::time::timeout(Duration::from_secs(60), store.list()).await;
    assert_eq!(list.expect("it waits forever").unwrap_err().reason(), Reason::SnapshotUpload);
}

#[tokio::test]
async fn settings_that_cannot_work_are_told_without_a_request() {
    let server = S3::start().await;
    for broken in [
        S3Target { endpoint: "s3.example".into(), ..target(&server) },
        S3Target { bucket: String::new(), ..target(&server) },
        S3Target { secret_access_key: Secret::default(), ..target(&server) },
    ] {
        let error = Store::new(&broken, "s", "n1").unwrap_err();
        assert!(matches!(error, SnapshotError::StorageSettings { .. }), "{error}");
        assert!(!error.retryable());
    }
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_storage_with_tls_is_believed_when_its_authority_is() {
    use rustls::pki_types::pem::PemObject;
    let dir = tempfile::tempdir().unwrap();
    let pki = |name: &str| {
        let pki = holdfast_lab_kubernetes::pki::Pki::below(&dir.path().join(name));
        pki.prepare("n1", &[], &[]).unwrap();
        pki
    };
    let (ours, others) = (pki("ours"), pki("others"));
    let certificates: Vec<_> =
        rustls::pki_types::CertificateDer::pem_file_iter(ours.path("serving-kube-apiserver.crt"))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::from_pem_file(ours.path("serving-kube-apiserver.key"));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key.unwrap())
        .unwrap();
    let server = S3::start_tls(config).await;
    let believing = |pki: &holdfast_lab_kubernetes::pki::Pki| Manners {
        authorities: pki.path("server-ca.crt"),
        ..Manners::default()
    };
    let store = Store::with(&believing(&ours), &target(&server), "s", "n1").unwrap();
    store.put(&name(1), &file(dir.path(), 1000)).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);

    server.requests();
    let store = Store::with(&believing(&others), &target(&server), "s", "n1").unwrap();
    let error = store.list().await.unwrap_err();
    assert!(chain(&error).contains("invalid peer certificate"), "{}", chain(&error));
    assert_eq!(server.requests(), [] as [String; 0], "nothing was said before it was believed");
}
