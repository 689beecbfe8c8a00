//! What the controller told this edge, and its last good copy on disk: `var/lib/holdfast/edge.json`.

use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_api::resources::{RegionalEdge, TunnelPeer};
use holdfast_durable::{Loaded, SlotError, Slots};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Another edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    /// Where it speaks in the mesh.
    pub backbone: SocketAddr,
}

/// What the controller told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Knowledge {
    /// Name of this edge's `RegionalEdge`; empty before admission.
    pub edge: String,
    /// This edge's address inside the tunnels.
    pub overlay: Option<IpAddr>,
    /// Other edges that are on the backbone, by name.
    pub neighbours: BTreeMap<String, Neighbour>,
    /// Addresses of edges, inside and outside, that no site may cover.
    pub protected: BTreeSet<IpAddr>,
    /// The nodes that may be served; none until the controller told them once.
    pub peers: Option<Vec<TunnelPeer>>,
}

impl Knowledge {
    /// Takes in the list of edges. Tells whether anything is new.
    pub fn take_edges<'a>(&mut self, edges: impl IntoIterator<Item = &'a RegionalEdge>) -> bool {
        let before = (self.overlay, self.neighbours.clone(), self.protected.clone());
        self.neighbours.clear();
        self.protected.clear();
        for edge in edges {
            let spec = &edge.spec;
            let outside = [spec.endpoint, spec.probe, spec.backbone];
            self.protected.extend(outside.into_iter().flatten().map(|at| at.ip()));
            self.protected.extend(spec.overlay_address);
            if edge.metadata.name == self.edge {
                // An address that was known is kept while the controller has none to give.
                self.overlay = spec.overlay_address.or(self.overlay);
            } else if let Some(backbone) = spec.backbone {
                self.neighbours.insert(edge.metadata.name.clone(), Neighbour { backbone });
            }
        }
        before != (self.overlay, self.neighbours.clone(), self.protected.clone())
    }

    /// Takes in the list of peers. Tells whether anything is new.
    pub fn take_peers<'a>(&mut self, peers: impl IntoIterator<Item = &'a TunnelPeer>) -> bool {
        let peers: Vec<TunnelPeer> = peers.into_iter().cloned().collect();
        let same = |a: &TunnelPeer, b: &TunnelPeer| {
            let name = |p: &TunnelPeer| (p.metadata.namespace.clone(), p.metadata.name.clone());
            name(a) == name(b) && a.spec == b.spec
        };
        // Resource versions and the like change nothing, and are no reason to write to the disk.
        let is_known = self.peers.as_ref().is_some_and(|known| {
            known.len() == peers.len() && peers.iter().zip(known).all(|(a, b)| same(a, b))
        });
        if !is_known {
            self.peers = Some(peers);
        }
        !is_known
    }
}

/// Where the copy lies.
#[derive(Debug, Clone)]
pub struct Store(Slots);

impl Store {
    /// Below `root`.
    pub fn new(root: &Root) -> Self {
        Store(Slots::new(root.state_dir().join("edge.json"), 0o600))
    }

    /// The last good copy, and what is wrong with the newest, if anything is.
    pub fn load(&self) -> (Knowledge, Option<(Reason, String)>) {
        match self.0.load() {
            Ok(Loaded::Newest(knowledge)) => (knowledge, None),
            Ok(Loaded::Empty) => (Knowledge::default(), None),
            Ok(Loaded::LastGood(knowledge, why)) => (knowledge, Some((Reason::LedgerDamaged, why))),
            Err(error) => {
                let text = holdfast_api::chain(&error);
                (Knowledge::default(), Some((Reason::LedgerDamaged, text)))
            }
        }
    }

    /// Keeps a copy.
    ///
    /// # Errors
    /// The disk refuses; the copy before stays.
    pub fn keep(&self, knowledge: &Knowledge) -> Result<(), SlotError> {
        self.0.store(knowledge)
    }
}

/// The reason code of a copy that could not be kept.
pub fn reason_of(error: &SlotError) -> Reason {
    match error {
        SlotError::Write { source, .. } if source.disk_full() => Reason::StateDiskFull,
        SlotError::Write { .. } => Reason::StateUnwritable,
        SlotError::Encode { .. } => Reason::Internal,
        SlotError::Damaged { .. } => Reason::LedgerDamaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::{RegionalEdgeSpec, TunnelPeerSpec};

    fn edge(name: &str, n: u8, on_backbone: bool) -> RegionalEdge {
        let spec = RegionalEdgeSpec {
            endpoint: Some(SocketAddr::new([192, 0, 2, n].into(), 51820)),
            overlay_address: Some([100, 64, 0, n].into()),
            backbone: on_backbone.then(|| SocketAddr::new([10, 255, 0, n].into(), 7246)),
            ..RegionalEdgeSpec::default()
        };
        RegionalEdge::new(None, name, spec)
    }

    #[test]
    fn edges_are_neighbours_but_for_oneself_and_those_off_the_backbone() {
        let mut known = Knowledge { edge: "re-1".into(), ..Knowledge::default() };
        let edges = [edge("re-1", 1, true), edge("re-2", 2, true), edge("re-3", 3, false)];
        assert!(known.take_edges(&edges));
        assert!(!known.take_edges(&edges));
        assert_eq!(known.overlay, Some([100, 64, 0, 1].into()));
        assert_eq!(known.neighbours.keys().collect::<Vec<_>>(), ["re-2"]);
        assert_eq!(known.protected.len(), 8);
        let mut bare = edge("re-1", 1, true);
        bare.spec.overlay_address = None;
        known.take_edges(&[bare]);
        assert_eq!(known.overlay, Some([100, 64, 0, 1].into()), "kept");
    }

    #[test]
    fn a_cut_file_costs_one_change_and_both_cut_cost_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let store = Store::new(&root);
        let mut known = Knowledge::default();
        let mut peers = vec![TunnelPeer::new(Some("acme"), "a", TunnelPeerSpec::default())];
        assert!(known.take_peers(&peers));
        peers[0].metadata.resource_version = "2".into();
        assert!(!known.take_peers(&peers), "nothing that matters");
        store.keep(&known).unwrap();
        let older = known.clone();
        assert!(Knowledge::default().take_peers(&[]), "none is something to know");
        peers[0].spec.site = "shop".into();
        assert!(known.take_peers(&peers));
        store.keep(&known).unwrap();
        assert_eq!(store.load(), (known, None));
        let path = root.state_dir().join("edge.json");
        holdfast_durable::write(&path, b"holdfast-state 1", 0o600).unwrap();
        let (loaded, trouble) = store.load();
        assert_eq!(loaded, older);
        assert_eq!(trouble.unwrap().0, Reason::LedgerDamaged);
        holdfast_durable::write(&path.with_extension("json.last"), b"", 0o600).unwrap();
        let (loaded, trouble) = store.load();
        assert_eq!(loaded, Knowledge::default());
        assert_eq!(trouble.unwrap().0, Reason::LedgerDamaged);
    }
}
