//! What a node is to run, as the manager puts it together out of three sources: what the
//! controller asks for, what the hardware profile says, and which huge pages the kernel gave.
//!
//! A value of [`NodeWants`] was checked: what k3s or the kubelet would refuse at the start is
//! refused here, with the field's name, while the last good configuration goes on running.
//! Left out: whether the parts fit the rest of the site (the controller's business).

use super::validate;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{
    DistributionArtifact, KubernetesIntent, KubernetesRole, RegistryMirror, Secret,
};
use hw_profiles::kubernetes as rules;
use hw_profiles::profile::{Kubernetes as Profile, Taint};
use hw_profiles::{Bytes, PageSize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WantsError {
    /// Path of the field, such as `kubernetes.labels["a/b/c"]`.
    pub field: String,
    /// What is wrong with it, with the value where that is no secret.
    pub problem: String,
}

impl WantsError {
    /// The code for it.
    pub fn reason(&self) -> Reason {
        Reason::KubernetesConfigRefused
    }
}

/// What this node is to run. Made by [`NodeWants::new`] only, so that it can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeWants {
    /// Name of the node: a DNS name (RFC 1123) in lower case.
    pub node_name: String,
    /// How it takes part.
    pub role: KubernetesRole,
    /// `https://HOST:PORT` of the server to join; none for the first server.
    pub server: Option<String>,
    /// What nodes join with; empty only for a first server, which then makes one.
    pub token: Secret,
    /// The node's address; k3s finds one when absent.
    pub node_ip: Option<IpAddr>,
    /// Labels: the profile's, and over those the controller's. k3s sets them at each start and a
    /// taint when the node joins; [`crate::nodes::labels`] does the rest, so that none of them takes
    /// a restart.
    pub labels: BTreeMap<String, String>,
    /// Taints of both.
    pub taints: BTreeSet<Taint>,
    /// Parts that are left out, of both.
    pub disable: BTreeSet<String>,
    /// Processor time kept for the system, in thousandths of a core.
    pub reserved_millicores: u32,
    /// Memory kept for the system.
    pub reserved_memory: Bytes,
    /// Registry mirrors.
    pub mirrors: Vec<RegistryMirror>,
    /// Huge pages that the kernel gave, by size. The kubelet counts them when it starts, so that
    /// a change takes a restart.
    pub hugepages: BTreeMap<PageSize, u64>,
    /// The program to run. When absent, the one that ran last; the machine's own on a machine that
    /// never ran another.
    pub artifact: Option<DistributionArtifact>,
}

impl NodeWants {
    /// Puts the sources together and checks the result. `hugepages` are those that the kernel
    /// has, summed over the NUMA nodes.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn new(
        node_name: &str,
        intent: &KubernetesIntent,
        profile: &Profile,
        hugepages: BTreeMap<PageSize, u64>,
    ) -> Result<Self, WantsError> {
        validate::node_name(node_name)?;
        validate::membership(intent)?;
        let mut labels = profile.labels.clone();
        labels.extend(intent.labels.clone());
        for (key, value) in &labels {
            validate::shared(rules::label(key, value))?;
        }
        let mut taints: BTreeSet<Taint> = profile.taints.iter().cloned().collect();
        for (index, taint) in intent.taints.iter().enumerate() {
            taints.insert(validate::shared(rules::taint(index, taint))?);
        }
        let mut disable = BTreeSet::new();
        for part in &profile.disable {
            disable.insert(part_name(*part).to_owned());
        }
        for (index, part) in intent.disable.iter().enumerate() {
            disable.insert(validate::shared(rules::part(index, part))?);
        }
        validate::shared(rules::mirrors(&intent.mirrors))?;
        if let Some(artifact) = &intent.distribution {
            validate::shared(rules::artifact(artifact))?;
        }
        Ok(NodeWants {
            node_name: node_name.to_owned(),
            role: intent.role,
            server: intent.server.clone().filter(|_| intent.role != KubernetesRole::ClusterInit),
            token: intent.token.clone(),
            node_ip: intent.node_ip,
            labels,
            taints,
            disable,
            reserved_millicores: profile.reserved_millicores,
            reserved_memory: profile.reserved_memory,
            mirrors: intent.mirrors.clone(),
            hugepages: hugepages.into_iter().filter(|(_, pages)| *pages > 0).collect(),
            artifact: intent.distribution.clone(),
        })
    }

    /// The word behind `k3s` on the command line.
    pub fn command(&self) -> &'static str {
        if self.role.is_server() { "server" } else { "agent" }
    }
}

