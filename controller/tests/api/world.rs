//! A server of one test, and those who speak to it.

use bytes::{Bytes, BytesMut};
use holdfast_api::meta::Status;
use holdfast_api::token::{CaFingerprint, Envelope};
use holdfast_controller::Clock;
use holdfast_controller::fleet::FleetSettings;
use holdfast_controller::http::{Limits, Server, Settings};
use holdfast_controller::store::HISTORY;
use holdfast_controller::trust::csr::DeviceId;
use holdfast_controller::trust::{Operator, Operators};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const BASE: &str = "/apis/fleet.holdfast.dev/v1alpha1";
/// Longest wait for anything; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Path of a collection or object in a namespace: `of("acme", "sites/ce01")`.
pub(crate) fn of(namespace: &str, rest: &str) -> String {
    format!("{BASE}/namespaces/{namespace}/{rest}")
}

/// `HOLDFAST_LOG=debug cargo test` shows what the server says.
fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = std::env::var("HOLDFAST_LOG") {
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
        }
    });
}

/// A server with its data directory and a clock that can be moved.
pub(crate) struct World {
    pub(crate) data: TempDir,
    pub(crate) server: Option<Server>,
    pub(crate) fleet: FleetSettings,
    pub(crate) history: usize,
    limits: Limits,
    listen: SocketAddr,
    ahead: Arc<AtomicI64>,
}

impl World {
    pub(crate) async fn new() -> World {
        Self::with(FleetSettings::default(), HISTORY).await
    }

    pub(crate) async fn with(fleet: FleetSettings, history: usize) -> World {
        Self::made_of(fleet, history, Limits::default()).await
    }

    /// With other limits for clients.
    pub(crate) async fn within(limits: Limits) -> World {
        Self::made_of(FleetSettings::default(), HISTORY, limits).await
    }

    async fn made_of(fleet: FleetSettings, history: usize, limits: Limits) -> World {
        log();
        let data = tempfile::tempdir().unwrap();
        let ahead = Arc::default();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut world = World { data, server: None, fleet, history, limits, listen, ahead };
        world.start().await;
        world
    }

    pub(crate) async fn start(&mut self) {
        let settings = Settings {
            data: self.data.path().into(),
            listen: self.listen,
            names: vec!["controller.example".into()],
            fleet: self.fleet.clone(),
            history: self.history,
            clock: self.clock(),
        };
        let server = Server::start_within(settings, self.limits.clone());
        self.server = Some(server.await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    /// Stops and starts again at the same address.
    pub(crate) async fn restart(&mut self) {
        self.listen = self.address();
        self.stop().await;
        self.start().await;
    }

    fn clock(&self) -> Clock {
        let ahead = self.ahead.clone();
        Arc::new(move || {
            let ahead = SignedDuration::from_secs(ahead.load(Ordering::SeqCst));
            Timestamp::now().checked_add(ahead).unwrap()
        })
    }

    /// Moves the server's clock forward.
    pub(crate) fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    pub(crate) fn ca(&self) -> String {
        read_ca(self.data.path())
    }

    /// An operator of one tenant, or of all.
    pub(crate) async fn operator(&self, tenant: Option<&str>) -> Http {
        let token = operator_token(self.data.path(), tenant);
        Http::connect(self.address(), &self.ca(), Some(&token), None).await
    }

    pub(crate) async fn anybody(&self) -> Http {
        Http::connect(self.address(), &self.ca(), None, None).await
    }

    /// A device with its self-signed certificate.
    pub(crate) async fn device(&self, device: &Device) -> Http {
        let own = device.self_signed();
        Http::connect(self.address(), &self.ca(), None, Some((&own, &device.key.serialize_pem())))
            .await
    }

    /// A device with the certificate that the controller gave it.
    pub(crate) async fn certified(&self, device: &Device, registration: &Value) -> Http {
        let certificate = registration["status"]["certificate"].as_str().unwrap();
        let key = device.key.serialize_pem();
        Http::connect(self.address(), &self.ca(), None, Some((certificate, &key))).await
    }

    /// Makes a token and answers it.
    pub(crate) async fn token(&self, tenant: &str, spec: Value) -> Envelope {
        let operator = self.operator(None).await;
        let made = operator
            .create(
                &of(tenant, "tokens"),
                &json!({"metadata": {"generateName": "t-"}, "spec": spec}),
            )
            .await;
        Envelope::parse(made["status"]["token"].as_str().unwrap()).unwrap()
    }

    /// Registers a new device by a new token with automatic approval.
    pub(crate) async fn node(&self, tenant: &str, site: &str) -> (Device, Value) {
        let token = self.token(tenant, json!({"approval": "Automatic", "site": site})).await;
        let device = Device::new();
        let registration = self.register(&token, &device, json!({})).await;
        (device, registration)
    }

    pub(crate) async fn register(&self, token: &Envelope, device: &Device, more: Value) -> Value {
        let answer = self.device(device).await.present(token, &device.registration(more)).await;
        assert!(answer.code == 201 || answer.code == 200, "{answer:?}");
        answer.body
    }

    /// Registers an edge.
    pub(crate) async fn edge(&self, name: &str, n: u8) -> (Device, Value) {
        let spec = json!({"approval": "Automatic", "role": "RegionalEdge"});
        let token = self.token("infra", spec).await;
        let device = Device::new();
        let more = json!({"role": "RegionalEdge", "hostname": name, "edge": {
            "endpoint": format!("192.0.2.{n}:51820"), "probe": format!("192.0.2.{n}:7201"),
            "failureDomain": format!("d{n}"), "routes": [format!("10.{n}.0.0/16")],
        }});
        let registration = self.register(&token, &device, more).await;
        assert_eq!(registration["status"]["node"], name);
        (device, registration)
    }
}

pub(crate) fn read_ca(data: &Path) -> String {
    std::fs::read_to_string(data.join("ca/ca.crt")).unwrap()
}

pub(crate) fn operator_token(data: &Path, tenant: Option<&str>) -> String {
    let operator = Operator { name: "tester".into(), tenant: tenant.map(Into::into) };
    Operators::new(data).issue(&operator, None).unwrap().0.to_string()
}

/// A device: a key, and a WireGuard key that nobody else has.
pub(crate) struct Device {
    pub(crate) key: KeyPair,
    wireguard: [u8; 32],
}

impl Device {
    pub(crate) fn new() -> Device {
        let mut wireguard = [0; 32];
        getrandom::fill(&mut wireguard).unwrap();
        Device { key: KeyPair::generate().unwrap(), wireguard }
    }

    pub(crate) fn name(&self) -> String {
        use rcgen::PublicKeyData;
        DeviceId::of_spki(&self.key.subject_public_key_info()).registration()
    }

    pub(crate) fn csr(&self) -> String {
        CertificateParams::default().serialize_request(&self.key).unwrap().pem().unwrap()
    }

    pub(crate) fn self_signed(&self) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a device");
        params.self_signed(&self.key).unwrap().pem()
    }

    pub(crate) fn wireguard(&self) -> String {
        holdfast_api::tunnel::PublicKey(self.wireguard).to_string()
    }

    /// The object that it registers with, `more` laid over the spec.
    pub(crate) fn registration(&self, more: Value) -> Value {
        let mut spec = json!({
            "role": "Node", "csr": self.csr(), "wireguardPublicKey": self.wireguard(),
            "hostname": "box", "facts": {"product": "NUC", "serial": "42"},
        });
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        json!({"metadata": {"name": self.name()}, "spec": spec})
    }
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A connection to the server.
pub(crate) struct Http {
    sender: Mutex<Sender>,
    bearer: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn status(&self) -> Status {
        serde_json::from_value(self.body.clone()).unwrap()
    }

    /// Our reason code.
    pub(crate) fn reason(&self) -> &'static str {
        self.status().holdfast_reason().map_or("none", |reason| reason.code())
    }

    /// Fields that are wrong.
    pub(crate) fn fields(&self) -> Vec<String> {
        self.status().details.unwrap_or_default().causes.into_iter().map(|c| c.field).collect()
    }
}

/// A TLS connection on which nothing has been said.
pub(crate) async fn tls(
    address: SocketAddr,
    ca: &str,
    certificate: Option<(&str, &str)>,
    alpn: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
}

impl Http {
    pub(crate) async fn connect(
        address: SocketAddr,
        ca: &str,
        bearer: Option<&str>,
        certificate: Option<(&str, &str)>,
    ) -> Http {
        Self::try_connect(address, ca, bearer, certificate, b"h2").await.unwrap()
    }

