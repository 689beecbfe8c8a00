//! What the data plane knows: events in, what must be looked at again out. Pure.

use super::Event;
use crate::mesh::Heard;
use crate::nodes::{Edge, NodeKey, Nodes, Refusal, admit};
use crate::routing::{Backbone, View};
use holdfast_api::resources::TunnelPeer;
use ipnet::IpNet;
use netd::LinkName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What an event makes necessary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Routes to these destinations may be different.
    pub destinations: BTreeSet<IpNet>,
    /// Peers, edges or addresses are different: everything must be compared.
    pub everything: bool,
    /// The set of nodes that are up here is different.
    pub told_up: bool,
}

impl Due {
    /// Whether there is anything to do.
    pub fn is_nothing(&self) -> bool {
        *self == Due::default()
    }

    fn merge(&mut self, other: Due) {
        self.destinations.extend(other.destinations);
        self.everything |= other.everything;
        self.told_up |= other.told_up;
    }
}

/// Everything that is known.
#[derive(Debug)]
pub struct Model {
    edge: Edge,
    /// None until they were told: a device of the kernel may have them all, with sessions that
    /// outlive this process, and whoever compared it with nothing would take them away.
    peers: Option<Vec<TunnelPeer>>,
    nodes: Nodes,
    refusals: Vec<Refusal>,
    up: BTreeSet<NodeKey>,
    addresses: BTreeMap<String, IpAddr>,
    said: BTreeMap<String, BTreeSet<NodeKey>>,
    elsewhere: BTreeMap<NodeKey, BTreeSet<String>>,
    backbone: Option<Backbone>,
    ipv6: bool,
}

impl Model {
    /// Nothing known but who we are.
    pub fn new(name: &str, overlay: IpAddr) -> Self {
        Model {
            edge: Edge { name: name.into(), overlay, protected: BTreeSet::new() },
            peers: None,
            nodes: Nodes::default(),
            refusals: Vec::new(),
            up: BTreeSet::new(),
            addresses: BTreeMap::new(),
            said: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            backbone: None,
            ipv6: true,
        }
    }

    /// Takes in events; what they make necessary together.
    pub fn take(&mut self, events: impl IntoIterator<Item = Event>) -> Due {
        let mut due = Due::default();
        for event in events {
            due.merge(match event {
                Event::Peers(peers) => {
                    self.peers = Some(peers);
                    self.admit()
                }
                Event::Edges { backbone, protected } => self.set_edges(backbone, protected),
                Event::Mesh { edge, heard } => self.hear(edge, heard),
                Event::Liveness { node, up } => self.set_up(node, up),
                // Nothing to decide.
                Event::Device(_) | Event::Stop => Due::default(),
            });
        }
        due
    }

    /// The link that the backbone is on, once it is known; without one nothing goes over it.
    pub fn set_backbone_link(&mut self, link: Option<LinkName>) -> bool {
        let backbone = link.map(|link| Backbone { link, edges: self.addresses.clone() });
        let changed = backbone != self.backbone;
        self.backbone = backbone;
        changed
    }

    /// Whether the kernel has IPv6.
    pub fn set_ipv6(&mut self, has: bool) {
        self.ipv6 = has;
    }

    /// Has nothing go over `edge` until [`set_backbone_link`](Self::set_backbone_link) is called again.
    pub fn leave_out(&mut self, edge: &str) {
        if let Some(backbone) = &mut self.backbone {
            backbone.edges.remove(edge);
        }
    }

    /// Makes `up` the nodes that are up: the truth, in case an event was missed.
    pub fn set_all_up(&mut self, up: BTreeSet<NodeKey>) -> Due {
        let changed: Vec<_> = self.up.symmetric_difference(&up).cloned().collect();
        let mut due = Due::default();
        for node in changed {
            let is_up = up.contains(&node);
            due.merge(self.set_up(node, is_up));
        }
        due
    }

