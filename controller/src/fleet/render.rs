//! From sites, nodes and edges to what nodes and edges are told. Pure: the same input gives the
//! same output, byte for byte.

use super::datastore::Datastore;
use super::{kubernetes, lan};
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_api::resources::{
    EdgePolicy, NodeConfigSpec, RegionalEdge, RegionalEdgeSpec, SiteNode, SiteSpec, TunnelPeerSpec,
};
use holdfast_api::tunnel::{EdgeCandidate, PublicKey, TunnelIntent};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Tunnels that a node holds when its site says nothing.
const WANT: u8 = 2;
/// Seconds between polls.
const POLL_SECS: u32 = 300;

/// What is known of one node.
#[derive(Debug, Clone, Copy)]
pub struct NodeInput<'a> {
    /// Name of its site.
    pub site: &'a str,
    /// The site.
    pub spec: &'a SiteSpec,
    /// The node, one of the site's.
    pub node: &'a SiteNode,
    /// Its overlay address.
    pub overlay: Option<IpAddr>,
    /// Its WireGuard key.
    pub public_key: Option<PublicKey>,
    /// The release that the site names.
    pub release: Option<&'a ReleaseRef>,
    /// Nodes that left the site.
    pub left: &'a [String],
    /// Who may hold the datastore of its Kubernetes.
    pub datastore: &'a Datastore,
}

impl NodeInput<'_> {
    /// The site's prefix belongs to its first node: an edge can route a prefix to one peer only.
    fn prefixes(&self) -> Vec<IpNet> {
        let first = self.spec.nodes.first().is_some_and(|first| first.name == self.node.name);
        self.spec.prefix.into_iter().filter(|_| first).collect()
    }
}

/// Whether the site's policy lets it use an edge of this name.
pub fn allowed(policy: &EdgePolicy, edge: &str) -> bool {
    let named = |names: &[String]| names.iter().any(|name| name == edge);
    (policy.only.is_empty() || named(&policy.only)) && !named(&policy.except)
}

/// The edges that the site may choose from, in the order of `edges`: allowed, complete and not
/// drained.
pub fn candidates(policy: &EdgePolicy, edges: &[RegionalEdge]) -> Vec<EdgeCandidate> {
    let usable = edges.iter().filter(|edge| !edge.spec.drained);
    usable
        .filter(|edge| allowed(policy, &edge.metadata.name))
        .filter_map(|edge| {
            let name = edge.metadata.name.clone();
            // An edge that names no domain is one by itself.
            let domain = match edge.spec.failure_domain.as_str() {
                "" => name.clone(),
                domain => domain.to_owned(),
            };
            Some(EdgeCandidate {
                name,
                failure_domain: domain,
                endpoint: edge.spec.endpoint?,
                probe: edge.spec.probe?,
                public_key: edge.spec.public_key?,
                overlay_address: edge.spec.overlay_address?,
            })
        })
        .collect()
}

/// The desired state of one node; its generation is left at 0.
pub fn node_config(input: NodeInput<'_>, edges: &[RegionalEdge]) -> NodeConfigSpec {
    let policy = &input.spec.edges;
    let candidates = candidates(policy, edges);
    let offered: BTreeSet<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
    let routes: BTreeSet<IpNet> = edges
        .iter()
        .filter(|edge| offered.contains(edge.metadata.name.as_str()))
        .flat_map(|edge| edge.spec.routes.iter().map(IpNet::trunc))
        .collect();
    let tunnels = input.overlay.map(|overlay_address| TunnelIntent {
        overlay_address,
        site_prefixes: input.prefixes(),
        routes: routes.into_iter().collect(),
        candidates,
        bfd: policy.bfd.unwrap_or_default(),
        want: policy.want.unwrap_or(WANT),
    });
    NodeConfigSpec {
        generation: 0,
        site: input.site.into(),
        node: input.node.name.clone(),
        role: input.node.role,
        lan_addresses: lan::addresses(input.node, input.spec.prefix),
        hosts: input.spec.hosts.clone(),
        ssh: input.spec.ssh.clone(),
        sysctls: input.spec.sysctls.clone(),
        network: None,
        tunnels,
        kubernetes: kubernetes::intent(input),
        poll_secs: POLL_SECS,
    }
}

/// Gives `want` its generation: the one in force when the content is the same, else `next`.
///
/// `next` is the store's version, which grows for as long as the controller's data live. So a
/// configuration that was deleted and made again is still newer than what the node has.
pub fn number(
    have: Option<&NodeConfigSpec>,
    mut want: NodeConfigSpec,
    next: u64,
) -> NodeConfigSpec {
    want.generation = match have {
        Some(have) => {
            want.generation = have.generation;
            if want == *have { have.generation } else { next.max(have.generation + 1) }
        }
        None => next,
    };
    want
}

/// What edges must know of one node; none while it has no key or no address.
///
/// A drained edge still serves those who have not moved away yet.
pub fn tunnel_peer(input: NodeInput<'_>, edges: &[RegionalEdge]) -> Option<TunnelPeerSpec> {
    let policy = &input.spec.edges;
    let may_serve = |edge: &&RegionalEdge| {
        edge.spec.public_key.is_some() && allowed(policy, &edge.metadata.name)
    };
    Some(TunnelPeerSpec {
        node: input.node.name.clone(),
        site: input.site.into(),
        public_key: input.public_key?,
        overlay_address: input.overlay?,
        site_prefixes: input.prefixes(),
        edges: edges.iter().filter(may_serve).map(|edge| edge.metadata.name.clone()).collect(),
        bfd: policy.bfd.unwrap_or_default(),
    })
}

/// An edge after its registration offered `now`, having offered `before`: what the edge changed is
/// taken over, what an operator changed stays.
pub fn edge(
    have: &RegionalEdgeSpec,
    before: &RegionalEdgeSpec,
    now: &RegionalEdgeSpec,
) -> RegionalEdgeSpec {
    fn merge<T: Clone + PartialEq>(have: &T, before: &T, now: &T) -> T {
        if before == now { have.clone() } else { now.clone() }
    }
    macro_rules! merged {
        ($($field:ident),+) => { RegionalEdgeSpec { $( $field: merge(&have.$field, &before.$field, &now.$field), )+ } };
    }
    merged!(
        place,
        failure_domain,
        endpoint,
        probe,
        public_key,
        overlay_address,
        backbone,
        routes,
        capacity,
        drained
    )
}
