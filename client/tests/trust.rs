//! Whom the client believes, and what it says before it does: nothing.

#![allow(clippy::unwrap_used)]

mod server;

use holdfast_api::Reason;
use holdfast_api::resources::{Registration, RegistrationSpec, Site, SiteSpec};
use holdfast_api::token::CaFingerprint;
use holdfast_client::{Client, ClientError, Identity, Options, TimeSource, Trust};
use server::{Reply, Seen, Server, der, pem};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &str = "hft1.abcdefgh.0123456789abcdef";

fn pin() -> Trust {
    Trust::Pinned(CaFingerprint::of(&der("ca.pem")))
}

fn roots() -> Trust {
    Trust::pem(&pem("ca.pem")).unwrap()
}

fn client(server: &Server, trust: Trust) -> Client {
    Client::new(server.endpoint(), trust, Identity::None).unwrap()
}

fn echo(seen: &Seen) -> Reply {
    Reply::Whole(201, Vec::new(), seen.body.clone())
}

async fn register(client: &Client) -> Result<Registration, ClientError> {
    let registration = Registration::new(Some("acme"), "r1", RegistrationSpec::default());
    client.create(&registration, Some(SECRET)).await
}

#[tokio::test]
async fn the_pinned_ca_gets_the_credential() {
    let server = Server::start(&["server.pem", "ca.pem"], echo).await;
    let made = register(&client(&server, pin())).await.unwrap();
    assert_eq!(made.metadata.name, "r1");
    let seen = &server.record.requests()[0];
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.path, "/apis/fleet.holdfast.dev/v1alpha1/namespaces/acme/registrations");
    assert_eq!(seen.authorization.as_deref(), Some(&*format!("Bearer {SECRET}")));
    assert_eq!(server.record.client_certificates.lock().unwrap().as_slice(), [None]);
}

/// The law: to a server that the token does not name, not one byte is said inside TLS.
#[tokio::test]
async fn nobody_else_hears_anything() {
    let chains: &[&[&str]] = &[
        &["impostor.pem", "other-ca.pem"],
        // Anybody can present the right CA's certificate; it must have signed the leaf.
        &["impostor.pem", "ca.pem"],
        &["impostor.pem", "other-ca.pem", "ca.pem"],
        // The right controller, but nothing shows that it is.
        &["server.pem"],
        &["server.pem", "other-ca.pem"],
        &["elsewhere.pem", "ca.pem"],
        // The pinned certificate itself as the server's: it is a CA, not a server.
        &["ca.pem"],
    ];
    for chain in chains {
        let server = Server::start(chain, echo).await;
        let error = register(&client(&server, pin())).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongCa { .. }), "{chain:?}: {error:?}");
        assert_eq!(error.reason(), Reason::ControllerWrongCa);
        assert!(error.retryable());
        assert!(server.record.inside.lock().unwrap().is_empty(), "{chain:?}");
        let wire = server.record.wire.lock().unwrap();
        assert!(!wire.is_empty() && !contains(&wire, SECRET.as_bytes()), "{chain:?}");
        assert!(server.record.requests().is_empty());
    }
}

#[tokio::test]
async fn a_credential_that_leaked_would_be_seen() {
    // The recorder works: the same bytes do show inside TLS when the server is the right one.
    // HPACK may code text by Huffman, so a body is looked for, not the header.
    let server = Server::start(&["server.pem", "ca.pem"], echo).await;
    register(&client(&server, pin())).await.unwrap();
    assert!(contains(&server.record.inside.lock().unwrap(), b"\"name\":\"r1\""));
    assert!(!contains(&server.record.wire.lock().unwrap(), b"\"name\":\"r1\""));
}

#[tokio::test]
async fn roots_need_not_be_presented_and_bind_just_as_much() {
    let right = Server::start(&["server.pem"], echo).await;
    register(&client(&right, roots())).await.unwrap();
    for chain in [["impostor.pem", "ca.pem"], ["elsewhere.pem", "ca.pem"]] {
        let server = Server::start(&chain, echo).await;
        let error = register(&client(&server, roots())).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongCa { .. }), "{chain:?}: {error:?}");
        assert!(server.record.inside.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_expired_certificate_is_told_apart() {
    let server = Server::start(&["expired.pem", "ca.pem"], echo).await;
    let error = register(&client(&server, pin())).await.unwrap_err();
    assert!(matches!(error, ClientError::NotNow { .. }), "{error:?}");
    assert_eq!(error.reason(), Reason::ClockImplausible);
    assert!(server.record.inside.lock().unwrap().is_empty());
}

#[derive(Debug)]
struct EmptyBattery;
impl TimeSource for EmptyBattery {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(60)
    }
}

