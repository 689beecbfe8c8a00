//! The node's and the edge's own client against the real server.

use super::world::{Device, World, of};
use holdfast_api::resources::{
    NodeConfig, NodeStatus, NodeStatusStatus, Registration, RegistrationPhase, TunnelPeer,
};
use holdfast_client::{
    Client, Conditional, Endpoint, Event, Identity, Selector, Subresource, Trust,
};
use serde_json::json;

fn client(world: &World, trust: Trust, identity: Identity) -> Client {
    let endpoint: Endpoint = format!("https://{}", world.address()).parse().unwrap();
    Client::new(endpoint, trust, identity).unwrap()
}

#[tokio::test]
async fn a_node_gets_in_follows_its_configuration_and_reports() {
    let world = World::new().await;
    world.edge("re-1", 1).await;
    let token = world.token("acme", json!({"approval": "Automatic", "site": "ce01"})).await;
    let device = Device::new();
    let key = || device.key.serialize_pem().into();
    let own = Identity::Certificate { chain: device.self_signed(), key: key() };
    let stranger = client(&world, Trust::Pinned(token.ca), own);
    let wanted: Registration = serde_json::from_value(json!({
        "apiVersion": "fleet.holdfast.dev/v1alpha1", "kind": "Registration",
        "metadata": {"name": device.name(), "namespace": "acme"},
        "spec": device.registration(json!({}))["spec"],
    }))
    .unwrap();
    let made = stranger.create(&wanted, Some(&token.credential())).await.unwrap();
    let status = made.status.clone().unwrap();
    assert_eq!(status.phase, RegistrationPhase::Admitted);
    let identity = Identity::Certificate { chain: status.certificate.unwrap(), key: key() };
    let node = client(&world, Trust::pem(&status.ca.unwrap()).unwrap(), identity);

    let Conditional::Changed { value: config, etag, .. } =
        node.get_if_changed::<NodeConfig>(Some("acme"), "ce01", None).await.unwrap()
    else {
        panic!("it is new");
    };
    assert_eq!(config.spec.node, "ce01");
    let same =
        node.get_if_changed::<NodeConfig>(Some("acme"), "ce01", etag.as_deref()).await.unwrap();
    assert!(matches!(same, Conditional::Unchanged { .. }));
    let mut watch = node
        .watch::<NodeConfig>(
            Some("acme"),
            &Selector::name("ce01"),
            Some(&config.metadata.resource_version),
        )
        .await
        .unwrap();
    let operator = world.operator(None).await;
    let change = json!({"spec": {"sysctls": {"net.ipv4.ip_forward": "1"}}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &change).await.code, 200);
    match watch.next().await {
        Some(Ok(Event::Modified(new))) => assert!(new.spec.generation > config.spec.generation),
        other => panic!("{other:?}"),
    }
    let mut report = NodeStatus::new(Some("acme"), "ce01", Default::default());
    report.status = Some(NodeStatusStatus { message: "hello".into(), ..Default::default() });
    let kept = node.update_status(&report).await.unwrap();
    assert_eq!(kept.status.unwrap().message, "hello");
    let patch = json!({"status": {"message": "again"}});
    let kept: NodeStatus =
        node.merge_patch(Some("acme"), "ce01", &patch, Some(Subresource::Status)).await.unwrap();
    assert_eq!(kept.status.unwrap().site, "ce01");
    // Renewal: the registration with a new request.
    let mut renewal = made.clone();
    renewal.spec.csr = device.csr();
    let renewed = node.update(&renewal).await.unwrap();
    assert_ne!(renewed.status.unwrap().certificate, made.status.unwrap().certificate);
}

#[tokio::test]
async fn an_edge_follows_its_peers() {
    let world = World::new().await;
    let (device, registration) = world.edge("re-1", 1).await;
    world.node("acme", "a").await;
    world.node("other", "b").await;
    let chain = registration["status"]["certificate"].as_str().unwrap().to_owned();
    let identity = Identity::Certificate { chain, key: device.key.serialize_pem().into() };
    let edge = client(&world, Trust::pem(&world.ca()).unwrap(), identity);
    let peers = edge.list::<TunnelPeer>(None, &Selector::all()).await.unwrap();
    let names: Vec<_> = peers.items.iter().map(|peer| peer.metadata.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}
