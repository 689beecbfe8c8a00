//! The nodes that this edge serves, as values: read from `TunnelPeer`s, checked once.
//!
//! What a peer may not have is refused and named, and the rest of it, and all others, are served.
//! An address space is a common good: whoever holds a prefix keeps it, so that no tenant can take
//! over another's traffic by claiming its prefix, and nobody can claim the edge's own addresses.

use holdfast_api::resources::TunnelPeer;
use holdfast_api::tunnel::{BfdTimers, PublicKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A node across tenants: `tenant/node`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeKey {
    tenant: String,
    node: String,
}

impl NodeKey {
    /// The node `node` of `tenant`; none when a part is empty or has a slash.
    pub fn new(tenant: &str, node: &str) -> Option<Self> {
        let fits = |part: &str| !part.is_empty() && !part.contains('/');
        (fits(tenant) && fits(node)).then(|| NodeKey { tenant: tenant.into(), node: node.into() })
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.node)
    }
}

impl FromStr for NodeKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(tenant, node)| NodeKey::new(tenant, node))
            .ok_or("a node is named tenant/node")
    }
}

impl TryFrom<String> for NodeKey {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeKey> for String {
    fn from(key: NodeKey) -> Self {
        key.to_string()
    }
}

/// A node whose tunnel may end here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Who it is.
    pub key: NodeKey,
    /// Its site.
    pub site: String,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// Its address inside the tunnel.
    pub overlay: IpAddr,
    /// What is behind it; nodes of one site may share a prefix.
    pub prefixes: BTreeSet<IpNet>,
    /// Liveness timers.
    pub bfd: BfdTimers,
}

/// What was not granted to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The peer: `tenant/name`.
    pub peer: String,
    /// What was refused, and why.
    pub why: String,
}

/// All nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    by_key: BTreeMap<NodeKey, Node>,
    /// Who claims a destination: overlay addresses (as host prefixes) and site prefixes.
    claims: BTreeMap<IpNet, BTreeSet<NodeKey>>,
}

impl Nodes {
    /// The node of this key.
    pub fn get(&self, key: &NodeKey) -> Option<&Node> {
        self.by_key.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.by_key.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Every destination with its claimants.
    pub fn claims(&self) -> impl Iterator<Item = (&IpNet, &BTreeSet<NodeKey>)> {
        self.claims.iter()
    }

    /// Who claims `prefix`.
    pub fn claimants(&self, prefix: &IpNet) -> impl Iterator<Item = &NodeKey> {
        self.claims.get(prefix).into_iter().flatten()
    }

    /// The destinations that `key` claims.
    pub fn destinations(&self, key: &NodeKey) -> BTreeSet<IpNet> {
        let Some(node) = self.by_key.get(key) else { return BTreeSet::new() };
        node.prefixes.iter().copied().chain([IpNet::from(node.overlay)]).collect()
    }

    /// Whether `prefix` is a node's own address.
    pub fn is_overlay(&self, prefix: &IpNet) -> bool {
        let single = self.claimants(prefix).next().and_then(|key| self.by_key.get(key));
        single.is_some_and(|node| IpNet::from(node.overlay) == *prefix)
    }

    fn holds(&self, key: &NodeKey, prefix: &IpNet) -> bool {
        self.claims.get(prefix).is_some_and(|claimants| claimants.contains(key))
    }
}

/// Whom the peers are checked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Its name.
    pub name: String,
    /// Its address inside the tunnels.
    pub overlay: IpAddr,
    /// Addresses that no site may cover: its own, those of other edges, the controller's.
    pub protected: BTreeSet<IpAddr>,
}

/// The nodes among `peers` that `edge` serves, and what was refused. What was granted in `before`
/// is granted again before anything new is.
pub fn admit<'a>(
    edge: &Edge,
    peers: impl IntoIterator<Item = &'a TunnelPeer>,
    before: &Nodes,
) -> (Nodes, Vec<Refusal>) {
    let mut book =
        Book { edge, space: Space::default(), keys: BTreeMap::new(), refusals: Vec::new() };
    let mut nodes: BTreeMap<NodeKey, Node> = BTreeMap::new();
    let mut asked: Vec<(NodeKey, &TunnelPeer)> =
        peers.into_iter().filter_map(|peer| book.name(peer)).collect();
    asked.sort_by_cached_key(|(key, peer)| {
        (!before.holds(key, &IpNet::from(peer.spec.overlay_address)), key.clone())
    });
    for (key, peer) in &asked {
        if nodes.contains_key(key) {
            book.refuse(peer, "another peer names the same node".into());
        } else if let Some(node) = book.node(key, peer) {
            nodes.insert(key.clone(), node);
        }
    }
    let mut wishes: Vec<(bool, IpNet, &NodeKey, &TunnelPeer)> = asked
        .iter()
        .filter(|(key, _)| nodes.contains_key(key))
        .flat_map(|(key, peer)| {
            let prefixes = peer.spec.site_prefixes.iter().map(IpNet::trunc);
            prefixes.map(move |prefix| (!before.holds(key, &prefix), prefix, key, *peer))
        })
        .collect();
    wishes.sort_by(|a, b| (a.0, a.2, a.1).cmp(&(b.0, b.2, b.1)));
    let mut granted = Vec::new();
    for (_, prefix, key, peer) in wishes {
        if book.prefix(key, peer, prefix) {
            granted.push((key.clone(), prefix));
        }
    }
    for (key, prefix) in granted {
        if let Some(node) = nodes.get_mut(&key) {
            node.prefixes.insert(prefix);
        }
    }
    let mut claims: BTreeMap<IpNet, BTreeSet<NodeKey>> = BTreeMap::new();
    for node in nodes.values() {
        for prefix in node.prefixes.iter().copied().chain([IpNet::from(node.overlay)]) {
            claims.entry(prefix).or_default().insert(node.key.clone());
        }
    }
    (Nodes { by_key: nodes, claims }, book.refusals)
}