    /// What decides about routes.
    pub fn view(&self) -> View<'_> {
        View {
            nodes: &self.nodes,
            up: &self.up,
            elsewhere: &self.elsewhere,
            backbone: self.backbone.as_ref(),
            ipv6: self.ipv6,
        }
    }

    /// Whether the peers were told; before, nothing in the kernel may be compared with what is known.
    pub fn knows_peers(&self) -> bool {
        self.peers.is_some()
    }

    /// The nodes that may be served.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Those that are up.
    pub fn up(&self) -> &BTreeSet<NodeKey> {
        &self.up
    }

    /// What was refused.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The other edges: address, and how many nodes each says it has up (none: not heard).
    pub fn edges(&self) -> impl Iterator<Item = (&str, IpAddr, Option<usize>)> {
        self.addresses
            .iter()
            .map(|(edge, at)| (edge.as_str(), *at, self.said.get(edge).map(BTreeSet::len)))
    }

    fn admit(&mut self) -> Due {
        let (nodes, refusals) =
            admit(&self.edge, self.peers.as_deref().unwrap_or_default(), &self.nodes);
        for refusal in refusals.iter().filter(|r| !self.refusals.contains(r)) {
            tracing::warn!(peer = refusal.peer, why = refusal.why, "refused to a tunnel peer");
        }
        self.refusals = refusals;
        let everything = nodes != self.nodes;
        self.nodes = nodes;
        let before = self.up.len();
        self.up.retain(|key| self.nodes.get(key).is_some());
        Due { everything, told_up: self.up.len() != before, ..Due::default() }
    }

    fn set_edges(
        &mut self,
        mut backbone: BTreeMap<String, IpAddr>,
        protected: BTreeSet<IpAddr>,
    ) -> Due {
        backbone.remove(&self.edge.name);
        let mut due = Due { everything: self.addresses != backbone, ..Due::default() };
        self.addresses = backbone;
        if let Some(backbone) = &mut self.backbone {
            backbone.edges = self.addresses.clone();
        }
        if self.edge.protected != protected {
            self.edge.protected = protected;
            due.merge(self.admit());
        }
        due
    }

    fn hear(&mut self, edge: String, heard: Heard) -> Due {
        let said = self.said.get(&edge);
        let (up, down): (BTreeSet<NodeKey>, BTreeSet<NodeKey>) = match &heard {
            Heard::All(all) => {
                let none = BTreeSet::new();
                let before = said.unwrap_or(&none);
                (
                    all.difference(before).cloned().collect(),
                    before.difference(all).cloned().collect(),
                )
            }
            Heard::Changed { up, down } => (up.clone(), down.clone()),
            Heard::Lost => (BTreeSet::new(), said.cloned().unwrap_or_default()),
        };
        if heard == Heard::Lost {
            self.said.remove(&edge);
        } else {
            let said = self.said.entry(edge.clone()).or_default();
            said.retain(|node| !down.contains(node));
            said.extend(up.iter().cloned());
        }
        let mut due = Due::default();
        for node in down {
            due.destinations.extend(self.nodes.destinations(&node));
            if let Some(edges) = self.elsewhere.get_mut(&node) {
                edges.remove(&edge);
                if edges.is_empty() {
                    self.elsewhere.remove(&node);
                }
            }
        }
        for node in up {
            due.destinations.extend(self.nodes.destinations(&node));
            self.elsewhere.entry(node).or_default().insert(edge.clone());
        }
        due
    }

    fn set_up(&mut self, node: NodeKey, up: bool) -> Due {
        // A session that was removed may still have something to say.
        let known = self.nodes.get(&node).is_some();
        let changed = match up && known {
            true => self.up.insert(node.clone()),
            false => self.up.remove(&node),
        };
        if !changed {
            return Due::default();
        }
        let destinations = self.nodes.destinations(&node);
        Due { destinations, told_up: true, ..Due::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::TunnelPeerSpec;
    use holdfast_api::tunnel::PublicKey;
    use proptest::prelude::*;

    fn node(n: u8) -> NodeKey {
        NodeKey::new("acme", &format!("n{n}")).unwrap()
    }

    fn peers(numbers: &BTreeSet<u8>) -> Vec<TunnelPeer> {
        numbers
            .iter()
            .map(|n| {
                let spec = TunnelPeerSpec {
                    node: format!("n{n}"),
                    public_key: PublicKey([n + 1; 32]),
                    overlay_address: [100, 64, 1, *n].into(),
                    edges: vec!["re-1".into()],
                    ..TunnelPeerSpec::default()
                };
                TunnelPeer::new(Some("acme"), &format!("n{n}"), spec)
            })
            .collect()
    }

    fn model() -> Model {
        Model::new("re-1", [100, 64, 0, 1].into())
    }

    fn set() -> impl Strategy<Value = BTreeSet<u8>> {
        proptest::collection::btree_set(0u8..4, 0..4)
    }

    fn keys(numbers: &BTreeSet<u8>) -> BTreeSet<NodeKey> {
        numbers.iter().map(|n| node(*n)).collect()
    }

    fn event() -> impl Strategy<Value = Event> {
        let edge = (2u8..4).prop_map(|n| format!("re-{n}"));
        prop_oneof![
            set().prop_map(|n| Event::Peers(peers(&n))),
            (0u8..4, any::<bool>()).prop_map(|(n, up)| Event::Liveness { node: node(n), up }),
            (edge.clone(), set())
                .prop_map(|(edge, all)| Event::Mesh { edge, heard: Heard::All(keys(&all)) }),
            (edge.clone(), set(), set()).prop_map(|(edge, up, down)| {
                let (up, down) = (keys(&up), keys(&down.difference(&up).copied().collect()));
                Event::Mesh { edge, heard: Heard::Changed { up, down } }
            }),
            edge.prop_map(|edge| Event::Mesh { edge, heard: Heard::Lost }),
        ]
    }

    proptest! {
        /// The laws: who is up is known; `elsewhere` is what the edges said, turned round; and
        /// every destination whose routes differ is named, unless everything is compared.
        #[test]
        fn nothing_that_changed_is_overlooked(events in proptest::collection::vec(event(), 0..40)) {
            let mut model = model();
            model.set_backbone_link(Some("bb0".parse().unwrap()));
            model.take([Event::Edges {
                backbone: [("re-2".into(), [10, 0, 0, 2].into()), ("re-3".into(), [10, 0, 0, 3].into())].into(),
                protected: BTreeSet::new(),
            }]);
            let device = crate::routing::Device {
                link: "hf-wg0".parse().unwrap(),
                kind: netd::LinkKind::Tun,
                overlay: [100, 64, 0, 1].into(),
                mtu: 1420,
            };
            for event in events {
                let before = crate::routing::want(&device, &model.view());
                let up = model.up().clone();
                let due = model.take([event]);
                prop_assert_eq!(due.told_up, up != *model.up());
                for key in model.up() {
                    prop_assert!(model.nodes().get(key).is_some());
                }
                let mut turned: BTreeMap<NodeKey, BTreeSet<String>> = BTreeMap::new();
                for (edge, said) in &model.said {
                    for node in said {
                        turned.entry(node.clone()).or_default().insert(edge.clone());
                    }
                }
                prop_assert_eq!(&turned, &model.elsewhere);
                let after = crate::routing::want(&device, &model.view());
                if !due.everything {
                    for route in before.routes.iter().chain(after.routes.iter()) {
                        use netd::model::Item;
                        let same = before.routes.get(&route.key()) == after.routes.get(&route.key());
                        prop_assert!(same || due.destinations.contains(&route.prefix), "{route}");
                    }
                    prop_assert_eq!(before.nexthops, after.nexthops);
                }
            }
        }
    }

    #[test]
    fn a_missed_event_is_made_good_by_the_truth() {
        let mut model = model();
        model.take([Event::Peers(peers(&[1, 2].into()))]);
        model.take([Event::Liveness { node: node(1), up: true }]);
        let due = model.set_all_up([node(2)].into());
        assert!(due.told_up && due.destinations.len() == 2);
        assert_eq!(*model.up(), [node(2)].into());
        assert!(model.set_all_up([node(2)].into()).is_nothing());
    }

    #[test]
    fn an_edge_is_not_its_own_neighbour() {
        let mut model = model();
        let all = [("re-1".into(), [10, 0, 0, 1].into()), ("re-2".into(), [10, 0, 0, 2].into())];
        model.take([Event::Edges { backbone: all.into(), protected: BTreeSet::new() }]);
        assert_eq!(model.edges().map(|(name, ..)| name).collect::<Vec<_>>(), ["re-2"]);
    }
}
