//! Nodes, pods and disruption budgets, reduced to what decides about draining and removal.
//!
//! Read from the API server's JSON; what is unknown there is ignored, and what is missing has the
//! value that asks for the least (a node without conditions is not Ready).

use holdfast_api::marks;
use ring::hmac;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Annotation of a Node that Holdfast cordoned; only such a one is uncordoned by it.
pub const CORDONED_BY_ANNOTATION: &str = "holdfast.dev/cordoned-by";
/// The value of [`CORDONED_BY_ANNOTATION`].
pub const CORDONED_BY: &str = "holdfast";
/// Labels of nodes that hold the datastore or the API server (k3s sets all three on a server with
/// etcd; older versions lack `control-plane`).
const SERVER_LABELS: [&str; 3] = [
    "node-role.kubernetes.io/etcd",
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];
/// Annotation of pods that mirror a static pod (Kubernetes: `kubernetes.io/config.mirror`).
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What a Node says of itself in its `Ready` condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Readiness {
    /// `True`.
    Ready,
    /// `False`: the kubelet speaks and is not well.
    NotReady,
    /// `Unknown`, or no such condition: the kubelet does not speak.
    #[default]
    Unknown,
}

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Uid: another one is another machine, or the same one registered anew.
    pub uid: String,
    /// `status.nodeInfo.machineID` and `systemUUID`, by which other FleetLock clients may call it,
    /// and what Zincati makes of the first.
    pub other_ids: BTreeSet<String>,
    /// Takes no new pods.
    pub unschedulable: bool,
    /// Cordoned by Holdfast, not by an operator.
    pub cordoned_by_us: bool,
    /// The `Ready` condition.
    pub readiness: Readiness,
    /// Holds the datastore or the API server.
    pub server: bool,
    /// Is being deleted.
    pub deleting: bool,
}

impl NodeView {
    /// Reads a Node.
    pub fn of(node: &Value) -> Self {
        let meta = &node["metadata"];
        let info = &node["status"]["nodeInfo"];
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready")
            .map_or(Readiness::Unknown, |condition| match condition["status"].as_str() {
                Some("True") => Readiness::Ready,
                Some("False") => Readiness::NotReady,
                _ => Readiness::Unknown,
            });
        NodeView {
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            other_ids: ["machineID", "systemUUID"]
                .iter()
                .map(|key| text(&info[key]))
                .filter(|id| !id.is_empty())
                .chain(info["machineID"].as_str().and_then(zincati_id))
                .collect(),
            unschedulable: node["spec"]["unschedulable"].as_bool().unwrap_or_default(),
            cordoned_by_us: meta["annotations"][CORDONED_BY_ANNOTATION] == CORDONED_BY,
            readiness: ready,
            server: SERVER_LABELS.iter().any(|label| meta["labels"].get(label).is_some()),
            deleting: !meta["deletionTimestamp"].is_null(),
        }
    }

    /// Ready, and takes pods.
    pub fn takes_pods(&self) -> bool {
        self.readiness == Readiness::Ready && !self.unschedulable && !self.deleting
    }
}

/// What Zincati calls a machine unless it is told otherwise (coreos.github.io/zincati, "Agent
/// identity"): the machine id made its own, HMAC-SHA256 of the program's id keyed with the
/// machine's, as a UUID of version 4 (sd_id128_get_machine_app_specific(3)).
fn zincati_id(machine_id: &str) -> Option<String> {
    /// The program's id, out of Zincati's `src/identity/mod.rs`.
    const ZINCATI: u128 = 0xde35_106b_6ec2_4688_b63a_fdda_a156_679b;
    let all_hex = machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let machine = u128::from_str_radix(machine_id, 16).ok().filter(|_| all_hex)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &machine.to_be_bytes());
    let tag = hmac::sign(&key, &ZINCATI.to_be_bytes());
    let mut id: [u8; 16] = *tag.as_ref().first_chunk()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Some(holdfast_api::hex(&id))
}

/// What identifies a pod; a new pod of the same name is another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodView {
    /// Which.
    pub pod: PodRef,
    /// Kind of what makes it anew, such as `ReplicaSet`; none when nobody does.
    pub controller: Option<String>,
    /// Mirrors a static pod, which the kubelet alone starts and ends.
    pub mirror: bool,
    /// Ended, well or not.
    pub completed: bool,
    /// Is being ended.
    pub terminating: bool,
    /// `spec.priority`.
    pub priority: i64,
    /// Labels, by which budgets choose.
    pub labels: BTreeMap<String, String>,
    /// Keeps files that end with it.
    pub empty_dir: bool,
    /// Carries the site's traffic.
    pub data_plane: bool,
}

