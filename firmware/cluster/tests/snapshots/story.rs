//! One datastore and what becomes of it: snapshots, the storage, other hardware, a drill, a power
//! cut. All of it in a network namespace of the test's own thread.

use crate::node::{Server, Supervised};
use crate::s3::S3;
use crate::store::target;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{Secret, SnapshotPolicy, SnapshotsState};
use holdfast_cluster::snapshots::service::{Automatic, Task};
use holdfast_cluster::snapshots::{
    Distribution, Handle, Settings, SnapshotError, Source, Why, start,
};
use holdfast_lab_kubernetes::asked;
use holdfast_lab_kubernetes::find::Kubernetes;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(120);

/// What `test` needs besides a Kubernetes: age, and a Kubernetes that takes a root of its own.
fn kubernetes(test: &str) -> Option<Kubernetes> {
    let kubernetes = asked::kubernetes(test)?;
    if kubernetes.is_real() {
        eprintln!(
            "skipped: {test}: it runs two datastores on one machine, and a real k3s cannot be given a root of its own"
        );
        return None;
    }
    if Command::new("age").arg("--version").output().is_err() {
        eprintln!("skipped: {test}: it needs Debian's package age");
        return None;
    }
    Some(kubernetes)
}

/// A network of this thread, and of all that it starts.
fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for words in [
        "link set lo up",
        "link add node0 type bridge",
        "addr add 10.201.0.1/24 dev node0",
        "link set node0 up",
        "route add default dev node0",
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    }
}

fn age_key(dir: &Path) -> (Secret, String) {
    let identity = dir.join("recovery.key");
    let made = Command::new("age-keygen").arg("-o").arg(&identity).output().unwrap();
    assert!(made.status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&identity).output().unwrap();
    let secret = Secret(std::fs::read_to_string(&identity).unwrap());
    (secret, String::from_utf8(public.stdout).unwrap().trim().into())
}

/// A node with its server and the task that keeps its snapshots.
struct Node {
    server: Arc<Server>,
    snapshots: Handle,
    _task: Task,
}

impl Node {
    fn new(kubernetes: &Kubernetes, dir: &Path, name: &str, policy: &SnapshotPolicy) -> Self {
        let server = Server::new(kubernetes, dir);
        let settings = Settings {
            paths: server.paths.clone(),
            site: "site-1".into(),
            node: name.into(),
            single_server: true,
            other_servers: Vec::new(),
            policy: policy.clone(),
        };
        let (snapshots, task) = start(settings, Arc::new(Supervised(server.clone())));
        Node { server, snapshots, _task: task }
    }

    async fn ready(&self) {
        Supervised(self.server.clone()).wait_ready(READY).await.unwrap();
    }

    async fn value(&self) -> Result<String, String> {
        self.server.kubectl(&["get", "configmap", "story", "-o", "jsonpath={.data.value}"]).await
    }

    async fn set(&self, value: &str) {
        let patch = format!("{{\"data\":{{\"value\":\"{value}\"}}}}");
        self.server.kubectl(&["patch", "configmap", "story", "-p", &patch]).await.unwrap();
    }

    /// The state once it is as it should be.
    async fn state(&self, what: &str, is: impl Fn(&SnapshotsState) -> bool) -> SnapshotsState {
        let mut state = self.snapshots.state();
        let seen = tokio::time::timeout(READY, state.wait_for(|state| is(state))).await;
        match seen {
            Ok(Ok(state)) => state.clone(),
            _ => panic!("not: {what}: {:?}", self.snapshots.state().borrow().clone()),
        }
    }
}

#[test]
fn a_datastore_is_kept_through_restores_other_hardware_and_a_power_cut() {
    let Some(kubernetes) =
        kubernetes("a_datastore_is_kept_through_restores_other_hardware_and_a_power_cut")
    else {
        return;
    };
    own_network();
    let _log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(story(&kubernetes));
}

