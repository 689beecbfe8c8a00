//! Who may hold the datastore of a site's Kubernetes. Pure.
//!
//! A server that is told `cluster-init` and has no datastore makes one (docs.k3s.io, "High
//! Availability Embedded etcd"), so a second cluster is one wrong word away. The controller cannot
//! look at disks. It remembers instead which nodes were ever told to be servers; each of them may
//! hold the datastore for as long as it is of the site, whatever its role is now. Only a node of
//! which it knows that no other one can have it is told to begin; all others join.
//!
//! That errs on the safe side: when the one that was to begin leaves before any of two others
//! joined, neither of them begins. Taking one of the two from the site settles it.

use super::DATASTORE_ANNOTATION;
use super::object::{annotate, to_value};
use crate::store::Shared;
use holdfast_api::resources::{NodeRole, SiteNode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is remembered of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Datastore {
    /// Begins the datastore when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    begins: Option<String>,
    /// Nodes that may hold it, in the order in which they became servers.
    holders: Vec<String>,
}

impl Datastore {
    /// The same once the site has these nodes. Doing it twice changes nothing.
    #[must_use]
    pub fn with(&self, nodes: &[SiteNode]) -> Datastore {
        let server = |name: &String| nodes.iter().any(|node| is_server(node) && node.name == *name);
        let is_here = |name: &&String| nodes.iter().any(|node| node.name == **name);
        let mut holders: Vec<String> = self.holders.iter().filter(is_here).cloned().collect();
        let stayed = holders.len();
        let names = nodes.iter().filter(|node| is_server(node)).map(|node| &node.name);
        for name in names {
            if !holders.contains(name) {
                holders.push(name.clone());
            }
        }
        let same = self.begins.iter().find(|name| holders[..stayed].contains(name));
        let alone = holders.first().filter(|_| stayed <= 1);
        let begins = same.or(alone).filter(|name| server(name)).cloned();
        Datastore { begins, holders }
    }

    /// Whether this node makes the datastore when it has none.
    pub fn begins(&self, node: &str) -> bool {
        self.begins.as_deref() == Some(node)
    }

    /// The server at which this node joins: the one that has been a server for longest. One that is
    /// a server no more is named only where there is no other, to those that joined long ago.
    pub fn joins<'a>(&self, node: &str, nodes: &'a [SiteNode]) -> Option<&'a SiteNode> {
        let others = self.holders.iter().filter(|name| *name != node);
        let others = others.filter_map(|name| nodes.iter().find(|node| node.name == *name));
        others.min_by_key(|other| !is_server(other))
    }
}

fn is_server(node: &SiteNode) -> bool {
    node.role == NodeRole::ControlPlane
}

/// Of a site.
pub(super) fn of(site: &Shared) -> Datastore {
    read(&site.value)
}

fn read(site: &Value) -> Datastore {
    let text = &site["metadata"]["annotations"][DATASTORE_ANNOTATION];
    serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or_default()
}

/// Writes down that the site `value` has these nodes now. Call it before others are promoted in
/// the place of one that left: those that were servers already come first. A site without
/// Kubernetes has told nobody anything.
pub(super) fn note(value: &mut Value, nodes: &[SiteNode]) {
    if value["spec"].get("kubernetes").is_none_or(Value::is_null) {
        return;
    }
    let now = read(value).with(nodes);
    let text = if now.holders.is_empty() { String::new() } else { to_value(&now).to_string() };
    annotate(value, DATASTORE_ANNOTATION, &text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::NodeRole::{ControlPlane, Worker};
    use proptest::prelude::*;

    fn node(name: &str, role: NodeRole) -> SiteNode {
        SiteNode { name: name.into(), role, ..Default::default() }
    }

    fn after(steps: &[&[SiteNode]]) -> Datastore {
        steps.iter().fold(Datastore::default(), |store, nodes| store.with(nodes))
    }

    #[test]
    fn a_promoted_worker_does_not_begin_anew_wherever_it_stands() {
        let replaced = [node("n2", Worker), node("n3", ControlPlane)];
        let joined = ["n2", "n3", "n4"].map(|name| node(name, ControlPlane));
        let store = after(&[&[node("n1", ControlPlane), node("n2", Worker)], &replaced, &joined]);
        assert!(store.begins("n3") && !store.begins("n2"));
        assert_eq!(store.joins("n2", &joined).unwrap().name, "n3");
        assert_eq!(store.joins("n4", &joined).unwrap().name, "n3");
    }

    #[test]
    fn nobody_begins_while_two_may_have_it() {
        let three = ["n1", "n2", "n3"].map(|name| node(name, ControlPlane));
        let store = after(&[&three[..1], &three, &three[1..]]);
        assert!(["n2", "n3"].iter().all(|name| !store.begins(name)), "{store:?}");
        assert_eq!(store.joins("n2", &three[1..]).unwrap().name, "n3");
        assert_eq!(store.joins("n3", &three[1..]).unwrap().name, "n2");
        assert!(store.with(&three[2..]).begins("n3"), "no other one has it");
    }

    #[test]
    fn one_that_is_no_server_any_more_may_have_it_still() {
        let before = [node("n1", ControlPlane), node("n2", Worker)];
        let swapped = [node("n1", Worker), node("n2", ControlPlane)];
        let store = after(&[&before, &swapped]);
        assert!(!store.begins("n2"));
        assert_eq!(store.joins("n2", &swapped).unwrap().name, "n1");
        let back = ["n1", "n2"].map(|name| node(name, ControlPlane));
        assert!(!store.with(&back).begins("n1"), "nobody knows what n2 has");
        assert!(store.with(&swapped[1..]).begins("n2"));
    }

    proptest! {
        #[test]
        fn noting_it_twice_changes_nothing(steps in prop::collection::vec(prop::collection::btree_map(0u8..5, any::<bool>(), 0..5), 1..6)) {
            let mut store = Datastore::default();
            for nodes in steps {
                let role = |server| if server { ControlPlane } else { Worker };
                let nodes: Vec<_> = nodes.iter().map(|(n, server)| node(&n.to_string(), role(*server))).collect();
                store = store.with(&nodes);
                prop_assert_eq!(&store.with(&nodes), &store);
            }
        }
    }
}