impl PodView {
    /// Reads a pod.
    pub fn of(pod: &Value) -> Self {
        let meta = &pod["metadata"];
        let owners = meta["ownerReferences"].as_array();
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        PodView {
            pod: PodRef {
                namespace: text(&meta["namespace"]),
                name: text(&meta["name"]),
                uid: text(&meta["uid"]),
            },
            controller: owners
                .into_iter()
                .flatten()
                .find(|owner| owner["controller"] == true)
                .map(|owner| text(&owner["kind"])),
            mirror: meta["annotations"].get(MIRROR_ANNOTATION).is_some(),
            completed: matches!(phase, "Succeeded" | "Failed"),
            terminating: !meta["deletionTimestamp"].is_null(),
            priority: pod["spec"]["priority"].as_i64().unwrap_or_default(),
            labels: pairs(&meta["labels"]),
            empty_dir: pod["spec"]["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|volume| volume.get("emptyDir").is_some()),
            data_plane: meta["annotations"][marks::DATA_PLANE_ANNOTATION] == "true",
        }
    }
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.selector`; none chooses no pod, an empty one every pod of the namespace (policy/v1).
    pub selector: Option<Selector>,
    /// How many pods may go now.
    pub allowed: i64,
}

impl fmt::Display for BudgetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl BudgetView {
    /// Reads a budget.
    pub fn of(budget: &Value) -> Self {
        let selector = &budget["spec"]["selector"];
        BudgetView {
            namespace: text(&budget["metadata"]["namespace"]),
            name: text(&budget["metadata"]["name"]),
            selector: selector.is_object().then(|| Selector::of(selector)),
            allowed: budget["status"]["disruptionsAllowed"].as_i64().unwrap_or_default(),
        }
    }

    /// Whether it guards `pod`.
    pub fn guards(&self, pod: &PodView) -> bool {
        self.namespace == pod.pod.namespace
            && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }
}

/// A label selector (Kubernetes API reference: LabelSelector): all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: BTreeMap<String, String>,
    expressions: Vec<(String, String, Vec<String>)>,
}

impl Selector {
    fn of(selector: &Value) -> Self {
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        Selector {
            labels: pairs(&selector["matchLabels"]),
            expressions: expressions
                .map(|one| {
                    let values = one["values"].as_array().into_iter().flatten().map(text);
                    (text(&one["key"]), text(&one["operator"]), values.collect())
                })
                .collect(),
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|(key, operator, values)| {
                let have = labels.get(key);
                match operator.as_str() {
                    "In" => have.is_some_and(|have| values.contains(have)),
                    "NotIn" => have.is_none_or(|have| !values.contains(have)),
                    "Exists" => have.is_some(),
                    "DoesNotExist" => have.is_none(),
                    _ => false,
                }
            })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn pairs(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_read() {
        let node = NodeView::of(&json!({
            "metadata": {"name": "n1", "uid": "u1",
                "annotations": {CORDONED_BY_ANNOTATION: "holdfast"},
                "labels": {"node-role.kubernetes.io/etcd": "true"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"machineID": "m", "systemUUID": ""}},
        }));
        assert_eq!(
            node,
            NodeView {
                name: "n1".into(),
                uid: "u1".into(),
                other_ids: ["m".to_owned()].into(),
                unschedulable: true,
                cordoned_by_us: true,
                readiness: Readiness::Ready,
                server: true,
                deleting: false,
            }
        );
        assert!(!node.takes_pods());
        assert_eq!(NodeView::of(&json!({})).readiness, Readiness::Unknown);
    }

    #[test]
    fn zincati_may_call_a_node_by_its_own_id() {
        // As `systemd-id128 machine-id --app-specific=de35106b6ec24688b63afddaa156679b` says.
        let node = NodeView::of(&json!({"status": {"nodeInfo": {
            "machineID": "3d1219c7c4c5404aaa1f6d2a48adfda4"}}}));
        assert!(node.other_ids.contains("975228d46dc94622b9bbe16671e2b58d"), "{node:?}");
        for wrong in ["", "+d1219c7c4c5404aaa1f6d2a48adfda4", "3d1219c7"] {
            assert_eq!(zincati_id(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_pod_is_read() {
        let pod = PodView::of(&json!({
            "metadata": {"namespace": "a", "name": "b", "uid": "c", "labels": {"app": "x"},
                "ownerReferences": [{"kind": "Other"}, {"kind": "DaemonSet", "controller": true}],
                "annotations": {"kubernetes.io/config.mirror": "h", "holdfast.dev/data-plane": "true"},
                "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"priority": 7, "volumes": [{"emptyDir": {}}]},
            "status": {"phase": "Failed"},
        }));
        assert_eq!(pod.controller.as_deref(), Some("DaemonSet"));
        assert!(pod.mirror && pod.completed && pod.terminating && pod.empty_dir && pod.data_plane);
        assert_eq!((pod.priority, pod.pod.to_string()), (7, "a/b".into()));
    }

    #[test]
    fn budgets_choose_pods_as_kubernetes_does() {
        let pod =
            |labels: Value| PodView::of(&json!({"metadata": {"namespace": "a", "labels": labels}}));
        let budget = |selector: Value| {
            BudgetView::of(&json!({"metadata": {"namespace": "a"}, "spec": {"selector": selector}}))
        };
        let one = pod(json!({"app": "x", "tier": "front"}));
        for (selector, guards) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "x"}}), true),
            (json!({"matchLabels": {"app": "x", "tier": "back"}}), false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["x"]}]}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Later"}]}), false),
        ] {
            assert_eq!(budget(selector.clone()).guards(&one), guards, "{selector}");
        }
        let elsewhere = BudgetView { namespace: "b".into(), ..budget(json!({})) };
        assert!(!elsewhere.guards(&one));
    }
}