#[derive(Debug)]
struct LastGood(SystemTime);
impl TimeSource for LastGood {
    fn now(&self) -> SystemTime {
        self.0
    }
}

#[tokio::test]
async fn a_clock_in_1970_is_overruled_by_the_last_known_good_time() {
    let server = Server::start(&["server.pem", "ca.pem"], echo).await;
    let with = |time: Arc<dyn TimeSource>| {
        let options = Options { time, ..Options::default() };
        Client::with_options(server.endpoint(), pin(), Identity::None, options).unwrap()
    };
    let error = register(&with(Arc::new(EmptyBattery))).await.unwrap_err();
    assert!(matches!(error, ClientError::NotNow { .. }), "{error:?}");
    let last_good = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    register(&with(Arc::new(LastGood(last_good)))).await.unwrap();
}

/// A box that was never admitted and whose battery is empty knows no good time at all.
#[derive(Debug)]
struct NoIdea;
impl TimeSource for NoIdea {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH
    }
    fn is_believed(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_clock_that_is_not_believed_does_not_keep_a_box_from_its_pinned_controller() {
    let server = Server::start(&["server.pem", "ca.pem"], echo).await;
    let with = |trust: Trust| {
        let options = Options { time: Arc::new(NoIdea), ..Options::default() };
        Client::with_options(server.endpoint(), trust, Identity::None, options).unwrap()
    };
    register(&with(pin())).await.unwrap();
    let error = register(&with(roots())).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NotNow { .. }),
        "only a pin is worth that much: {error:?}"
    );
    let other = Server::start(&["elsewhere.pem", "other-ca.pem"], echo).await;
    let options = Options { time: Arc::new(NoIdea), ..Options::default() };
    let wrong = Client::with_options(other.endpoint(), pin(), Identity::None, options).unwrap();
    assert!(matches!(register(&wrong).await.unwrap_err(), ClientError::WrongCa { .. }));
}

#[tokio::test]
async fn a_device_shows_its_own_certificate_and_an_operator_its_token() {
    let server = Server::start(&["server.pem"], |_| {
        Reply::json(200, &Site::new(Some("acme"), "s", SiteSpec::default()))
    })
    .await;
    let device = Identity::Certificate { chain: pem("device.pem"), key: pem("device.key").into() };
    let device = Client::new(server.endpoint(), roots(), device).unwrap();
    device.get::<Site>(Some("acme"), "s").await.unwrap();
    let operator = Identity::Bearer("operator-token".to_string().into());
    let operator = Client::new(server.endpoint(), roots(), operator).unwrap();
    operator.get::<Site>(Some("acme"), "s").await.unwrap();

    let certificates = server.record.client_certificates.lock().unwrap().clone();
    assert_eq!(certificates, [Some(der("device.pem")), None]);
    let seen: Vec<_> = server.record.requests().into_iter().map(|r| r.authorization).collect();
    assert_eq!(seen, [None, Some("Bearer operator-token".into())]);
}

#[tokio::test]
async fn unusable_keys_are_named_before_anything_is_sent() {
    let endpoint = || "https://127.0.0.1:1".parse().unwrap();
    let with = |chain: &str, key: &str| {
        let identity = Identity::Certificate { chain: chain.into(), key: key.to_string().into() };
        Client::new(endpoint(), roots(), identity).unwrap_err()
    };
    for (error, want) in [
        (with("junk", &pem("device.key")), "a certificate"),
        (with(&pem("device.pem"), "junk"), "the private key"),
        (with(&pem("device.pem"), &pem("server.key")), "the client certificate"),
        (Trust::pem("").unwrap_err(), "a certificate"),
    ] {
        assert_eq!(error.reason(), Reason::IdentityUnusable);
        assert!(!error.retryable());
        assert!(matches!(error, ClientError::Identity { what, .. } if what == want), "{error:?}");
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
