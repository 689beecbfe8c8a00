//! Laws of the controllers: whatever happens in whatever order, what is derived fits what it is
//! derived from, nothing is given out twice, and looking again changes nothing.

mod clusters;

use super::*;
use crate::http::ApiError;
use crate::rules::{Presentation, present};
use crate::store::{Forget, Index, Key, OVERLAY_ANNOTATION, State, Store, Tx};
use crate::trust::DeviceRequest;
use datastore::Datastore;
use holdfast_api::resources::{
    Decision, EdgePolicy, Kind, NodeConfig, NodeRole, RegionalEdge, RegionalEdgeSpec, Registration,
    RegistrationSpec, Site, SiteNode, SiteSpec, TunnelPeer,
};
use holdfast_api::token::{TokenId, TokenSecret};
use holdfast_api::tunnel::PublicKey;
use jiff::Timestamp;
use proptest::prelude::*;
use render::NodeInput;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

const DEVICES: usize = 6;

fn requests() -> &'static [String] {
    static REQUESTS: OnceLock<Vec<String>> = OnceLock::new();
    REQUESTS.get_or_init(|| {
        let one = |_| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
        };
        (0..DEVICES).map(one).collect()
    })
}

fn registration_key(device: usize) -> Key {
    let name = DeviceRequest::parse(&requests()[device]).unwrap().device().registration();
    Key::new(Kind::Registration, "t", &name)
}

#[derive(Debug, Clone)]
enum Op {
    Present { device: usize, site: Option<u8>, auto: bool, replaces: Option<u8> },
    Decide { device: usize, yes: bool },
    DeleteSite(u8),
    EmptySite(u8),
    DeleteRegistration(usize),
    Edge(u8, bool),
    DeleteEdge(u8),
}

fn ops() -> impl Strategy<Value = Op> {
    let device = 0..DEVICES;
    prop_oneof![
        6 => (device.clone(), prop::option::of(0u8..2), prop::bool::weighted(0.7), prop::option::weighted(0.3, 0u8..3))
            .prop_map(|(device, site, auto, replaces)| Op::Present { device, site, auto, replaces }),
        2 => (device.clone(), any::<bool>()).prop_map(|(device, yes)| Op::Decide { device, yes }),
        1 => (0u8..2).prop_map(Op::DeleteSite),
        1 => (0u8..2).prop_map(Op::EmptySite),
        1 => device.prop_map(Op::DeleteRegistration),
        2 => (0u8..3, any::<bool>()).prop_map(|(n, drained)| Op::Edge(n, drained)),
        1 => (0u8..3).prop_map(Op::DeleteEdge),
    ]
}

fn fleet() -> Arc<Fleet> {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_make(dir.path(), Timestamp::now()).unwrap();
    Arc::new(Fleet::new(authority, FleetSettings::default()))
}

fn site_name(n: u8) -> String {
    format!("site{n}")
}

/// A token of its own for each presentation.
fn token(
    tx: &mut Tx<'_>,
    serial: u8,
    site: Option<u8>,
    auto: bool,
    replaces: Option<u8>,
) -> (TokenId, TokenSecret) {
    let rule = if auto { "Automatic" } else { "Manual" };
    let name = |n: u8| site_name(site.unwrap_or(0)) + ["", "-2", "-3"][usize::from(n)];
    let replaces = replaces.map(name);
    made(
        tx,
        serial,
        json!({
            "uses": 1, "approval": rule, "site": site.map(site_name), "replaces": replaces,
        }),
    )
}

/// One for `site0`.
fn token_for(tx: &mut Tx<'_>, serial: u8, replaces: Option<&str>) -> (TokenId, TokenSecret) {
    let site = site_name(0);
    made(
        tx,
        serial,
        json!({
            "uses": 1, "approval": "Automatic", "site": site, "replaces": replaces,
        }),
    )
}

fn made(tx: &mut Tx<'_>, serial: u8, spec: serde_json::Value) -> (TokenId, TokenSecret) {
    let (id, secret) = (TokenId([serial, 0, 0, 0, 0]), TokenSecret::new([serial; 10]));
    let status = json!({"id": id.to_string(), "used": 0});
    let value = json!({"metadata": {}, "spec": spec, "status": status});
    let hash = holdfast_api::hex(&crate::sha256(secret.expose()));
    save(tx, Key::new(Kind::Token, "t", &format!("t{serial}")), value, Some(hash));
    (id, secret)
}

