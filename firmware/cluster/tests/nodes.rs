//! A server and an agent: drained under the lock and back, held by a budget, vanished in the
//! middle of a drain, removed, replaced.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod nodes_common;

use bytes::Bytes;
use holdfast_api::Reason;
use holdfast_cluster::nodes::client::{Call, Client, Http, NoAnswer, Transport};
use holdfast_cluster::nodes::cluster::Cluster;
use holdfast_cluster::nodes::drain::DrainSettings;
use holdfast_cluster::nodes::fleetlock::Key;
use holdfast_cluster::nodes::leader::{LeaderLock, Leadership};
use holdfast_cluster::nodes::model::NodeView;
use holdfast_cluster::nodes::reboot::{Journal, Purpose, RebootSettings, State};
use holdfast_cluster::nodes::refusal::{Kind, Refusal};
use holdfast_cluster::nodes::removal::Removal;
use holdfast_cluster::nodes::replace::{Plan, Wanted};
use holdfast_cluster::nodes::service::{Group, LockSettings, RebootLock};
use holdfast_cluster::nodes::turn::Turn;
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec, REGISTRY};
use nodes_common::{PATIENCE, client, cluster, first, serve, to, until};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn manifests(image: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {image}
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: data-plane, annotations: {{holdfast.dev/data-plane: "true"}}}}
spec:
  selector: {{matchLabels: {{app: data-plane}}}}
  template:
    metadata: {{labels: {{app: data-plane}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: web, image: "{image}"}}]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec:
  minAvailable: 1
  selector: {{matchLabels: {{app: web}}}}
"#
    )
}

/// A pod of the agent that does not end when it is asked to.
fn stubborn(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: stubborn}}\nspec:\n  nodeName: node2\n  \
         terminationGracePeriodSeconds: 100\n  containers:\n  - name: stubborn\n    \
         image: {image}\n    command: [/bin/sleep, '1000']\n"
    )
}

/// The pods of the Deployment or the DaemonSet on a node.
async fn pods(cluster: &impl Cluster, node: &str, app: &str) -> usize {
    let pods = cluster.pods_on(node).await.unwrap();
    pods.iter().filter(|pod| pod.labels.get("app").is_some_and(|label| label == app)).count()
}

async fn node(cluster: &impl Cluster, name: &str) -> Option<NodeView> {
    cluster.nodes().await.unwrap().into_iter().find(|node| node.name == name)
}

/// What a node's manager says to the lock, with what it was refused for.
#[derive(Clone)]
struct Heard {
    http: Http,
    refused: Arc<Mutex<Vec<Kind>>>,
}

impl Transport for Heard {
    async fn post(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), NoAnswer> {
        let answer = self.http.post(path, body).await;
        if let (true, Ok((_, said))) = (path == Call::PreReboot.path(), &answer) {
            let said: serde_json::Value = serde_json::from_slice(said).unwrap_or_default();
            let kind = said["kind"].as_str().and_then(Kind::from_code);
            self.refused.lock().unwrap().extend(kind);
        }
        answer
    }
}

fn open(journal: &Path, boot: &str) -> Journal {
    let settings = RebootSettings::default();
    let (journal, complaint) = Journal::open(journal, boot, settings, Instant::now());
    assert_eq!(complaint, None);
    journal
}