    pub(crate) async fn try_connect(
        address: SocketAddr,
        ca: &str,
        bearer: Option<&str>,
        certificate: Option<(&str, &str)>,
        alpn: &[u8],
    ) -> anyhow::Result<Http> {
        let io = TokioIo::new(tls(address, ca, certificate, alpn).await?);
        let sender = if alpn == b"h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::One(sender)
        };
        Ok(Http { sender: Mutex::new(sender), bearer: bearer.map(Into::into) })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<hyper::Response<Incoming>> {
        let mut request = Request::builder().method(method);
        if let Some(bearer) = &self.bearer
            && !headers.iter().any(|(name, _)| *name == "authorization")
        {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(body.into());
        let mut sender = self.sender.lock().await;
        let answer = match &mut *sender {
            Sender::One(sender) => {
                sender.ready().await?;
                let request = request.uri(path).header("host", "controller").body(body)?;
                sender.send_request(request).await?
            }
            Sender::Two(two) => {
                let mut two = two.clone();
                drop(sender);
                let request = request.uri(format!("https://controller{path}")).body(body)?;
                two.send_request(request).await?
            }
        };
        Ok(answer)
    }

    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let response = self.send(method, path, headers, body).await?;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { code: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call(method, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        let media = [("content-type", "application/merge-patch+json")];
        self.call("PATCH", path, &media, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &[], "").await
    }

    /// Creates, which must succeed.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    /// The object, which must be there.
    pub(crate) async fn must(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// Presents a token.
    pub(crate) async fn present(&self, token: &Envelope, registration: &Value) -> Answer {
        let authorization = format!("Bearer {}", *token.credential());
        let headers =
            [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let path = of(&token.tenant, "registrations");
        self.call("POST", &path, &headers, registration.to_string()).await
    }

    /// Looks at an object until it is as it should be.
    pub(crate) async fn until(&self, path: &str, good: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if good(&answer.body) {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "{path} never became so: {}", answer.body);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn watch(&self, path: &str) -> Lines {
        let response = self.send("GET", path, &[], "").await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Lines { body: response.into_body(), buffer: BytesMut::new() }
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next event; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let next = async {
            loop {
                if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                    return Some(serde_json::from_slice(&self.buffer.split_to(end + 1)).unwrap());
                }
                let frame = self.body.frame().await?.ok()?;
                self.buffer.extend_from_slice(&frame.into_data().ok()?);
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event in time")
    }

    /// Type and name of the next event.
    pub(crate) async fn short(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub(crate) fn fingerprint(ca: &str) -> CaFingerprint {
    CaFingerprint::of(&CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
}