async fn story(kubernetes: &Kubernetes) {
    let began = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", began.elapsed().as_secs_f64());
    let dir = tempfile::tempdir().unwrap();
    let (identity, public) = age_key(dir.path());
    let storage = S3::start().await;
    let policy = SnapshotPolicy {
        s3: Some(target(&storage)),
        recovery_key: Some(public),
        drill_hours: 0,
        ..SnapshotPolicy::default()
    };

    let node = Node::new(kubernetes, &dir.path().join("1"), "node1", &policy);
    node.server.start();
    node.ready().await;
    node.server
        .kubectl(&["create", "configmap", "story", "--from-literal=value=first"])
        .await
        .unwrap();
    passed("the server is up");

    // A node is down for a reboot while the snapshot is taken.
    node.server.kubectl(&["create", "namespace", "holdfast-system"]).await.unwrap();
    let lease = dir.path().join("lease.json");
    let text = r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {
        "name": "holdfast-reboot", "namespace": "holdfast-system"}, "spec": {"holderIdentity": "n2"}}"#;
    holdfast_durable::write(&lease, text.as_bytes(), 0o600).unwrap();
    node.server.kubectl(&["create", "-f", lease.to_str().unwrap()]).await.unwrap();

    let release = Why::Release("edge v1".into());
    let first = node.snapshots.take_now(release).await.unwrap();
    passed("a snapshot is taken");
    let stored = node
        .state("the snapshot is stored", |state| state.snapshots.iter().any(|one| one.portable))
        .await;
    assert_eq!(stored.problem, None);
    let object = format!("node1/{}.tar.gz.age", first.name);
    assert_eq!(storage.keys(), [format!("fleet/a b/site-1/{object}")]);
    passed("it is in the storage");

    let drill = node.snapshots.drill_now().await.unwrap();
    assert!(drill.ok, "{}", drill.message);
    assert_eq!(drill.snapshot, first.name);
    assert!(drill.message.contains("objects in 5 namespaces"), "{}", drill.message);
    passed(&format!("a drill: {}", drill.message));
    assert_eq!(node.value().await.unwrap(), "first", "the site's own is untouched");

    node.set("second").await;
    let torn = dir.path().join("torn");
    let whole = std::fs::read(node.server.paths.snapshot_dir().join(&first.name)).unwrap();
    holdfast_durable::write(&torn, &whole[..whole.len() - 512], 0o600).unwrap();
    let refused = node.snapshots.restore(Source::File(torn)).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Damaged { .. }), "{refused}");
    assert_eq!(node.value().await.unwrap(), "second", "nothing was touched");

    let restored = node.snapshots.restore(Source::Local(first.name.clone())).await.unwrap();
    assert_eq!(restored.snapshot, first.name);
    assert_eq!(node.value().await.unwrap(), "first");
    let holder = ["-n", "holdfast-system", "get", "lease", "holdfast-reboot", "-o"];
    let holder = [&holder[..], &["jsonpath={.spec.holderIdentity}"]].concat();
    assert_eq!(node.server.kubectl(&holder).await.unwrap(), "", "that reboot is of another time");
    passed(&format!("restored in {} ms", restored.took_ms));

    // A power cut tears the datastore.
    node.server.stop();
    let database = node.server.paths.data_dir().join("server/db/etcd/member/snap/db");
    holdfast_durable::write(&database, b"torn by a power cut", 0o600).unwrap();
    node.server.start();
    let up = Supervised(node.server.clone()).wait_ready(Duration::from_secs(30)).await;
    assert!(up.is_err(), "etcd took the torn database");
    passed("the datastore is damaged");
    let came = node.snapshots.datastore_damaged().await.unwrap();
    assert!(matches!(&came, Automatic::Restored(one) if one.snapshot == first.name), "{came:?}");
    assert_eq!(node.value().await.unwrap(), "first");
    passed("the manager restored it");
    let token = node.server.paths.data_dir().join("server/token");
    let token = std::fs::read(token).unwrap();
    node.server.stop();

    // The machine is lost; another one, with nothing but the storage and the recovery key.
    let other = Node::new(kubernetes, &dir.path().join("2"), "node2", &policy);
    let listed = other.snapshots.stored().await.unwrap();
    assert_eq!(listed[0].name, object);
    let (wrong, _) = age_key(&dir.path().join("1"));
    let source =
        |identity: &Secret| Source::Stored { object: object.clone(), identity: identity.clone() };
    let refused = other.snapshots.restore(source(&wrong)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::SnapshotWrongKey, "{refused}");
    other.server.has_token("of-a-site-that-was-made-anew");
    let refused = other.snapshots.restore(source(&identity)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::SnapshotOtherToken, "{refused}");
    other.server.has_token("the-site's-token");
    // The site had several servers; this one is to join one that is no more.
    other.server.joins("https://10.201.0.2:6443");
    let restored = other.snapshots.restore(source(&identity)).await.unwrap();
    assert_eq!(restored.snapshot, first.name);
    assert_eq!(other.value().await.unwrap(), "first");
    let same = std::fs::read(other.server.paths.data_dir().join("server/token")).unwrap();
    assert!(same == token, "it is the same cluster");
    passed("the site runs on other hardware");
    other.server.stop();
}