#[test]
fn nodes_take_turns_and_a_broken_one_is_replaced() {
    let Some(kubernetes) = kubernetes("nodes_take_turns_and_a_broken_one_is_replaced") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let (_switch, mut server) = first(&kubernetes, folder.path());
    let image = format!("{REGISTRY}/app:v1");
    let _registry = server.registry(&[server.web_image(&image).unwrap()]).unwrap();
    server.wait_up(PATIENCE).unwrap();
    let token = server.token().unwrap();
    let join = |place: &str, server: &Node| {
        let spec = NodeSpec::agent("node2", "10.200.0.2/24", server, &token);
        Node::start(&kubernetes, &folder.path().join(place), spec).unwrap()
    };
    let mut agent = join("2", &server);
    agent.wait_up(PATIENCE).unwrap();
    server.wait_ready("node1", PATIENCE).unwrap();
    server.wait_ready("node2", PATIENCE).unwrap();
    server.kubectl(&["cordon", "node1"]).unwrap();
    server.apply(&manifests(&image)).unwrap();
    server.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).unwrap();
    server.kubectl(&["rollout", "status", "daemonset/data-plane", "--timeout=60s"]).unwrap();
    server.kubectl(&["uncordon", "node1"]).unwrap();
    passed("two nodes and their pods are Ready");

    let key = Key::of_site(&token);
    let journal = folder.path().join("reboot.json");
    let retired = server
        .in_network(async || {
            let cluster = cluster(&server);
            let lock = Arc::new(RebootLock::new(Arc::clone(&cluster), LockSettings::default()));
            let face = serve(&server, &lock, &key).await;
            let first = client("node1", &face, &key);
            let second = client("node2", &face, &key);

            // A reboot: the pods move, one at a time, and the data plane stays.
            assert_eq!(pods(&*cluster, "node2", "web").await, 2);
            let heard = Heard { http: to(&face, &key), refused: Arc::default() };
            let manager = |boot| {
                let heard = heard.clone();
                let asks = move || Client::new("node2", "default", vec![heard.clone()]);
                Turn::start(open(&journal, boot), asks)
            };
            manager("before").take(Purpose::Reboot, PATIENCE).await.unwrap();
            let seen = heard.refused.lock().unwrap().clone();
            assert!(
                seen.iter().all(|kind| [Kind::Draining, Kind::DrainBlocked].contains(kind)),
                "{seen:?}"
            );
            assert!(
                !seen.is_empty(),
                "a budget of one lets no two pods go within the first answer"
            );
            assert_eq!(pods(&*cluster, "node2", "web").await, 0);
            assert_eq!(pods(&*cluster, "node2", "data-plane").await, 1);
            assert!(node(&*cluster, "node2").await.unwrap().cordoned_by_us);
            passed("the agent is drained and has the lock");
            let refusal = first.ask(Call::PreReboot).await.unwrap_err();
            assert_eq!(refusal, Refusal::new(Kind::Locked, "node node2 has the reboot lock"));
            first.ask(Call::SteadyState).await.unwrap();
            assert_eq!(lock.holders().await.unwrap(), [(Group::default(), "node2".into())]);
            let booted = manager("after");
            until("the node gives the lock back by itself", async || {
                match open(&journal, "after").machine().state() {
                    State::Idle => Ok(()),
                    state => Err(state.clone()),
                }
            })
            .await;
            drop(booted);
            let view = node(&*cluster, "node2").await.unwrap();
            assert!(!view.unschedulable && !view.cordoned_by_us);
            assert_eq!(lock.holders().await.unwrap(), []);
            passed("it is back and takes pods");

            // A budget that lets no pod go: named, then given up.
            let strict = r#"{"spec":{"minAvailable":2}}"#;
            server.kubectl(&["patch", "poddisruptionbudget", "web", "--patch", strict]).unwrap();
            until("the budget lets nobody go", async || {
                match cluster.budgets().await.unwrap().iter().all(|budget| budget.allowed == 0) {
                    true => Ok(()),
                    false => Err("not yet"),
                }
            })
            .await;
            let drain =
                DrainSettings { deadline: Duration::from_secs(10), ..DrainSettings::default() };
            let settings = LockSettings { drain, ..LockSettings::default() };
            let impatient = Arc::new(RebootLock::new(Arc::clone(&cluster), settings));
            let face = serve(&server, &impatient, &key).await;
            let blocked = until("the budget is named", async || {
                let refusal = client("node1", &face, &key).ask(Call::PreReboot).await.unwrap_err();
                match refusal.reason() {
                    Reason::NodeDrainBlocked => Ok(refusal),
                    _ => Err(refusal),
                }
            })
            .await;
            assert!(
                blocked.message.contains("budget default/web does not let pod default/web-"),
                "{blocked}"
            );
            let late = until("the drain is given up", async || {
                let refusal = client("node1", &face, &key).ask(Call::PreReboot).await.unwrap_err();
                match refusal.kind {
                    Kind::DrainTimeout => Ok(refusal),
                    _ => Err(refusal),
                }
            })
            .await;
            assert!(late.message.contains("default/web-"), "{late}");
            assert!(!node(&*cluster, "node1").await.unwrap().unschedulable);
            assert_eq!(lock.holders().await.unwrap(), []);
            assert_eq!(pods(&*cluster, "node1", "web").await, 2);
            passed("a strict budget is named, and the server takes pods again");

            // An operator's cordon outlives a reboot.
            server.kubectl(&["cordon", "node2"]).unwrap();
            until("the lock is granted", async || second.ask(Call::PreReboot).await).await;
            second.ask(Call::SteadyState).await.unwrap();
            assert!(node(&*cluster, "node2").await.unwrap().unschedulable);
            server.kubectl(&["uncordon", "node2"]).unwrap();

            // One manager leads.
            let mut one = LeaderLock::of_releases(Arc::clone(&cluster), "node1");
            let mut other = LeaderLock::of_releases(Arc::clone(&cluster), "node2");
            assert!(matches!(one.attempt().await.unwrap(), Leadership::Ours { .. }));
            assert!(matches!(one.attempt().await.unwrap(), Leadership::Ours { .. }));
            let leader = other.attempt().await.unwrap();
            assert!(matches!(&leader, Leadership::Others { holder, .. } if holder == "node1"));
            one.give_back().await.unwrap();
            assert!(matches!(other.attempt().await.unwrap(), Leadership::Ours { .. }));
            passed("one manager leads");

            // The agent vanishes in the middle of its drain: nobody ends its pod any more.
            server.apply(&stubborn(&image)).unwrap();
            server
                .kubectl(&["wait", "--timeout=300s", "--for=condition=Ready", "pod/stubborn"])
                .unwrap();
            let node2 = client("node2", &face, &key);
            let refusal = node2.ask(Call::PreReboot).await.unwrap_err();
            assert_eq!(refusal.kind, Kind::Draining, "{refusal}");
            assert_eq!(lock.holders().await.unwrap(), [(Group::default(), "node2".into())]);
            assert_eq!(agent.kill(), [] as [String; 0]);
            let late = until("the drain is given up", async || {
                let refusal = node2.ask(Call::PreReboot).await.unwrap_err();
                match refusal.kind {
                    Kind::DrainTimeout => Ok(refusal),
                    _ => Err(refusal),
                }
            })
            .await;
            assert_eq!(late.reason(), Reason::NodeDrainTimeout);
            assert!(late.message.contains("default/stubborn"), "{late}");
            assert!(!node(&*cluster, "node2").await.unwrap().unschedulable);
            assert_eq!(lock.holders().await.unwrap(), []);
            passed("the drain of a node that vanished is given up, and the lock is free");

            // It is dead, and has the lock once more.
            let refusal = second.ask(Call::PreReboot).await.unwrap_err();
            assert_eq!(refusal.kind, Kind::Draining, "{refusal}");
            assert_eq!(lock.holders().await.unwrap(), [(Group::default(), "node2".into())]);
            let removal = Removal::new(Arc::clone(&cluster), lock, "node1");
            removal.retire("node2").await.unwrap().unwrap()
        })
        .unwrap();
    let wanted = Wanted {
        names: ["node1".to_owned(), "node2".to_owned()].into(),
        retired: [retired].into(),
    };
    server
        .in_network(async || {
            let cluster = cluster(&server);
            let lock = Arc::new(RebootLock::new(Arc::clone(&cluster), LockSettings::default()));
            let mut removal = Removal::new(Arc::clone(&cluster), Arc::clone(&lock), "node1");
            let plan = removal.pass(&wanted, Instant::now()).await.unwrap();
            assert_eq!(plan.steps.len(), 3, "{plan:?}");
            assert_eq!(lock.holders().await.unwrap(), []);
            until("the node and its pods are gone", async || {
                let left = cluster.pods_on("node2").await.unwrap().len();
                match node(&*cluster, "node2").await {
                    None if left == 0 => Ok(()),
                    there => Err((there, left)),
                }
            })
            .await;
        })
        .unwrap();
    passed("the dead agent is removed, its lock is free");

    let mut agent = join("new", &server);
    agent.wait_up(PATIENCE).unwrap();
    server.wait_ready("node2", PATIENCE).unwrap();
    server
        .in_network(async || {
            let cluster = cluster(&server);
            let lock = Arc::new(RebootLock::new(Arc::clone(&cluster), LockSettings::default()));
            let mut removal = Removal::new(Arc::clone(&cluster), lock, "node1");
            assert_eq!(removal.pass(&wanted, Instant::now()).await.unwrap(), Plan::default());
            until("the new agent has its data plane", async || {
                match pods(&*cluster, "node2", "data-plane").await {
                    1 => Ok(()),
                    other => Err(other),
                }
            })
            .await;
        })
        .unwrap();
    passed("another one of the same name is there, and stays");
    assert_eq!(agent.stop().unwrap(), [] as [String; 0]);
    assert_eq!(server.stop().unwrap(), [] as [String; 0]);
}
