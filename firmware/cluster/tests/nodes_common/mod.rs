//! What the stories about nodes share: the lock and those who ask it.

use holdfast_api::paths::Root;
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::client::{Address, Client, Http};
use holdfast_cluster::nodes::fleetlock::{self, Key};
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::outside::{self, Server};
use holdfast_cluster::nodes::service::RebootLock;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec, Switch};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long anything of a cluster may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The first server of a site in a network of its own, not waited for.
pub(crate) fn first(kubernetes: &Kubernetes, folder: &Path) -> (Switch, Node) {
    let switch = Switch::new(kubernetes).unwrap();
    let spec = NodeSpec { switch: Some(switch.pid()), ..NodeSpec::first_server("node1") };
    let server = Node::start(kubernetes, &folder.join("1"), spec).unwrap();
    (switch, server)
}

pub(crate) fn cluster(node: &Node) -> Arc<KubeCluster> {
    Arc::new(KubeCluster::new(Api::connect(&kubeconfig(node)).unwrap()))
}

fn kubeconfig(node: &Node) -> PathBuf {
    node.state().join("etc/rancher/k3s/k3s.yaml")
}

/// The lock's network face, as the manager on `node` serves it, and as others of the site see it.
pub(crate) async fn serve(node: &Node, lock: &Arc<RebootLock<KubeCluster>>, key: &Key) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = fleetlock::router(Arc::clone(lock), Some(key.clone()));
    let paths = ClusterPaths::new(&Root::new(node.state().join("own")));
    tokio::spawn(outside::serve(listener, paths, router));
    Server { address, kubeconfig: kubeconfig(node) }
}

pub(crate) fn client(id: &str, server: &Server, key: &Key) -> Client<Http> {
    Client::new(id, "default", vec![to(server, key)])
}

pub(crate) fn to(server: &Server, key: &Key) -> Http {
    Http { address: Address::Tcp(server.clone()), key: Some(key.clone()) }
}

/// Tries until it succeeds.
pub(crate) async fn until<T, E: Debug>(
    what: &str,
    attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    holdfast_poll::until_async(what, PATIENCE, attempt).await
}