fn show(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    device: usize,
    (id, secret): (TokenId, TokenSecret),
) -> Result<(), ApiError> {
    let spec = RegistrationSpec {
        csr: requests()[device].clone(),
        hostname: "box".into(),
        wireguard_public_key: Some(PublicKey([1 + u8::try_from(device).unwrap(); 32])),
        ..Default::default()
    };
    let key = registration_key(device);
    let metadata = json!({});
    present(Presentation { key, id, secret, spec, metadata, key_proved: true }, fleet, tx)?;
    Ok(())
}

fn apply(tx: &mut Tx<'_>, fleet: &Fleet, serial: u8, op: &Op) -> Result<(), ApiError> {
    match op {
        Op::Present { device, site, auto, replaces } => {
            let token = token(tx, serial, *site, *auto, *replaces);
            show(tx, fleet, *device, token)?;
        }
        Op::Decide { device, yes } => {
            if let Some(entry) = tx.get(&registration_key(*device)) {
                let decision = if *yes { Decision::Approved } else { Decision::Rejected };
                object::set_field(tx, &entry, "approval", json!({ "decision": decision }));
            }
        }
        Op::DeleteSite(n) => drop(tx.delete(&Key::new(Kind::Site, "t", &site_name(*n)))),
        Op::EmptySite(n) => {
            if let Some(entry) = tx.get(&Key::new(Kind::Site, "t", &site_name(*n))) {
                object::set_field(tx, &entry, "nodes", json!([]));
            }
        }
        Op::DeleteRegistration(device) => drop(tx.delete(&registration_key(*device))),
        Op::Edge(n, drained) => {
            let value = json!({"metadata": {}, "spec": {
                "endpoint": "192.0.2.1:1", "probe": "192.0.2.1:2", "drained": drained,
                "publicKey": PublicKey([100 + n; 32]).to_string(),
            }});
            let key = Key::new(Kind::RegionalEdge, "", &format!("re{n}"));
            let value = tx.get(&key).map_or(value.clone(), |old| {
                let mut new = old.value.clone();
                new["spec"]["drained"] = (*drained).into();
                new
            });
            save(tx, key, value, None);
        }
        Op::DeleteEdge(n) => drop(tx.delete(&Key::new(Kind::RegionalEdge, "", &format!("re{n}")))),
    }
    fleet.settle(tx);
    // What the task does after a change of edges.
    for site in tx.list(Kind::Site, None) {
        fleet.refresh_site(tx, &site.key);
    }
    Ok(())
}

