use super::*;
use crate::nodes::client::{Address, Call, Client, Http};
use crate::nodes::cluster::fake::Fake;
use crate::nodes::model::{NodeView, Readiness};
use crate::nodes::outside;
use crate::nodes::service::LockSettings;
use crate::paths::ClusterPaths;
use axum::body::Body as HttpBody;
use axum::http::Request;
use http_body_util::BodyExt;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tower::ServiceExt;

fn lock() -> Arc<RebootLock<Fake>> {
    let fake = Fake::default();
    fake.world().nodes = ["n1", "n2"]
        .map(|name| NodeView {
            name: name.into(),
            readiness: Readiness::Ready,
            ..NodeView::default()
        })
        .to_vec();
    Arc::new(RebootLock::new(Arc::new(fake), LockSettings::default()))
}

struct Reply {
    status: u16,
    problem: Option<Problem>,
    retry_after: Option<String>,
}

async fn send(router: &Router, request: Request<HttpBody>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Reply { status, problem: serde_json::from_slice(&body).ok(), retry_after }
}

fn post(path: &str, body: impl Into<HttpBody>) -> Request<HttpBody> {
    Request::post(path).header(PROTOCOL_HEADER, "true").body(body.into()).unwrap()
}

fn params(id: &str, group: &str) -> String {
    serde_json::json!({"client_params": {"id": id, "group": group}}).to_string()
}

#[tokio::test]
async fn the_protocol_by_the_book() {
    let router = router(lock(), None);
    let good = params("n1", "default");
    assert_eq!(send(&router, post("/v1/pre-reboot", good.clone())).await.status, 200);
    assert_eq!(send(&router, post("/v1/pre-reboot", good.clone())).await.status, 200);
    let other = send(&router, post("/v1/pre-reboot", params("n2", "default"))).await;
    assert_eq!((other.status, other.retry_after.as_deref()), (409, Some("15")));
    let problem = other.problem.unwrap();
    assert_eq!(problem.kind, "failed_lock_semaphore_full");
    assert_eq!(problem.value, "node n1 has the reboot lock");
    assert_eq!(send(&router, post("/v1/steady-state", params("n2", "default"))).await.status, 200);
    assert_eq!(send(&router, post("/v1/steady-state", good)).await.status, 200);
    let more = r#"{"client_params":{"id":"n2","group":"default","more":1},"else":[]}"#;
    assert_eq!(send(&router, post("/v1/pre-reboot", more)).await.status, 200);
}

#[tokio::test]
async fn bad_input_is_told_apart_and_changes_nothing() {
    let lock = lock();
    let router = router(Arc::clone(&lock), None);
    let good = params("n1", "default");
    let long = "x".repeat(BODY_LIMIT + 1);
    let no_header = Request::post("/v1/pre-reboot").body(HttpBody::from(good.clone())).unwrap();
    let false_header = Request::post("/v1/pre-reboot").header(PROTOCOL_HEADER, "false");
    let get = Request::get("/v1/pre-reboot").header(PROTOCOL_HEADER, "true");
    for (request, status, kind) in [
        (no_header, 400, "bad_header"),
        (false_header.body(HttpBody::from(good.clone())).unwrap(), 400, "bad_header"),
        (get.body(HttpBody::empty()).unwrap(), 405, "method_not_allowed"),
        (post("/v1/reboot", good.clone()), 404, "not_found"),
        (post("/v1/pre-reboot/", good.clone()), 404, "not_found"),
        (post("/", good), 404, "not_found"),
        (post("/v1/pre-reboot", ""), 400, "bad_request"),
        (post("/v1/pre-reboot", "{}"), 400, "bad_request"),
        (post("/v1/pre-reboot", "[1]"), 400, "bad_request"),
        (post("/v1/pre-reboot", vec![0xffu8, 0xfe]), 400, "bad_request"),
        (post("/v1/pre-reboot", params("", "default")), 400, "bad_request"),
        (post("/v1/pre-reboot", params("n1", "")), 400, "bad_request"),
        (post("/v1/pre-reboot", params(&"n".repeat(254), "default")), 400, "bad_request"),
        (post("/v1/pre-reboot", params("n1", "workers")), 400, "unknown_group"),
        (post("/v1/pre-reboot", params("n1", "../x")), 400, "unknown_group"),
        (post("/v1/pre-reboot", params("n9", "default")), 404, "unknown_node"),
        (post("/v1/pre-reboot", long), 413, "body_too_large"),
    ] {
        let shown = format!("{} {}", request.method(), request.uri());
        let reply = send(&router, request).await;
        let problem = reply.problem.unwrap_or_else(|| panic!("{shown}: no problem"));
        assert_eq!((reply.status, problem.kind.as_str()), (status, kind), "{shown}");
        assert!(!problem.value.is_empty());
    }
    assert_eq!(lock.holders().await.unwrap(), []);
}

