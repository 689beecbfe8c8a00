//! Each sees only its own.

use super::world::{BASE, World, of};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_strangers_to_each_other() {
    let world = World::new().await;
    let (device, registration) = world.node("acme", "ce01").await;
    world.node("other", "ce01").await;
    let (acme, other) = (world.operator(Some("acme")).await, world.operator(Some("other")).await);
    for kind in ["tokens", "registrations", "sites", "nodeconfigs", "nodestatuses", "tunnelpeers"] {
        assert_eq!(acme.get(&of("acme", kind)).await.code, 200, "{kind}");
        assert_eq!(acme.get(&of("other", kind)).await.code, 403, "{kind}");
        assert_eq!(acme.get(&format!("{BASE}/{kind}")).await.code, 403, "{kind}");
        assert_eq!(acme.get(&format!("{BASE}/{kind}?watch=1")).await.code, 403, "{kind}");
        assert_eq!(acme.get(&of("other", &format!("{kind}/ce01"))).await.code, 403, "{kind}");
        assert_eq!(acme.delete(&of("other", kind)).await.code, 403, "{kind}");
    }
    let site = json!({"metadata": {"name": "x"}});
    assert_eq!(acme.post(&of("other", "sites"), &site).await.code, 403);
    assert_eq!(acme.patch(&of("other", "sites/ce01"), &json!({})).await.code, 403);
    assert_eq!(acme.must("/api/v1/namespaces").await["items"][0]["metadata"]["name"], "acme");
    assert_eq!(acme.get("/api/v1/namespaces/other").await.code, 403);
    // Edges are everybody's to read and nobody's to write.
    assert_eq!(acme.get(&format!("{BASE}/regionaledges")).await.code, 200);
    assert_eq!(
        acme.post(&format!("{BASE}/regionaledges"), &json!({"metadata": {"name": "re"}}))
            .await
            .code,
        403
    );
    // Nor may a tenant bring an edge of its own.
    let token = json!({"metadata": {"name": "t"}, "spec": {"role": "RegionalEdge"}});
    assert_eq!(acme.post(&of("acme", "tokens"), &token).await.fields(), ["spec.role"]);
    // A node of one tenant is nobody in the other, although its site has the same name there.
    let node = world.certified(&device, &registration).await;
    assert_eq!(node.get(&of("acme", "nodeconfigs/ce01")).await.code, 200);
    assert_eq!(node.get(&of("other", "nodeconfigs/ce01")).await.code, 403);
    assert_eq!(other.must(&of("other", "sites")).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_its_own_configuration_and_writes_its_own_status() {
    let world = World::new().await;
    let (device, registration) = world.node("acme", "one").await;
    world.node("acme", "two").await;
    let node = world.certified(&device, &registration).await;
    let list = node.must(&of("acme", "nodeconfigs")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "one");
    assert_eq!(node.get(&of("acme", "nodeconfigs/two")).await.code, 403);
    assert_eq!(
        node.get(&of("acme", "nodeconfigs/none")).await.code,
        403,
        "not a hint of what there is"
    );
    assert_eq!(node.get(&format!("{BASE}/nodeconfigs")).await.code, 403);
    assert_eq!(node.get(&of("acme", "nodestatuses/one")).await.code, 404, "its own may be missing");
    for method in ["PUT", "PATCH", "DELETE"] {
        let answer = node
            .call(
                method,
                &of("acme", "nodeconfigs/one"),
                &[("content-type", "application/json")],
                "{}",
            )
            .await;
        assert_eq!(answer.code, 403, "{method}");
    }
    assert_eq!(
        node.post(&of("acme", "nodestatuses"), &json!({"metadata": {"name": "two"}})).await.code,
        403
    );
    let mut watch = node.watch(&format!("{}?watch=1", of("acme", "nodeconfigs"))).await;
    assert_eq!(watch.short().await, "ADDED one");
    let operator = world.operator(Some("acme")).await;
    for site in ["two", "one"] {
        let change = json!({"spec": {"sysctls": {"net.ipv4.ip_forward": "1"}}});
        assert_eq!(operator.patch(&of("acme", &format!("sites/{site}")), &change).await.code, 200);
    }
    assert_eq!(watch.short().await, "MODIFIED one", "nothing of the other's");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_not_known_open_nothing() {
    let world = World::new().await;
    let anybody = world.anybody().await;
    assert_eq!(anybody.get("/healthz").await.code, 200);
    assert_eq!(anybody.get("/version").await.code, 200);
    assert_eq!(anybody.get(&of("acme", "sites")).await.code, 401);
    assert_eq!(anybody.get("/api/v1/namespaces").await.code, 403);
    let wrong = format!("Bearer hfo1.{}", "0".repeat(64));
    for authorization in [wrong.as_str(), "Bearer junk", "Basic YTpi", "Bearer", "Bearer hft1.x.y"]
    {
        let answer = anybody
            .call("GET", &of("acme", "sites"), &[("authorization", authorization)], "")
            .await;
        assert_eq!(answer.code, 401, "{authorization}");
    }
    // A registration token opens nothing but registration.
    let token = world.token("acme", json!({})).await;
    let authorization = format!("Bearer {}", *token.credential());
    let answer =
        anybody.call("GET", &of("acme", "sites"), &[("authorization", &authorization)], "").await;
    assert_eq!(answer.code, 403);
    // A credential that was taken back counts no longer, at once.
    let operator = world.operator(Some("acme")).await;
    assert_eq!(operator.get(&of("acme", "sites")).await.code, 200);
    std::fs::remove_dir_all(world.data.path().join("operators")).unwrap();
    assert_eq!(operator.get(&of("acme", "sites")).await.code, 401);
}
