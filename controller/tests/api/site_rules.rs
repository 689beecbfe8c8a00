//! What operators may write into sites and edges: nothing that nodes would refuse.

use super::world::{BASE, Device, World, of};
use holdfast_api::resources::Kind;
use holdfast_controller::fleet::{self, FleetSettings};
use holdfast_controller::store::{Embedded, HISTORY, Key, Store, StoreError};
use serde_json::{Value, json};

/// A site as it could be written before there were rules for it.
fn bad_site() -> Value {
    json!({
        "hosts": [{"address": "10.0.0.1", "names": ["a", "x\n6.6.6.6 evil.example"]}],
        "sysctls": {"kernel.core_pattern": "|/bin/sh", "vm.swappiness": "1\n2"},
        "ssh": {
            "authorities": ["ssh-ed25519 AAAA\nPermitRootLogin yes"],
            "principals": {"../root": ["ops"], "root": ["a b"]},
        },
        "edges": {"only": ["re 1"]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_refuse_is_refused_by_field() {
    let world = World::new().await;
    world.node("acme", "ce01").await;
    let operator = world.operator(Some("acme")).await;
    let (sites, path) = (of("acme", "sites"), of("acme", "sites/ce01"));
    let before = operator.must(&path).await;
    let config = operator.must(&of("acme", "nodeconfigs/ce01")).await;
    let wrong = [
        "spec.edges.only[0]",
        "spec.hosts[0].names[1]",
        "spec.ssh.authorities[0]",
        "spec.ssh.principals[../root]",
        "spec.ssh.principals.root[0]",
        "spec.sysctls[kernel.core_pattern]",
        "spec.sysctls[vm.swappiness]",
    ];
    let answer = operator.patch(&path, &json!({"spec": bad_site()})).await;
    assert_eq!((answer.code, answer.fields()), (422, wrong.map(String::from).to_vec()));
    let status = answer.status();
    assert_eq!((status.reason.as_str(), status.code), ("Invalid", 422));
    assert!(status.message.contains("may only be set on the machine itself"), "{}", status.message);
    let made = json!({"metadata": {"name": "ce02"}, "spec": bad_site()});
    assert_eq!(operator.post(&sites, &made).await.fields(), wrong);
    let yaml = [("content-type", "application/apply-patch+yaml")];
    let applied =
        json!({"apiVersion": "fleet.holdfast.dev/v1alpha1", "kind": "Site", "spec": bad_site()});
    let target = format!("{path}?fieldManager=me");
    assert_eq!(operator.call("PATCH", &target, &yaml, applied.to_string()).await.fields(), wrong);
    assert_eq!(operator.must(&path).await, before);
    assert_eq!(operator.must(&of("acme", "nodeconfigs/ce01")).await, config);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_already_can_be_read_and_mended() {
    let mut world = World::new().await;
    world.node("acme", "ce01").await;
    world.stop().await;
    let data = world.data.path().to_owned();
    let store = tokio::task::spawn_blocking(move || {
        let clock = holdfast_controller::system_clock();
        Store::open(Embedded::new(&data), clock, HISTORY).unwrap()
    })
    .await
    .unwrap();
    let kept = store.write(|tx| {
        let key = Key::new(Kind::Site, "acme", "ce01");
        let mut value = tx.get(&key).unwrap().value.clone();
        for (field, bad) in bad_site().as_object().unwrap() {
            value["spec"][field] = bad.clone();
        }
        fleet::save(tx, key, value, None);
        Ok::<_, StoreError>(())
    });
    kept.await.unwrap();
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    world.start().await;

    let operator = world.operator(Some("acme")).await;
    let path = of("acme", "sites/ce01");
    let site = operator.must(&path).await;
    assert_eq!(site["spec"]["sysctls"], bad_site()["sysctls"]);
    // What has nothing to do with it.
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(operator.patch(&path, &label).await.code, 200);
    assert_eq!(operator.put(&path, &operator.must(&path).await).await.code, 200);
    // Bad in another way.
    let worse = json!({"spec": {"sysctls": {"kernel.core_pattern": "y"}}});
    let worse = operator.patch(&path, &worse).await;
    assert_eq!(worse.fields(), ["spec.sysctls[kernel.core_pattern]"]);
    // One after the other, and all of it.
    let one = json!({"spec": {"sysctls": {"kernel.core_pattern": null}}});
    assert_eq!(operator.patch(&path, &one).await.code, 200);
    let rest = json!({"spec": {
        "hosts": [], "sysctls": null, "ssh": null, "edges": null,
    }});
    assert_eq!(operator.patch(&path, &rest).await.code, 200);
    let config = operator.must(&of("acme", "nodeconfigs/ce01")).await;
    assert_eq!((config["spec"]["hosts"].get(0), config["spec"]["sysctls"].get(0)), (None, None));
    let again = json!({"spec": {"sysctls": {"kernel.core_pattern": "|/bin/sh"}}});
    assert_eq!(operator.patch(&path, &again).await.code, 422, "what is mended stays so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_the_sites_alone_and_its_hosts_can_be_reached() {
    let world = World::new().await;
    world.edge("re-1", 1).await;
    let all = world.operator(None).await;
    let edge = format!("{BASE}/regionaledges/re-1");
    let moved = all.patch(&edge, &json!({"spec": {"overlayAddress": "172.30.0.1"}})).await;
    assert_eq!(moved.code, 200, "{}", moved.body);
    let operator = world.operator(Some("acme")).await;
    for (prefix, why) in [
        ("0.0.0.0/0", "covers all"),
        ("::/0", "covers all"),
        ("127.0.0.0/8", "where no hosts are"),
        ("fe80::/64", "where no hosts are"),
        ("100.64.0.0/24", "100.64.0.0/11"),
        ("100.0.0.0/8", "where nodes and edges have their addresses"),
        ("172.30.0.0/24", "the address of the edge \"re-1\""),
    ] {
        let site = json!({"metadata": {"name": "a"}, "spec": {"prefix": prefix}});
        let answer = operator.post(&of("acme", "sites"), &site).await;
        assert_eq!((answer.code, answer.fields()), (422, vec!["spec.prefix".to_owned()]));
        assert!(answer.status().message.contains(why), "{prefix}: {}", answer.status().message);
    }
}

/// Nodes route and edges announce prefixes of both families; what they need for it is that the
/// controller tells them.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_may_have_an_ipv6_prefix() {
    let fleet = FleetSettings {
        site_pool: "fd00:10::/32".parse().unwrap(),
        site_prefix_bits: 64,
        ..FleetSettings::default()
    };
    let world = World::with(fleet, HISTORY).await;
    world.edge("re-1", 1).await;
    let all = world.operator(None).await;
    let edge = format!("{BASE}/regionaledges/re-1");
    let routes = json!({"spec": {"routes": ["10.1.0.0/16", "fd00:20::1/32"]}});
    assert_eq!(all.patch(&edge, &routes).await.code, 200);
    let operator = world.operator(Some("acme")).await;
    let given = json!({"metadata": {"name": "given"}, "spec": {"prefix": "fd00::1/64"}});
    let made = operator.create(&of("acme", "sites"), &given).await;
    assert_eq!(made["spec"]["prefix"], "fd00::/64");
    for (site, prefix) in [("given", "fd00::/64"), ("pooled", "fd00:10::/64")] {
        world.node("acme", site).await;
        let config = operator.must(&of("acme", &format!("nodeconfigs/{site}"))).await;
        let tunnels = &config["spec"]["tunnels"];
        assert_eq!(tunnels["sitePrefixes"], json!([prefix]));
        assert_eq!(tunnels["routes"], json!(["10.1.0.0/16", "fd00:20::/32"]));
        let peer = operator.must(&of("acme", &format!("tunnelpeers/{site}"))).await;
        assert_eq!(peer["spec"]["sitePrefixes"], json!([prefix]));
    }
    let inside = json!({"metadata": {"name": "b"}, "spec": {"prefix": "fd00:0:0:0:8000::/65"}});
    assert_eq!(operator.post(&of("acme", "sites"), &inside).await.fields(), ["spec.prefix"]);
}

/// A node refuses all of its tunnels when one of the edges that it may use cannot be one.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_no_node_could_use_is_refused() {
    let world = World::new().await;
    let (device, _) = world.edge("re-1", 1).await;
    world.node("acme", "ce01").await;
    let operator = world.operator(None).await;
    let edge = format!("{BASE}/regionaledges/re-1");
    let site = json!({"spec": {"prefix": "10.200.0.0/16"}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &site).await.code, 200);
    let cases = [
        ("endpoint", json!("192.0.2.1:0")),
        ("probe", json!("0.0.0.0:7201")),
        ("backbone", json!("224.0.0.1:7201")),
        ("publicKey", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        ("overlayAddress", json!("fd00::1")),
        ("overlayAddress", json!("127.0.0.1")),
        ("overlayAddress", json!("0.0.0.0")),
        ("overlayAddress", json!("10.200.0.1")),
        ("overlayAddress", json!("100.64.0.1")),
    ];
    for (field, value) in &cases {
        let answer = operator.patch(&edge, &json!({"spec": {*field: value}})).await;
        assert_eq!((answer.code, answer.fields()), (422, vec![format!("spec.{field}")]), "{value}");
    }
    // The same when the device says so itself: anew, or for the first time.
    let own = of("infra", &format!("registrations/{}", device.name()));
    let client = world.device(&device).await;
    let registered = client.must(&own).await;
    let spec = json!({"approval": "Automatic", "role": "RegionalEdge"});
    let token = world.token("infra", spec).await;
    for (field, value) in &cases {
        let mut again = registered.clone();
        again["spec"]["edge"][*field] = value.clone();
        let fields = vec![format!("spec.edge.{field}")];
        assert_eq!(client.put(&own, &again).await.fields(), fields, "{value}");
        let new = Device::new();
        let offer = json!({"role": "RegionalEdge", "edge": {*field: value}});
        let answer = world.device(&new).await.present(&token, &new.registration(offer)).await;
        assert_eq!((answer.code, answer.fields()), (422, fields), "{value}");
    }
    let new = Device::new();
    let zero = json!({"wireguardPublicKey": cases[3].1});
    let token = world.token("acme", json!({})).await;
    let answer = world.device(&new).await.present(&token, &new.registration(zero)).await;
    assert_eq!(answer.fields(), ["spec.wireguardPublicKey"]);
}