#[tokio::test]
async fn a_network_face_asks_for_the_key() {
    let key = Key::of_site("K10abc::server:secret");
    assert!(!format!("{key:?}").contains(key.text()));
    assert_ne!(key.text(), Key::of_site("K10abc::server:other").text());
    let router = router(lock(), Some(key.clone()));
    let with = |value: String| {
        let mut request = post("/v1/pre-reboot", params("n1", "default"));
        request.headers_mut().insert(header::AUTHORIZATION, value.parse().unwrap());
        request
    };
    let basic = |text: String| with(format!("Basic {}", STANDARD.encode(text)));
    let without = send(&router, post("/v1/pre-reboot", params("n1", "default"))).await;
    assert_eq!(without.status, 401);
    for wrong in [
        with("Bearer wrong".into()),
        with("Bearer ".into()),
        with("Basic %%%".into()),
        basic(key.text().into()),
        with(format!("Digest {}", key.text())),
    ] {
        assert_eq!(send(&router, wrong).await.problem.unwrap().kind, "unauthorized");
    }
    assert_eq!(send(&router, with(format!("Bearer {}", key.text()))).await.status, 200);
    assert_eq!(send(&router, basic(format!("zincati:{}", key.text()))).await.status, 200);
}

/// A server's certificate and a node's kubeconfig, as k3s keeps them.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap())
                .unwrap();
        let leaf = rcgen::KeyPair::generate().unwrap();
        let names = vec!["kubernetes.default.svc".to_owned()];
        let certificate =
            rcgen::CertificateParams::new(names).unwrap().signed_by(&leaf, &authority).unwrap();
        let site = Site(tempfile::tempdir().unwrap());
        let write = |path: &Path, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            holdfast_durable::write(path, text.as_bytes(), 0o600).unwrap();
        };
        let tls = site.paths().data_dir().join("server/tls");
        write(&tls.join("serving-kube-apiserver.crt"), &certificate.pem());
        write(&tls.join("serving-kube-apiserver.key"), &leaf.serialize_pem());
        let authority = STANDARD.encode(authority.pem());
        let kubeconfig = format!(
            "clusters: [{{name: a, cluster: {{server: 'https://10.0.0.1:6443', \
             certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: a, user: {{token: t}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        );
        write(&site.kubeconfig(), &kubeconfig);
        site
    }

    fn paths(&self) -> ClusterPaths {
        ClusterPaths::new(&holdfast_api::paths::Root::new(self.0.path()))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.0.path().join("kubelet.kubeconfig")
    }
}

#[tokio::test]
async fn our_own_client_speaks_it_over_both_kinds_of_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("fleetlock.sock");
    let key = Key::of_site("token");
    let lock = lock();
    let local = tokio::net::UnixListener::bind(&socket).unwrap();
    let site = Site::new();
    let wide = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = wide.local_addr().unwrap();
    let face = router(Arc::clone(&lock), Some(key.clone()));
    let faces = [
        tokio::spawn(async { axum::serve(local, router(lock, None)).await.unwrap() }),
        tokio::spawn(outside::serve(wide, site.paths(), face)),
    ];
    let nobody = Http { address: Address::Unix(dir.path().join("none")), key: None };
    let first = Client::new(
        "n1",
        "default",
        vec![nobody, Http { address: Address::Unix(socket), key: None }],
    );
    let second = |kubeconfig: &Path, key| {
        let server = outside::Server { address, kubeconfig: kubeconfig.to_owned() };
        Client::new("n2", "default", vec![Http { address: Address::Tcp(server), key }])
    };
    let (ours, theirs) = (site.kubeconfig(), Site::new());
    first.ask(Call::PreReboot).await.unwrap();
    let refusal = second(&ours, Some(key.clone())).ask(Call::PreReboot).await.unwrap_err();
    assert_eq!(refusal, Refusal::new(Kind::Locked, "node n1 has the reboot lock"));
    let refusal = second(&ours, None).ask(Call::PreReboot).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::Unauthorized);
    let stranger = second(&theirs.kubeconfig(), Some(key.clone()));
    let refusal = stranger.ask(Call::PreReboot).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::Unavailable, "a server of another site gets no key");
    std::fs::remove_dir_all(site.paths().data_dir()).unwrap();
    let refusal = second(&ours, Some(key)).ask(Call::PreReboot).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::Unavailable, "without a certificate nothing is answered");
    first.ask(Call::SteadyState).await.unwrap();
    faces.iter().for_each(tokio::task::JoinHandle::abort);
}

proptest! {
    /// Whatever is sent: an answer, a refusal with a kind from the list, and no lock.
    #[test]
    fn arbitrary_bodies_are_refused(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..BODY_LIMIT * 2),
            "\\PC{0,200}".prop_map(String::into_bytes),
            ("\\PC{0,20}", "\\PC{0,20}").prop_map(|(id, group)| params(&id, &group).into_bytes()),
            "(\\{|\\}|\\[|\\]|\"client_params\"|\"id\"|:|,|\"n1\"|null|1){0,20}".prop_map(String::into_bytes),
        ],
        header in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lock = lock();
            let router = router(Arc::clone(&lock), None);
            let mut request = post("/v1/pre-reboot", body);
            if !header {
                request.headers_mut().remove(PROTOCOL_HEADER);
            }
            let reply = send(&router, request).await;
            let problem = reply.problem.unwrap();
            let kind = Kind::from_code(&problem.kind).unwrap();
            assert_eq!(kind.status(), reply.status);
            assert_eq!(lock.holders().await.unwrap(), []);
        });
    }
}

#[test]
fn the_key_is_the_one_that_the_documentation_makes() {
    // printf %s 'holdfast reboot lock' | openssl dgst -sha256 -hmac a-secret
    let key = "37a33fadf0a1105caf02bd62129b5569dd5f79bbff5102273b52b07ca646fbac";
    assert_eq!(Key::of_site("a-secret").text(), key);
}
