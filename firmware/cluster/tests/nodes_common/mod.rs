//! What the stories about nodes share: a Kubernetes if one is asked for, and a seat inside a node.

use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::client::{Address, Client, Http};
use holdfast_cluster::nodes::fleetlock::{self, Key};
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::service::RebootLock;
use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::node::Node;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything of a cluster may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Whoever sets it has time to build Kubernetes, and lets these tests run one at a time.
const ASKED: &str = "HOLDFAST_TEST_KUBERNETES";

pub(crate) fn kubernetes() -> Option<Kubernetes> {
    if std::env::var_os(ASKED).is_none() {
        eprintln!("skipped: it runs a whole Kubernetes: {ASKED}=1 asks for it");
        return None;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: it needs root");
        return None;
    }
    match Kubernetes::find_or_build(&mut |progress| eprintln!("{progress}")) {
        Ok(kubernetes) => Some(kubernetes),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Does `work` in a thread that is in the node's network, where its API server is.
pub(crate) fn inside<T: Send, F: Future<Output = T>>(
    node: &Node,
    work: impl FnOnce() -> F + Send,
) -> T {
    let network = File::open(format!("/proc/{}/ns/net", node.pid().unwrap())).unwrap();
    let thread = || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    };
    std::thread::scope(|scope| match scope.spawn(thread).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

pub(crate) fn cluster(node: &Node) -> Arc<KubeCluster> {
    let kubeconfig = node.state().join("etc/rancher/k3s/k3s.yaml");
    Arc::new(KubeCluster::new(Api::connect(&kubeconfig).unwrap()))
}

/// The lock's network face, as a manager serves it.
pub(crate) async fn serve(lock: &Arc<RebootLock<KubeCluster>>, key: &Key) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = fleetlock::router(Arc::clone(lock), Some(key.clone()));
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

pub(crate) fn client(id: &str, address: SocketAddr, key: &Key) -> Client<Http> {
    let server = Http { address: Address::Tcp(address), key: Some(key.clone()) };
    Client::new(id, "default", vec![server])
}

/// Tries until it succeeds.
pub(crate) async fn until<T, E: std::fmt::Debug>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(last) => assert!(Instant::now() < deadline, "not: {what}: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
