//! A validating webhook that refuses what its objects ask it to refuse (Kubernetes docs, "Dynamic
//! Admission Control").

use super::SEAT;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use holdfast_lab_kubernetes::pki::Pki;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What it says when it refuses.
pub const WORDS: &str = "no gnomes in the shop";

/// A server on the story's seat; it ends with the process, at the latest.
pub struct Webhook {
    lenient: Arc<AtomicBool>,
    address: SocketAddr,
    authority: String,
    _runtime: tokio::runtime::Runtime,
}

impl Webhook {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::below(folder.path());
        pki.prepare("webhook", &[SEAT.parse().unwrap()], &[]).unwrap();
        let certificates = CertificateDer::pem_file_iter(pki.path("serving-kube-apiserver.crt"));
        let certificates: Result<Vec<_>, _> = certificates.unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(pki.path("serving-kube-apiserver.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates.unwrap(), key)
            .unwrap();
        let authority = std::fs::read(pki.path("server-ca.crt")).unwrap();
        let authority = base64::engine::general_purpose::STANDARD.encode(authority);
        let lenient = Arc::new(AtomicBool::new(false));
        let router = Router::new().route("/", post(review)).with_state(lenient.clone());
        // Its threads are in the network of the thread that makes it.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let tcp = runtime.block_on(TcpListener::bind((SEAT, 0))).unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener { tcp, tls: TlsAcceptor::from(Arc::new(tls)) };
        runtime.spawn(axum::serve(listener, router).into_future());
        Webhook { lenient, address, authority, _runtime: runtime }
    }

    /// Whether it lets everything pass.
    pub fn be_lenient(&self, lenient: bool) {
        self.lenient.store(lenient, Ordering::Relaxed);
    }

    /// Its configuration, and that of another one which nobody serves. Asked are they of ConfigMaps
    /// with the label `asks`, so that nothing else of the cluster depends on them.
    pub fn manifests(&self) -> String {
        let own = format!("url: \"https://{}/\", caBundle: {}", self.address, self.authority);
        let nobody = "service: {namespace: default, name: nobody}";
        [("gnomes", own.as_str()), ("nobody", nobody)]
            .map(|(name, client)| {
                format!(
                    "---\napiVersion: admissionregistration.k8s.io/v1\n\
                     kind: ValidatingWebhookConfiguration\nmetadata: {{name: {name}}}\nwebhooks:\n\
                     - name: {name}.lab.example\n  failurePolicy: Fail\n  sideEffects: None\n  \
                     admissionReviewVersions: [v1]\n  timeoutSeconds: 5\n  \
                     objectSelector: {{matchLabels: {{asks: {name}}}}}\n  clientConfig: {{{client}}}\n  \
                     rules: [{{apiGroups: [\"\"], apiVersions: [v1], resources: [configmaps], \
                     operations: [CREATE, UPDATE]}}]\n"
                )
            })
            .concat()
    }
}

/// The label `refuse` says what is refused: everything, or only what is not a dry run; `fail`
/// makes the webhook fail then.
async fn review(
    State(lenient): State<Arc<AtomicBool>>,
    Json(review): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let request = &review["request"];
    let is_dry = request["dryRun"] == true;
    let wish = request["object"]["metadata"]["labels"]["refuse"].as_str().unwrap_or_default();
    let allowed = lenient.load(Ordering::Relaxed)
        || match wish {
            "always" => false,
            "later" => is_dry,
            "fail" if !is_dry => return Err(StatusCode::SERVICE_UNAVAILABLE),
            _ => true,
        };
    Ok(Json(json!({
        "apiVersion": review["apiVersion"],
        "kind": "AdmissionReview",
        "response": {
            "uid": request["uid"],
            "allowed": allowed,
            "status": {"code": 403, "message": WORDS},
        },
    })))
}

struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((tcp, address)) = self.tcp.accept().await else { continue };
            if let Ok(tls) = self.tls.accept(tcp).await {
                return (tls, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
