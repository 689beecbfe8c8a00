//! A node's part in its site's Kubernetes. Pure.

use super::render::NodeInput;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole, Secret};
use holdfast_api::resources::{NodeRole, SiteNode};

/// What the node is told; none when the site has no Kubernetes. The join token is not in it: it is
/// kept beside the object and shown to the node alone.
///
/// One node makes the datastore and the others join it ([`super::datastore`]); k3s does not make a
/// datastore where there is one.
pub(super) fn intent(input: NodeInput<'_>) -> Option<KubernetesIntent> {
    let want = input.spec.kubernetes.as_ref()?;
    let nodes = &input.spec.nodes;
    let is_server = |node: &&SiteNode| node.role == NodeRole::ControlPlane;
    nodes.iter().find(is_server)?;
    let name = &input.node.name;
    let datastore = input.datastore.with(nodes);
    let role = match input.node.role {
        NodeRole::Worker => KubernetesRole::Agent,
        NodeRole::ControlPlane if datastore.begins(name) => KubernetesRole::ClusterInit,
        NodeRole::ControlPlane => KubernetesRole::Server,
    };
    let joins = datastore.joins(name, nodes).filter(|_| role != KubernetesRole::ClusterInit);
    let host = joins.and_then(|node| node.address);
    let host = host.map(|address| std::net::SocketAddr::new(address, 6443));
    Some(KubernetesIntent {
        role,
        server: host.map(|host| format!("https://{host}")),
        servers: nodes.iter().filter(is_server).filter_map(|node| node.address).collect(),
        token: Secret::default(),
        node_ip: input.node.address,
        labels: want.labels.clone(),
        taints: want.taints.clone(),
        disable: want.disable.clone(),
        mirrors: want.mirrors.clone(),
        distribution: want.distribution.clone(),
        snapshots: want.snapshots.clone(),
        release: input.release.cloned(),
        nodes: nodes.iter().map(|node| node.name.clone()).collect(),
        retired: retired(input.left, nodes),
        single_server: nodes.iter().filter(is_server).count() == 1,
    })
}

/// Those of `left` that the site does not have.
fn retired(left: &[String], nodes: &[SiteNode]) -> Vec<String> {
    let is_here = |name: &String| nodes.iter().any(|node| node.name == *name);
    left.iter().filter(|name| !is_here(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::datastore::Datastore;
    use holdfast_api::resources::{SiteKubernetes, SiteSpec};

    #[test]
    fn one_server_first_and_the_others_join_it() {
        let node = |n: u8, role| SiteNode {
            name: format!("n{n}"),
            role,
            address: Some([10, 0, 0, n].into()),
            ..Default::default()
        };
        let nodes = vec![
            node(1, NodeRole::Worker),
            node(2, NodeRole::ControlPlane),
            node(3, NodeRole::ControlPlane),
        ];
        let mut spec = SiteSpec { nodes, ..Default::default() };
        let told = |spec: &SiteSpec, n: usize| {
            let node = &spec.nodes[n];
            intent(NodeInput {
                site: "s",
                spec,
                node,
                overlay: None,
                public_key: None,
                release: None,
                left: &[],
                datastore: &Datastore::default(),
            })
        };
        assert_eq!(told(&spec, 0), None);
        spec.kubernetes = Some(SiteKubernetes::default());
        let parts: Vec<_> =
            (0..3).map(|n| told(&spec, n).map(|k| (k.role, k.server)).unwrap()).collect();
        let join = Some("https://10.0.0.2:6443".to_owned());
        assert_eq!(
            parts,
            [
                (KubernetesRole::Agent, join.clone()),
                (KubernetesRole::ClusterInit, None),
                (KubernetesRole::Server, join),
            ]
        );
        let servers = told(&spec, 0).map(|intent| intent.servers).unwrap();
        assert_eq!(servers, [[10, 0, 0, 2], [10, 0, 0, 3]].map(std::net::IpAddr::from));
    }
}