/// Everything that must hold whatever happened.
fn check(state: &State) {
    let mut admitted = 0;
    let mut addresses = BTreeSet::new();
    for entry in state.list(Kind::Registration, None, None) {
        let registration: Registration = entry.decode().unwrap();
        let status = registration.status.unwrap();
        let address = entry.annotation(OVERLAY_ANNOTATION);
        if entry.text("/status/phase") != "Admitted" {
            assert_eq!(
                (status.certificate, status.node, address),
                (None, None, ""),
                "nothing is left"
            );
            continue;
        }
        admitted += 1;
        assert!(status.certificate.is_some() && addresses.insert(address.to_owned()));
        let (site, node) = (status.site.unwrap(), status.node.unwrap());
        let home: Site = state.get(&Key::new(Kind::Site, "t", &site)).unwrap().decode().unwrap();
        let own: Vec<&SiteNode> =
            home.spec.nodes.iter().filter(|n| n.registration == entry.key.name).collect();
        assert!(own.len() == 1 && own[0].name == node);
        let config: NodeConfig =
            state.get(&Key::new(Kind::NodeConfig, "t", &node)).unwrap().decode().unwrap();
        assert_eq!((config.spec.site.as_str(), config.spec.role), (site.as_str(), own[0].role));
        let tunnels = config.spec.tunnels.unwrap();
        assert_eq!(tunnels.overlay_address.to_string(), address);
        let peer: TunnelPeer =
            state.get(&Key::new(Kind::TunnelPeer, "t", &node)).unwrap().decode().unwrap();
        assert_eq!(peer.spec.overlay_address, tunnels.overlay_address);
        for candidate in &tunnels.candidates {
            assert!(peer.spec.edges.contains(&candidate.name), "an edge must know its guests");
            let edge = state.get(&Key::new(Kind::RegionalEdge, "", &candidate.name)).unwrap();
            assert!(!edge.decode::<RegionalEdge>().unwrap().spec.drained);
        }
    }
    let count = |kind| state.list(kind, None, None).count();
    assert_eq!((count(Kind::NodeConfig), count(Kind::TunnelPeer)), (admitted, admitted));
    let sites: Vec<Site> =
        state.list(Kind::Site, None, None).map(|entry| entry.decode().unwrap()).collect();
    assert_eq!(sites.iter().map(|site| site.spec.nodes.len()).sum::<usize>(), admitted);
    let prefixes: BTreeSet<_> = sites.iter().map(|site| site.spec.prefix.unwrap()).collect();
    assert_eq!(prefixes.len(), sites.len(), "no prefix twice");
    let edges = state.list(Kind::RegionalEdge, None, None);
    let addresses: Vec<_> =
        edges.map(|edge| edge.text("/spec/overlayAddress").to_owned()).collect();
    let distinct: BTreeSet<_> = addresses.iter().collect();
    assert!(distinct.len() == addresses.len() && !addresses.contains(&String::new()));
    assert_eq!(state.terms(Index::Overlay).count(), admitted + addresses.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_derived_fits_whatever_happens(ops in prop::collection::vec(ops(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(Forget, crate::system_clock(), 10).unwrap();
            let fleet = fleet();
            for (serial, op) in ops.into_iter().enumerate() {
                let serial = u8::try_from(serial).unwrap();
                let (worker, op_again) = (fleet.clone(), op.clone());
                let result: Result<(), ApiError> = store
                    .write(move |tx| apply(tx, &worker, serial, &op_again))
                    .await;
                prop_assert!(result.is_ok(), "{op:?}: {result:?}");
                store.read(|state, _| check(state));
                // Looking at everything again changes nothing.
                let worker = fleet.clone();
                let writes = store.write(move |tx| {
                    for kind in [Kind::Registration, Kind::Site, Kind::RegionalEdge] {
                        for entry in tx.list(kind, None) {
                            worker.step(tx, &entry.key);
                        }
                    }
                    Ok::<_, ApiError>(tx.writes())
                }).await.unwrap();
                prop_assert_eq!(writes, 0, "after {:?}", op);
            }
            Ok(())
        })?;
    }
}

/// A new device has the role of the one whose place it takes; nobody else gets another role, and
/// neither its name nor its address is that of the one that went.
#[tokio::test]
async fn a_node_takes_the_place_of_another() {
    let store = Store::open(Forget, crate::system_clock(), 10).unwrap();
    let fleet = fleet();
    let site = |tx: &mut Tx<'_>| -> Site {
        tx.get(&Key::new(Kind::Site, "t", "site0")).unwrap().decode().unwrap()
    };
    let told = |site: &Site| -> Vec<(String, NodeRole, String)> {
        let nodes = site.spec.nodes.iter();
        nodes
            .map(|node| (node.name.clone(), node.role, node.address.unwrap().to_string()))
            .collect()
    };
    let work = move |tx: &mut Tx<'_>| {
        for device in 0..4 {
            let token = token(tx, u8::try_from(device).unwrap(), Some(0), true, None);
            show(tx, &fleet, device, token)?;
        }
        let before = told(&site(tx));
        let mut value = tx.get(&Key::new(Kind::Site, "t", "site0")).unwrap().value.clone();
        value["spec"]["kubernetes"] = json!({});
        save(tx, Key::new(Kind::Site, "t", "site0"), value, None);
        // A control plane goes while a worker stands by.
        let token = token(tx, 4, Some(0), true, Some(1));
        show(tx, &fleet, 4, token)?;
        let config = tx.get(&Key::new(Kind::NodeConfig, "t", "site0")).unwrap();
        let phase = tx.get(&registration_key(1)).unwrap().text("/status/phase").to_owned();
        Ok::<_, ApiError>((before, told(&site(tx)), config.decode::<NodeConfig>(), phase))
    };
    let (before, after, config, phase) = store.write(work).await.unwrap();
    let node = |name: &str, role, last: u8| (name.to_owned(), role, format!("10.128.0.{last}"));
    use NodeRole::{ControlPlane, Worker};
    let [first, third] = [node("site0", ControlPlane, 1), node("site0-3", ControlPlane, 3)];
    let worker = node("site0-4", Worker, 4);
    assert_eq!(
        before,
        [first.clone(), node("site0-2", ControlPlane, 2), third.clone(), worker.clone()]
    );
    assert_eq!(after, [first, third, worker, node("site0-5", ControlPlane, 5)]);
    let intent = config.unwrap().spec.kubernetes.unwrap();
    assert_eq!(intent.retired, ["site0-2"]);
    assert!(!intent.nodes.contains(&"site0-2".to_owned()));
    assert_eq!(phase, "Retired");
}

