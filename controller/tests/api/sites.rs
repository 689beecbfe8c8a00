//! Sites: joining, roles, rendering, leaving, and how they are.

use super::world::{Device, World, of};
use holdfast_controller::fleet::FleetSettings;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn tunnels(edges: &[&str]) -> Value {
    let one = |edge: &&str| {
        json!({
            "edge": edge, "link": "hf-wg0", "kind": "wireguard-kernel", "state": "up", "active": true,
            "rxBytes": 1, "txBytes": 1, "sinceMs": 5,
        })
    };
    json!({
        "generation": 1, "tunnels": edges.iter().map(one).collect::<Vec<_>>(),
        "candidates": [], "failovers": 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_a_site_and_get_their_roles() {
    let world = World::new().await;
    let token =
        world.token("acme", json!({"approval": "Automatic", "site": "ce01", "uses": 4})).await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        let device = Device::new();
        nodes.push(
            world.register(&token, &device, json!({})).await["status"]["node"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(nodes, ["ce01", "ce01-2", "ce01-3", "ce01-4"]);
    let operator = world.operator(Some("acme")).await;
    let configs =
        operator.must(&of("acme", "nodeconfigs?labelSelector=holdfast.dev/site%3Dce01")).await;
    let of_each = |field: &str| -> Vec<Value> {
        configs["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c.pointer(field).cloned().unwrap_or_default())
            .collect()
    };
    assert_eq!(
        of_each("/spec/role"),
        ["control-plane", "control-plane", "control-plane", "worker"]
    );
    let overlays: BTreeSet<String> =
        of_each("/spec/tunnels/overlayAddress").iter().map(Value::to_string).collect();
    assert_eq!(overlays.len(), 4, "never two the same");
    let prefixes = of_each("/spec/tunnels/sitePrefixes");
    assert_eq!(
        prefixes,
        [json!(["10.128.0.0/24"]), Value::Null, Value::Null, Value::Null],
        "one way to a prefix"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_the_datastore_stays_a_control_plane() {
    let world = World::new().await;
    let token =
        world.token("acme", json!({"approval": "Automatic", "site": "ce01", "uses": 2})).await;
    for _ in 0..2 {
        world.register(&token, &Device::new(), json!({})).await;
    }
    let operator = world.operator(Some("acme")).await;
    let site = of("acme", "sites/ce01");
    let kubernetes = json!({"spec": {"kubernetes": {}}});
    assert_eq!(operator.patch(&site, &kubernetes).await.code, 200);
    let nodes = operator.must(&site).await["spec"]["nodes"].clone();
    let with = |order: [usize; 2], roles: [&str; 2]| {
        let mut nodes = order.map(|at| nodes[at].clone());
        nodes.iter_mut().zip(roles).for_each(|(node, role)| node["role"] = role.into());
        json!({"spec": {"nodes": nodes}})
    };
    let swapped = operator.patch(&site, &with([0, 1], ["worker", "control-plane"])).await;
    assert_eq!(swapped.code, 422, "{}", swapped.body);
    assert_eq!(swapped.body["details"]["causes"][0]["field"], "spec.nodes[0].role");

    // In front and a server, the second joins the first all the same.
    let turned = operator.patch(&site, &with([1, 0], ["control-plane", "control-plane"])).await;
    assert_eq!(turned.code, 200, "{}", turned.body);
    let told = |name: &str| {
        let path = of("acme", &format!("nodeconfigs/{name}"));
        let operator = &operator;
        async move { operator.must(&path).await["spec"]["kubernetes"].clone() }
    };
    let (first, second) = (told("ce01").await, told("ce01-2").await);
    assert_eq!((&first["role"], &first["server"]), (&json!("cluster-init"), &Value::Null));
    assert_eq!(second["role"], "server");
    assert_eq!(second["server"], "https://10.128.0.1:6443");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_changes_its_number_only_with_its_content() {
    let world = World::new().await;
    world.edge("re-1", 1).await;
    let (device, registration) = world.node("acme", "ce01").await;
    let node = world.certified(&device, &registration).await;
    let operator = world.operator(Some("acme")).await;
    let path = of("acme", "nodeconfigs/ce01");
    let first = node.get(&path).await;
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", first.body["status"]["contentHash"].as_str().unwrap()));
    let conditional = [("if-none-match", etag.as_str())];
    let answer = node.call("GET", &path, &conditional, "").await;
    assert_eq!((answer.code, answer.body), (304, Value::Null));

    operator.patch(&of("acme", "sites/ce01"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(
        node.call("GET", &path, &conditional, "").await.code,
        304,
        "labels are not the node's business"
    );
    let change = json!({"spec": {"sysctls": {"net.ipv4.ip_forward": "1"}, "edges": {"want": 1, "bfd": {"intervalMs": 20, "multiplier": 3}}}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &change).await.code, 200);
    let second = node.call("GET", &path, &conditional, "").await;
    assert_eq!(second.code, 200);
    let generation = |config: &Value| config["spec"]["generation"].as_u64().unwrap();
    assert!(generation(&second.body) > generation(&first.body));
    assert_eq!(second.body["spec"]["sysctls"]["net.ipv4.ip_forward"], "1");
    assert_eq!(second.body["spec"]["tunnels"]["bfd"]["intervalMs"], 20);
    // The same change again is none.
    operator.patch(&of("acme", "sites/ce01"), &change).await;
    assert_eq!(node.must(&path).await, second.body);

    // An edge that comes is a candidate, one that is drained is not, and the peer stays with it.
    world.edge("re-2", 2).await;
    let names = |config: &Value| -> Vec<String> {
        let all = config["spec"]["tunnels"]["candidates"].as_array().cloned().unwrap_or_default();
        all.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let third = node.until(&path, |config| names(config) == ["re-1", "re-2"]).await;
    assert_eq!(third["spec"]["tunnels"]["routes"], json!(["10.1.0.0/16", "10.2.0.0/16"]));
    let all = world.operator(None).await;
    let re1 = format!("{}/regionaledges/re-1", super::world::BASE);
    assert_eq!(all.patch(&re1, &json!({"spec": {"drained": true}})).await.code, 200);
    node.until(&path, |config| names(config) == ["re-2"]).await;
    let peer = operator.must(&of("acme", "tunnelpeers/ce01")).await;
    assert_eq!(peer["spec"]["edges"], json!(["re-1", "re-2"]));
    operator
        .patch(&of("acme", "sites/ce01"), &json!({"spec": {"edges": {"except": ["re-2"]}}}))
        .await;
    assert!(names(&node.must(&path).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_site_retires_its_nodes() {
    let world = World::new().await;
    let (device, registration) = world.node("acme", "ce01").await;
    let node = world.certified(&device, &registration).await;
    let report = json!({"metadata": {"name": "ce01"}, "status": {"stage": "Online"}});
    assert_eq!(node.put(&of("acme", "nodestatuses/ce01"), &report).await.code, 201);
    let first = node.must(&of("acme", "nodeconfigs/ce01")).await;
    let operator = world.operator(Some("acme")).await;
    assert_eq!(operator.delete(&of("acme", "sites/ce01")).await.code, 200);
    let refused = node.get(&of("acme", "nodeconfigs/ce01")).await;
    assert_eq!((refused.code, refused.reason()), (403, "registration.retired"));
    // The node can find out what happened.
    let own = node.must(&of("acme", &format!("registrations/{}", device.name()))).await;
    assert_eq!(
        (&own["status"]["phase"], &own["status"]["reason"]),
        (&json!("Retired"), &json!("registration.retired"))
    );
    for kind in ["nodeconfigs", "tunnelpeers", "nodestatuses", "sites"] {
        assert_eq!(operator.must(&of("acme", kind)).await["items"], json!([]), "{kind}");
    }
    // Back by a new token, with a newer configuration than it ever had.
    let token = world.token("acme", json!({"approval": "Automatic", "site": "ce01"})).await;
    let again = world.register(&token, &device, json!({})).await;
    let node = world.certified(&device, &again).await;
    let second = node.must(&of("acme", "nodeconfigs/ce01")).await;
    assert!(second["spec"]["generation"].as_u64() > first["spec"]["generation"].as_u64());
    // Deleting its registration takes it out of the site.
    assert_eq!(
        operator.delete(&of("acme", &format!("registrations/{}", device.name()))).await.code,
        200
    );
    assert_eq!(operator.must(&of("acme", "sites/ce01")).await["spec"]["nodes"], json!([]));
    assert_eq!(node.get(&of("acme", "nodeconfigs/ce01")).await.code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_describe_sites_and_cannot_break_them() {
    let world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    operator.create(&of("acme", "sites"), &json!({"metadata": {"name": "ce01", "labels": {"region": "mine"}}, "spec": {"prefix": "10.200.0.0/16"}})).await;
    let (_, registration) = world.node("acme", "ce01").await;
    let path = of("acme", "sites/ce01");
    let site = operator.must(&path).await;
    assert_eq!(
        (&site["metadata"]["labels"]["region"], &site["spec"]["prefix"]),
        (&json!("mine"), &json!("10.200.0.0/16"))
    );
    // A file that says nothing of nodes leaves them in peace.
    let file = json!({"metadata": {"name": "ce01"}, "spec": {"place": {"region": "eu"}}});
    let replaced = operator.put(&path, &file).await.body;
    assert_eq!(replaced["spec"]["nodes"], site["spec"]["nodes"]);
    assert_eq!(replaced["spec"]["prefix"], "10.200.0.0/16");
    let refused = async |spec: Value| {
        let answer = operator.patch(&path, &json!({ "spec": spec })).await;
        assert_eq!(answer.code, 422, "{}", answer.body);
        answer.fields().join(",")
    };
    assert_eq!(
        refused(json!({"nodes": [{"name": "x", "registration": "y"}]})).await,
        "spec.nodes[0]"
    );
    assert_eq!(refused(json!({"sysctls": {"../../x": "1"}})).await, "spec.sysctls[../../x]");
    assert_eq!(
        refused(json!({"hosts": [{"address": "10.0.0.1", "names": []}]})).await,
        "spec.hosts[0].names"
    );
    assert_eq!(
        refused(json!({"hosts": [{"address": "10.0.0.300", "names": ["a"]}]})).await,
        "spec.hosts[0].address"
    );
    assert_eq!(refused(json!({"edges": {"want": 4}})).await, "spec.edges.want");
    let other = operator
        .post(
            &of("acme", "sites"),
            &json!({"metadata": {"name": "two"}, "spec": {"prefix": "10.200.7.0/24"}}),
        )
        .await;
    assert_eq!((other.code, other.fields()), (422, vec!["spec.prefix".to_owned()]));
    let named =
        operator.post(&of("acme", "sites"), &json!({"metadata": {"name": "Bad_Name"}})).await;
    assert_eq!((named.code, named.fields()), (422, vec!["metadata.name".to_owned()]));
    // Taking a node out of the list retires it.
    assert_eq!(operator.patch(&path, &json!({"spec": {"nodes": []}})).await.code, 200);
    let own = of(
        "acme",
        &format!("registrations/{}", registration["metadata"]["name"].as_str().unwrap()),
    );
    assert_eq!(operator.must(&own).await["status"]["phase"], "Retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_make_a_site_online_and_silence_takes_it_off() {
    let fleet =
        FleetSettings { offline_after: SignedDuration::from_secs(3_600), ..Default::default() };
    let world = World::with(fleet, 100).await;
    let (device, registration) = world.node("acme", "ce01").await;
    let node = world.certified(&device, &registration).await;
    let operator = world.operator(Some("acme")).await;
    let (site, path) = (of("acme", "sites/ce01"), of("acme", "nodestatuses/ce01"));
    let report = json!({"metadata": {"name": "ce01"}, "status": {
        "site": "somebody-else", "stage": "Online", "generation": 1, "profile": "nuc",
        "tunnels": tunnels(&["re-1", "re-2"]), "reportedAt": "1970-01-01T00:00:00Z",
    }});
    let made = node.post(&of("acme", "nodestatuses"), &report).await;
    assert_eq!(
        (made.code, &made.body["status"]["site"]),
        (201, &json!("ce01")),
        "a node speaks for its own site"
    );
    let online = operator.until(&site, |site| site["status"]["phase"] == "Online").await;
    assert_eq!(online["status"]["nodesOnline"], 1);
    assert_eq!(online["status"]["tunnelsUp"], 2);
    assert_eq!(online["status"]["edges"], json!(["re-1", "re-2"]));
    assert_eq!(online["status"]["conditions"][0]["status"], "True");
    let own = of("acme", &format!("registrations/{}", device.name()));
    operator.until(&own, |registration| registration["status"]["phase"] == "Online").await;

    let mut worse = report.clone();
    worse["status"]["stage"] = "Degraded".into();
    worse["status"]["reason"] = "tunnel.single".into();
    worse["status"]["tunnels"] = tunnels(&["re-2"]);
    assert_eq!(node.put(&path, &worse).await.code, 200);
    let degraded = operator.until(&site, |site| site["status"]["phase"] == "Degraded").await;
    assert_eq!(degraded["status"]["conditions"][0]["reason"], "tunnel.single");
    assert_eq!(degraded["status"]["tunnelsUp"], 1);
    world.pass(3_601);
    let gone = operator.until(&site, |site| site["status"]["phase"] == "Offline").await;
    assert_eq!(gone["status"]["nodesOnline"], 0);
    // Any sign of life brings it back, by the last report.
    assert_eq!(
        node.patch(&format!("{path}/status"), &json!({"status": {"stage": "Online"}})).await.code,
        200
    );
    operator.until(&site, |site| site["status"]["phase"] == "Online").await;
    assert_eq!(
        node.put(&of("acme", "nodestatuses/other"), &json!({"metadata": {"name": "other"}}))
            .await
            .code,
        403
    );
}
