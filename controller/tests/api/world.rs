//! A server of one test, and the devices that speak to it.

use super::http::Http;
use holdfast_api::token::{CaFingerprint, Envelope};
use holdfast_controller::Clock;
use holdfast_controller::fleet::FleetSettings;
use holdfast_controller::http::{Limits, Server, Settings};
use holdfast_controller::store::HISTORY;
use holdfast_controller::trust::csr::DeviceId;
use holdfast_controller::trust::{Operator, Operators};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;
use tempfile::TempDir;

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

pub(crate) fn fingerprint(ca: &str) -> CaFingerprint {
    CaFingerprint::of(&CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
}