fn edge(name: &str, drained: bool) -> RegionalEdge {
    let spec = RegionalEdgeSpec {
        endpoint: Some("192.0.2.1:1".parse().unwrap()),
        probe: Some("192.0.2.1:2".parse().unwrap()),
        public_key: Some(PublicKey([1; 32])),
        overlay_address: Some("100.127.0.1".parse().unwrap()),
        routes: vec!["10.0.0.1/8".parse().unwrap()],
        drained,
        ..Default::default()
    };
    RegionalEdge::new(None, name, spec)
}

#[test]
fn candidates_are_allowed_complete_and_not_drained() {
    let mut incomplete = edge("e", false);
    incomplete.spec.probe = None;
    let edges = [edge("a", false), edge("b", true), edge("c", false), edge("d", false), incomplete];
    let names = |only: &[&str], except: &[&str]| -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let policy = EdgePolicy { only: list(only), except: list(except), ..Default::default() };
        render::candidates(&policy, &edges).into_iter().map(|c| c.name).collect()
    };
    assert_eq!(names(&[], &[]), ["a", "c", "d"]);
    assert_eq!(names(&["a", "b"], &[]), ["a"]);
    assert_eq!(names(&["a", "c"], &["c"]), ["a"]);
    assert_eq!(render::candidates(&EdgePolicy::default(), &edges)[0].failure_domain, "a");
}

#[test]
fn a_number_grows_with_the_content_and_never_falls() {
    let node = SiteNode { name: "n".into(), registration: "r".into(), ..Default::default() };
    let mut spec = SiteSpec { nodes: vec![node.clone()], ..Default::default() };
    let config = |spec: &SiteSpec| {
        let overlay = Some("100.64.0.1".parse().unwrap());
        let input = NodeInput {
            site: "s",
            spec,
            node: &node,
            overlay,
            public_key: None,
            release: None,
            left: &[],
            datastore: &Datastore::default(),
        };
        render::node_config(input, &[edge("a", false)])
    };
    let first = render::number(None, config(&spec), 7);
    assert_eq!(first.generation, 7);
    assert_eq!(first.tunnels.as_ref().unwrap().routes, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(render::number(Some(&first), config(&spec), 20), first);
    spec.sysctls.insert("a".into(), "1".into());
    let second = render::number(Some(&first), config(&spec), 20);
    assert_eq!(second.generation, 20);
    // A controller restored from a backup may be behind; a node still gets something newer.
    spec.sysctls.insert("a".into(), "2".into());
    assert_eq!(render::number(Some(&second), config(&spec), 3).generation, 21);
}

#[test]
fn an_edge_overrides_only_what_it_changed() {
    let base = edge("a", false).spec;
    let mut have = base.clone();
    have.capacity = 9;
    have.endpoint = Some("192.0.2.7:1".parse().unwrap());
    let mut now = base.clone();
    now.probe = Some("192.0.2.8:2".parse().unwrap());
    let merged = render::edge(&have, &base, &now);
    assert_eq!((merged.capacity, merged.endpoint, merged.probe), (9, have.endpoint, now.probe));
    now.endpoint = Some("192.0.2.9:1".parse().unwrap());
    assert_eq!(render::edge(&have, &base, &now).endpoint, now.endpoint);
}
