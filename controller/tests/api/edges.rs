//! Regional edges: what they may, and what they see.

use super::world::{BASE, Device, World, of};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_keeps_itself_current_and_nothing_else() {
    let world = World::new().await;
    let (device, registration) = world.edge("re-1", 1).await;
    let edge = world.certified(&device, &registration).await;
    let path = format!("{BASE}/regionaledges/re-1");
    let own = edge.must(&path).await;
    assert_eq!(own["spec"]["publicKey"], device.wireguard());
    assert_eq!(own["spec"]["overlayAddress"], "100.127.0.1");
    let moved = edge.patch(&path, &json!({"spec": {"endpoint": "192.0.2.9:51820"}})).await;
    assert_eq!((moved.code, &moved.body["spec"]["endpoint"]), (200, &json!("192.0.2.9:51820")));
    for (field, value) in [
        ("drained", json!(true)),
        ("routes", json!(["0.0.0.0/0"])),
        ("overlayAddress", json!("100.127.0.77")),
    ] {
        let answer = edge.patch(&path, &json!({"spec": {field: value}})).await;
        assert_eq!((answer.code, answer.fields()), (422, vec![format!("spec.{field}")]));
    }
    let status = json!({"metadata": {"name": "re-1"}, "status": {"peers": 3, "peersUp": 2, "lastSeen": "1970-01-01T00:00:00Z"}});
    let reported = edge.put(&format!("{path}/status"), &status).await;
    assert_eq!((reported.code, &reported.body["status"]["peersUp"]), (200, &json!(2)));
    assert_ne!(
        reported.body["status"]["lastSeen"], "1970-01-01T00:00:00Z",
        "the controller's clock counts"
    );
    assert_eq!(reported.body["spec"], moved.body["spec"]);
    let operator = world.operator(None).await;
    let own = of("infra", &format!("registrations/{}", device.name()));
    operator.until(&own, |registration| registration["status"]["phase"] == "Online").await;

    // What the operator changed stays when the edge registers again with something else new.
    operator.patch(&path, &json!({"spec": {"place": {"region": "eu"}, "capacity": 7}})).await;
    let mut again = edge.must(&own).await;
    again["spec"]["edge"]["probe"] = "192.0.2.1:9".into();
    assert_eq!(edge.put(&own, &again).await.code, 200);
    let spec = edge.must(&path).await["spec"].clone();
    assert_eq!(
        (&spec["probe"], &spec["capacity"], &spec["endpoint"]),
        (&json!("192.0.2.1:9"), &json!(7), &json!("192.0.2.9:51820"))
    );

    // A second device of the same name is another edge.
    let token =
        world.token("infra", json!({"approval": "Automatic", "role": "RegionalEdge"})).await;
    let second = world
        .register(&token, &Device::new(), json!({"role": "RegionalEdge", "hostname": "re-1"}))
        .await;
    assert_eq!(second["status"]["node"], "re-1-2");
    // A deleted edge is refused.
    assert_eq!(operator.delete(&path).await.code, 200);
    let refused = edge.get(&path).await;
    assert_eq!((refused.code, refused.reason()), (403, "registration.retired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_sees_the_peers_that_name_it_and_loses_sight_of_them() {
    let world = World::new().await;
    let (device, registration) = world.edge("re-1", 1).await;
    world.edge("re-2", 2).await;
    world.node("acme", "a").await;
    world.node("other", "b").await;
    let edge = world.certified(&device, &registration).await;
    let operator = world.operator(None).await;
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let peers = edge.must(&format!("{BASE}/tunnelpeers")).await;
    assert_eq!(names(&peers), ["a", "b"], "of all tenants");
    let version = peers["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch =
        edge.watch(&format!("{BASE}/tunnelpeers?watch=1&resourceVersion={version}")).await;
    let policy = |only: Value| json!({"spec": {"edges": {"only": only}}});
    operator.patch(&of("acme", "sites/a"), &policy(json!(["re-2"]))).await;
    assert_eq!(watch.short().await, "DELETED a");
    operator.patch(&of("acme", "sites/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    operator.patch(&of("acme", "sites/a"), &policy(json!(["re-1", "re-2"]))).await;
    assert_eq!(watch.short().await, "ADDED a");
    operator
        .patch(
            &of("acme", "sites/a"),
            &json!({"spec": {"edges": {"bfd": {"intervalMs": 50, "multiplier": 3}}}}),
        )
        .await;
    assert_eq!(watch.short().await, "MODIFIED a");
    operator.patch(&of("acme", "sites/a"), &policy(json!(["re-2"]))).await;
    assert_eq!(watch.short().await, "DELETED a");
    assert_eq!(names(&edge.must(&format!("{BASE}/tunnelpeers")).await), ["b"]);
    assert_eq!(edge.get(&of("acme", "tunnelpeers/a")).await.code, 403);
    assert_eq!(edge.get(&of("other", "tunnelpeers/b")).await.code, 200);
    operator.delete(&of("other", "sites/b")).await;
    assert_eq!(watch.short().await, "DELETED b");
    // The other edges are for the backbone; everything else is not for edges.
    let edges = edge.must(&format!("{BASE}/regionaledges")).await;
    assert_eq!(names(&edges), ["re-1", "re-2"]);
    for kind in ["sites", "tokens", "registrations/x", "nodeconfigs", "nodestatuses"] {
        assert_eq!(edge.get(&of("acme", kind)).await.code, 403, "{kind}");
    }
    assert_eq!(
        edge.patch(&format!("{BASE}/regionaledges/re-2"), &json!({"spec": {}})).await.code,
        403
    );
    // A retired edge's watch ends.
    operator.delete(&format!("{BASE}/regionaledges/re-1")).await;
    loop {
        let Some(event) = watch.next().await else { break };
        if event["type"] == "ERROR" {
            assert_eq!(event["object"]["code"], 401);
            break;
        }
    }
}
