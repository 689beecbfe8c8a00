//! The law of a site's Kubernetes: whatever happens to its nodes and in whatever order they hear of
//! it, there is one cluster, and no second one is begun while a node of the site has the first.

use super::*;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Turn {
    /// A device joins, in the place of a node perhaps.
    Join(usize, Option<usize>),
    Leave(usize),
    /// The operator puts this node last.
    Last(usize),
    /// The operator gives this node the other role.
    Role(usize),
    /// The node hears what it is to do, and does it.
    Hears(usize),
}

fn turns() -> impl Strategy<Value = Turn> {
    let node = 0..4usize;
    prop_oneof![
        3 => (0..DEVICES, prop::option::weighted(0.3, node.clone())).prop_map(|(device, old)| Turn::Join(device, old)),
        1 => node.clone().prop_map(Turn::Leave),
        1 => node.clone().prop_map(Turn::Last),
        1 => node.clone().prop_map(Turn::Role),
        5 => node.prop_map(Turn::Hears),
    ]
}

fn site_key() -> Key {
    Key::new(Kind::Site, "t", "site0")
}

fn nodes(tx: &Tx<'_>) -> Vec<SiteNode> {
    let site = tx.get(&site_key()).and_then(|entry| entry.decode::<Site>());
    site.map(|site| site.spec.nodes).unwrap_or_default()
}

fn intent(tx: &Tx<'_>, node: &SiteNode) -> KubernetesIntent {
    let entry = tx.get(&Key::new(Kind::NodeConfig, "t", &node.name)).unwrap();
    entry.decode::<NodeConfig>().unwrap().spec.kubernetes.unwrap()
}

/// What the boxes have on their disks: the number of their cluster, once they are of one.
#[derive(Debug, Default)]
struct Boxes {
    disks: BTreeMap<(String, String), u32>,
    begun: u32,
}

fn id(node: &SiteNode) -> (String, String) {
    (node.name.clone(), node.registration.clone())
}

impl Boxes {
    fn hears(&mut self, tx: &Tx<'_>, node: &SiteNode) {
        let intent = intent(tx, node);
        let has = self.disks.get(&id(node)).copied();
        match intent.role {
            KubernetesRole::ClusterInit if has.is_none() => {
                assert!(self.disks.is_empty(), "{} begins beside {:?}", node.name, self.disks);
                self.begun += 1;
                self.disks.insert(id(node), self.begun);
            }
            KubernetesRole::Server if has.is_none() => {
                let address = intent.server.expect("a server that joins is told where");
                let nodes = nodes(tx);
                let other = nodes
                    .iter()
                    .find(|other| address == format!("https://{}:6443", other.address.unwrap()));
                let joined = self.disks.get(&id(other.unwrap())).copied();
                self.disks.extend(joined.map(|cluster| (id(node), cluster)));
            }
            KubernetesRole::ClusterInit | KubernetesRole::Server | KubernetesRole::Agent => {}
        }
    }

    /// Those that left have nothing to say any more.
    fn check(&mut self, tx: &Tx<'_>) {
        let nodes = nodes(tx);
        self.disks.retain(|one, _| nodes.iter().any(|node| id(node) == *one));
        let clusters: BTreeSet<u32> = self.disks.values().copied().collect();
        assert!(clusters.len() <= 1, "{:?}", self.disks);
        let begin = nodes.iter().filter(|n| intent(tx, n).role == KubernetesRole::ClusterInit);
        assert!(begin.count() <= 1);
    }
}

fn play(tx: &mut Tx<'_>, fleet: &Fleet, serial: u8, turn: &Turn, boxes: &mut Boxes) {
    let mut list = nodes(tx);
    let count = list.len().max(1);
    let set = |tx: &mut Tx<'_>, list: &[SiteNode]| {
        let entry = tx.get(&site_key()).unwrap();
        object::set_field(tx, &entry, "nodes", to_value(&list));
        fleet.settle(tx);
    };
    match turn {
        Turn::Join(device, old) => {
            let old = old.and_then(|old| list.get(old).map(|node| node.name.clone()));
            let token = token_for(tx, serial, old.as_deref());
            show(tx, fleet, *device, token).unwrap();
            fleet.settle(tx);
        }
        Turn::Leave(n) if !list.is_empty() => {
            list.remove(n % count);
            set(tx, &list);
        }
        Turn::Last(n) if !list.is_empty() => {
            let node = list.remove(n % count);
            list.push(node);
            set(tx, &list);
        }
        Turn::Role(n) if !list.is_empty() => {
            let role = &mut list[n % count].role;
            *role = match role {
                NodeRole::ControlPlane => NodeRole::Worker,
                NodeRole::Worker => NodeRole::ControlPlane,
            };
            // What the API refuses.
            if list.iter().any(|node| node.role == NodeRole::ControlPlane) {
                set(tx, &list);
            }
        }
        Turn::Hears(n) => list.get(*n).into_iter().for_each(|node| boxes.hears(tx, node)),
        Turn::Leave(_) | Turn::Last(_) | Turn::Role(_) => {}
    }
    boxes.check(tx);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_site_has_one_cluster(turns in prop::collection::vec(turns(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(Forget, crate::system_clock(), 10).unwrap();
            let fleet = fleet();
            let begin = fleet.clone();
            store.write(move |tx| {
                let value = json!({"metadata": {}, "spec": {"kubernetes": {}}});
                save(tx, site_key(), value, None);
                begin.settle(tx);
                Ok::<_, ApiError>(())
            }).await.unwrap();
            let mut boxes = Boxes::default();
            for (serial, turn) in turns.into_iter().enumerate() {
                let serial = u8::try_from(serial).unwrap();
                let worker = fleet.clone();
                boxes = store.write(move |tx| {
                    play(tx, &worker, serial, &turn, &mut boxes);
                    Ok::<_, ApiError>(boxes)
                }).await.unwrap();
            }
        });
    }
}

/// The scenario that once made a second cluster, and one where everybody hears at once.
#[tokio::test]
async fn a_worker_that_is_promoted_joins_the_one_that_replaced_the_first() {
    let store = Store::open(Forget, crate::system_clock(), 10).unwrap();
    let fleet = fleet();
    let work = move |tx: &mut Tx<'_>| {
        let value = json!({"metadata": {}, "spec": {"kubernetes": {}}});
        save(tx, site_key(), value, None);
        let mut boxes = Boxes::default();
        let all = (0..3).map(Turn::Hears);
        let turns = [Turn::Join(0, None), Turn::Join(1, None), Turn::Join(2, Some(0))];
        let turns = turns.into_iter().chain(all.clone()).chain([Turn::Join(3, None)]);
        for (serial, turn) in turns.chain(all.rev()).enumerate() {
            play(tx, &fleet, u8::try_from(serial).unwrap(), &turn, &mut boxes);
        }
        let parts = nodes(tx).into_iter().map(|node| (intent(tx, &node).role, node.name));
        Ok::<_, ApiError>((parts.collect::<Vec<_>>(), boxes.disks.len()))
    };
    let (parts, have) = store.write(work).await.unwrap();
    use KubernetesRole::{ClusterInit, Server};
    let expected = [(Server, "site0-2"), (ClusterInit, "site0-3"), (Server, "site0-4")];
    assert_eq!(parts, expected.map(|(role, name)| (role, name.to_owned())));
    assert_eq!(have, 3);
}