/// What has been given away so far.
struct Book<'a> {
    edge: &'a Edge,
    space: Space,
    keys: BTreeMap<PublicKey, NodeKey>,
    refusals: Vec<Refusal>,
}

impl Book<'_> {
    fn refuse(&mut self, peer: &TunnelPeer, why: String) {
        let tenant = peer.metadata.namespace.as_deref().unwrap_or_default();
        let peer = format!("{tenant}/{}", peer.metadata.name);
        self.refusals.push(Refusal { peer, why });
    }

    /// Peers that do not name this edge are somebody else's and no cause for complaint.
    fn name<'p>(&mut self, peer: &'p TunnelPeer) -> Option<(NodeKey, &'p TunnelPeer)> {
        if !peer.spec.edges.contains(&self.edge.name) {
            return None;
        }
        let tenant = peer.metadata.namespace.as_deref().unwrap_or_default();
        let key = NodeKey::new(tenant, &peer.spec.node);
        if key.is_none() {
            self.refuse(peer, "it names no node".into());
        }
        key.map(|key| (key, peer))
    }

    fn node(&mut self, key: &NodeKey, peer: &TunnelPeer) -> Option<Node> {
        let spec = &peer.spec;
        let overlay = spec.overlay_address;
        if let Err(why) = self.check_node(key, peer) {
            self.refuse(peer, why);
            return None;
        }
        self.keys.insert(spec.public_key, key.clone());
        let mut bfd = spec.bfd;
        if let Err(error) = tunnels::bfd::Settings::new(bfd, tunnels::bfd::Role::Passive) {
            bfd = BfdTimers::default();
            self.refuse(peer, format!("its timers: {error}; the default is used"));
        }
        Some(Node {
            key: key.clone(),
            site: spec.site.clone(),
            public_key: spec.public_key,
            overlay,
            prefixes: BTreeSet::new(),
            bfd,
        })
    }

    fn check_node(&mut self, key: &NodeKey, peer: &TunnelPeer) -> Result<(), String> {
        let spec = &peer.spec;
        let overlay = spec.overlay_address;
        if spec.public_key == PublicKey([0; 32]) {
            return Err("it has no public key".into());
        }
        if let Some(other) = self.keys.get(&spec.public_key) {
            return Err(format!("its public key is that of {other}"));
        }
        if overlay.is_unspecified() || overlay.is_multicast() || overlay.is_loopback() {
            return Err(format!("its address {overlay} is no host's address"));
        }
        if overlay.is_ipv4() != self.edge.overlay.is_ipv4() {
            return Err(format!("its address {overlay} is not of the family of this edge's"));
        }
        if overlay == self.edge.overlay || self.edge.protected.contains(&overlay) {
            return Err(format!("its address {overlay} belongs to an edge"));
        }
        // An overlay address is one node's alone: the claim is the node's.
        self.space
            .claim(IpNet::from(overlay), &format!("node {key}"))
            .map_err(|other| format!("its address {overlay} is taken by {other}"))
    }

    fn prefix(&mut self, key: &NodeKey, peer: &TunnelPeer, prefix: IpNet) -> bool {
        let mut own = self.edge.protected.iter().chain([&self.edge.overlay]);
        let why = if prefix.prefix_len() == 0 {
            Some(format!("the prefix {prefix} covers everything"))
        } else if let Some(address) = own.find(|address| prefix.contains(*address)) {
            Some(format!("the prefix {prefix} covers {address}, which belongs to an edge"))
        } else {
            let site = format!("site {}/{}", key.tenant, peer.spec.site);
            self.space
                .claim(prefix, &site)
                .err()
                .map(|other| format!("the prefix {prefix} overlaps with one of {other}"))
        };
        let granted = why.is_none();
        if let Some(why) = why {
            self.refuse(peer, why);
        }
        granted
    }
}

/// Disjoint prefixes and their holders.
#[derive(Default)]
struct Space(BTreeMap<(bool, u128), (u128, String)>);

impl Space {
    /// Gives `prefix` to `holder`; the same holder may have the same prefix again.
    fn claim(&mut self, prefix: IpNet, holder: &str) -> Result<(), String> {
        let (v6, first, last) = range(prefix);
        // Prefixes that are disjoint come in the order of their ends as well, so only the last
        // one that begins before our end can reach into us.
        if let Some(((_, start), (end, other))) = self.0.range((v6, 0)..=(v6, last)).next_back()
            && *end >= first
        {
            let same = *start == first && *end == last && other == holder;
            return if same { Ok(()) } else { Err(other.clone()) };
        }
        self.0.insert((v6, first), (last, holder.into()));
        Ok(())
    }
}

fn range(prefix: IpNet) -> (bool, u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (prefix.addr().is_ipv6(), number(prefix.network()), number(prefix.broadcast()))
}

#[cfg(test)]
mod tests;