/// k3s' name of a part (docs.k3s.io, "Packaged Components").
fn part_name(part: hw_profiles::profile::KubernetesPart) -> &'static str {
    use hw_profiles::profile::KubernetesPart as Part;
    match part {
        Part::Coredns => "coredns",
        Part::LocalStorage => "local-storage",
        Part::MetricsServer => "metrics-server",
        Part::Servicelb => "servicelb",
        Part::Traefik => "traefik",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hw_profiles::profile::KubernetesPart;

    /// A first server with one of everything.
    pub(crate) fn server() -> NodeWants {
        let intent = KubernetesIntent {
            token: Secret("a-secret".into()),
            labels: BTreeMap::from([("site".into(), "lake".into())]),
            taints: vec!["dedicated=edge:NoSchedule".into()],
            ..Default::default()
        };
        NodeWants::new("node-1", &intent, &profile(), BTreeMap::from([(PageSize::M2, 64)])).unwrap()
    }

    pub(crate) fn profile() -> Profile {
        Profile {
            reserved_millicores: 250,
            reserved_memory: Bytes(512 << 20),
            labels: BTreeMap::from([("holdfast.dev/cloud".into(), "aws".into())]),
            disable: BTreeSet::from([KubernetesPart::Traefik]),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut KubernetesIntent)) -> String {
        let mut intent =
            KubernetesIntent { token: Secret("hush".into()), ..KubernetesIntent::default() };
        change(&mut intent);
        let error = NodeWants::new("node-1", &intent, &Profile::default(), BTreeMap::new());
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Reason::KubernetesConfigRefused);
        assert!(!error.to_string().contains("hush"), "{error}");
        error.field
    }

    #[test]
    fn the_controller_stands_above_the_profile() {
        let intent = KubernetesIntent {
            labels: BTreeMap::from([("holdfast.dev/cloud".into(), "own".into())]),
            disable: vec!["servicelb".into()],
            ..Default::default()
        };
        let wants = NodeWants::new("n", &intent, &profile(), BTreeMap::new()).unwrap();
        assert_eq!(wants.labels["holdfast.dev/cloud"], "own");
        assert_eq!(wants.disable, ["servicelb", "traefik"].map(String::from).into());
        assert_eq!(wants.reserved_memory, Bytes(512 << 20));
    }

    #[test]
    fn each_wrong_field_is_named() {
        assert_eq!(
            refused(|intent| drop(intent.labels.insert("a/b/c".into(), String::new()))),
            "kubernetes.labels[\"a/b/c\"]"
        );
        assert_eq!(
            refused(|intent| drop(intent.labels.insert("a".into(), "-".into()))),
            "kubernetes.labels[\"a\"]"
        );
        // The kubelet ends at once on such a label (kubelet's reference, --node-labels).
        let role = "node-role.kubernetes.io/edge";
        assert_eq!(
            refused(|intent| drop(intent.labels.insert(role.into(), String::new()))),
            "kubernetes.labels[\"node-role.kubernetes.io/edge\"]"
        );
        assert_eq!(
            refused(|intent| intent.taints = vec!["a=b:NoSchedule".into(), "a=b".into()]),
            "kubernetes.taints[1]"
        );
        assert_eq!(
            refused(|intent| intent.disable = vec!["Traefik!".into()]),
            "kubernetes.disable[0]"
        );
        assert_eq!(
            refused(|intent| {
                intent.mirrors = vec![RegistryMirror {
                    registry: "registry.example".into(),
                    endpoints: vec!["https://a.example".into(), "ftp://b.example".into()],
                }];
            }),
            "kubernetes.mirrors[0].endpoints[1]"
        );
        assert_eq!(refused(|intent| intent.role = KubernetesRole::Agent), "kubernetes.server");
        assert_eq!(
            refused(|intent| {
                intent.role = KubernetesRole::Server;
                intent.server = Some("https://10.0.0.1:6443".into());
                intent.token = Secret::default();
            }),
            "kubernetes.token"
        );
        assert_eq!(
            refused(|intent| {
                intent.distribution = Some(DistributionArtifact {
                    version: "v1.33.1+k3s1".into(),
                    url: "https://a.example/k3s".into(),
                    sha256: "12".into(),
                });
            }),
            "kubernetes.distribution.sha256"
        );
    }

    #[test]
    fn labels_that_the_kubelet_may_set_pass() {
        for key in
            ["node.kubernetes.io/x", "a.kubelet.kubernetes.io/x", "topology.kubernetes.io/zone"]
        {
            let intent = KubernetesIntent {
                labels: BTreeMap::from([(key.into(), "a".into())]),
                ..Default::default()
            };
            NodeWants::new("n", &intent, &Profile::default(), BTreeMap::new()).unwrap();
        }
    }

    #[test]
    fn a_name_that_is_no_dns_name_is_refused() {
        for name in ["", "Node", "a_b", "-a", "a.", &"a".repeat(254)] {
            let intent = KubernetesIntent::default();
            let error = NodeWants::new(name, &intent, &Profile::default(), BTreeMap::new());
            assert_eq!(error.unwrap_err().field, "nodeName", "{name}");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        assert!(!format!("{:?}", server()).contains("a-secret"));
    }
}
