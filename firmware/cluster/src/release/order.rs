//! What comes before what: the class of every kind, and what is waited for before the next class.
//!
//! The laws: a namespace comes before what is in it, a definition before what it defines,
//! configuration before the pods that read it, and what can refuse others (webhooks, aggregated
//! APIs) comes last, when what answers for it runs. Within a class the order is as written.
//! Removal goes the other way, but for custom resources ([`removal`]).

use super::model::group;
use crate::object::ObjectId;

/// When an object is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Namespaces.
    Namespace,
    /// Custom resource definitions; waited for before anything else goes on.
    Definition,
    /// Classes of priority, storage, runtime and ingress: others name them.
    Foundation,
    /// Service accounts.
    Account,
    /// Roles and their bindings.
    Rights,
    /// ConfigMaps, Secrets, quotas, budgets, policies: in force before pods are.
    Config,
    /// Volumes and claims.
    Storage,
    /// Services, before pods so that these find them in their environment.
    Service,
    /// Custom resources.
    Custom,
    /// What makes pods; waited for before what leads to them goes on.
    Workload,
    /// What leads to workloads or scales them.
    Entrance,
    /// What can refuse other requests: webhooks and aggregated APIs.
    Gate,
}

/// API groups that are Kubernetes' own; a kind of any other is a custom resource.
const BUILT_IN_GROUPS: [&str; 19] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

/// Whether Kubernetes itself brings kinds of this group.
pub fn is_built_in(group: &str) -> bool {
    BUILT_IN_GROUPS.contains(&group)
        || ["resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io"].contains(&group)
}

/// Whether a kind of Kubernetes itself belongs to the whole cluster; none for kinds that it does
/// not bring (Kubernetes API reference, `kubectl api-resources --namespaced=false`).
pub fn is_cluster_wide(id: &ObjectId) -> Option<bool> {
    let group = group(&id.api_version);
    if !is_built_in(group) {
        return None;
    }
    Some(match group {
        "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "apiregistration.k8s.io"
        | "authentication.k8s.io"
        | "certificates.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io"
        | "scheduling.k8s.io" => true,
        "storage.k8s.io" => id.kind != "CSIStorageCapacity",
        "authorization.k8s.io" => id.kind != "LocalSubjectAccessReview",
        "resource.k8s.io" => matches!(id.kind.as_str(), "DeviceClass" | "ResourceSlice"),
        "rbac.authorization.k8s.io" => id.kind.starts_with("Cluster"),
        "networking.k8s.io" => {
            matches!(id.kind.as_str(), "IngressClass" | "IPAddress" | "ServiceCIDR")
        }
        "policy" | "extensions" => id.kind == "PodSecurityPolicy",
        "" => matches!(
            id.kind.as_str(),
            "Namespace" | "Node" | "PersistentVolume" | "ComponentStatus"
        ),
        _ => false,
    })
}

/// When an object is applied.
pub fn class(id: &ObjectId) -> Class {
    let group = group(&id.api_version);
    match (group, id.kind.as_str()) {
        ("", "Namespace") => Class::Namespace,
        ("apiextensions.k8s.io", _) => Class::Definition,
        ("scheduling.k8s.io" | "storage.k8s.io" | "node.k8s.io", _)
        | ("networking.k8s.io", "IngressClass") => Class::Foundation,
        ("flowcontrol.apiserver.k8s.io", _) | ("resource.k8s.io", "DeviceClass") => {
            Class::Foundation
        }
        ("", "ServiceAccount") => Class::Account,
        ("rbac.authorization.k8s.io", _) => Class::Rights,
        ("", "PersistentVolume" | "PersistentVolumeClaim") => Class::Storage,
        ("", "Service" | "Endpoints") | ("discovery.k8s.io", _) => Class::Service,
        ("", "Pod" | "ReplicationController") | ("apps" | "batch", _) => Class::Workload,
        ("extensions", "Deployment" | "DaemonSet" | "ReplicaSet") => Class::Workload,
        ("networking.k8s.io" | "extensions", "Ingress") | ("autoscaling", _) => Class::Entrance,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => Class::Gate,
        _ if is_built_in(group) => Class::Config,
        _ => Class::Custom,
    }
}

/// When an object is removed: in reverse, and custom resources before the workloads that clear up
/// after them (kubernetes.io "Finalizers").
pub fn removal(class: Class) -> (std::cmp::Reverse<Class>, bool) {
    match class {
        Class::Custom => (std::cmp::Reverse(Class::Workload), false),
        _ => (std::cmp::Reverse(class), true),
    }
}

/// Whether an object of this kind becomes ready some time after it was applied.
pub fn has_readiness(id: &ObjectId) -> bool {
    matches!(
        (group(&id.api_version), id.kind.as_str()),
        ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch", "Job")
            | ("", "Pod" | "PersistentVolumeClaim" | "ReplicationController")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
            | ("apiregistration.k8s.io", "APIService")
    )
}

/// Which waits are made together: those of a stage come after all objects of the stage and
/// before those of the next one. Claims may be bound only when a pod needs them
/// (`WaitForFirstConsumer`), so they are waited for with the workloads.
pub fn stage(class: Class) -> u8 {
    match class {
        Class::Namespace | Class::Definition => 0,
        Class::Foundation
        | Class::Account
        | Class::Rights
        | Class::Config
        | Class::Storage
        | Class::Service
        | Class::Custom
        | Class::Workload => 1,
        Class::Entrance | Class::Gate => 2,
    }
}
