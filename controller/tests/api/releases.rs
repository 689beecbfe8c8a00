//! Releases, and what nodes are told of their site's Kubernetes.

use super::world::{World, of};
use holdfast_api::kubernetes::release_digest;
use serde_json::{Value, json};

fn release(name: &str, version: &str, text: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"version": version, "manifests": {"web.yaml": text}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_runs_a_release_and_its_node_reads_it() {
    let world = World::new().await;
    let (device, registration) = world.node("acme", "ce01").await;
    let node = world.certified(&device, &registration).await;
    let operator = world.operator(Some("acme")).await;
    let config = of("acme", "nodeconfigs/ce01");
    assert_eq!(node.must(&config).await["spec"].get("kubernetes"), None, "none is asked for");

    let unknown = json!({"spec": {"kubernetes": {"release": "web-1"}}});
    let answer = operator.patch(&of("acme", "sites/ce01"), &unknown).await;
    assert_eq!(answer.code, 422, "{}", answer.body);
    assert_eq!(answer.body["details"]["causes"][0]["field"], "spec.kubernetes.release");

    let made = operator.post(&of("acme", "releases"), &release("web-1", "1.0", "kind: Pod")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let digest = release_digest(&[("web.yaml".into(), "kind: Pod".into())].into());
    assert_eq!(made.body["status"]["digest"], digest.as_str());
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &unknown).await.code, 200);

    let told = node.must(&config).await["spec"]["kubernetes"].clone();
    assert_eq!(
        told["release"],
        json!({"name": "web-1", "version": "1.0", "digest": digest, "force": 0})
    );
    assert_eq!((&told["role"], &told["nodeIp"]), (&json!("cluster-init"), &json!("10.128.0.1")));
    let token = told["token"].as_str().unwrap();
    assert_eq!(token.len(), 64, "nodes join with it");
    let shown = operator.must(&config).await["spec"]["kubernetes"].clone();
    assert_eq!(shown["token"], "", "and nobody else is shown it");
    let listed = node.must(&of("acme", "nodeconfigs?fieldSelector=metadata.name%3Dce01")).await;
    assert_eq!(listed["items"][0]["spec"]["kubernetes"]["token"], token);

    let read = node.must(&of("acme", "releases/web-1")).await;
    assert_eq!(read["spec"]["manifests"]["web.yaml"], "kind: Pod");
    assert_eq!(node.get(&of("acme", "releases")).await.code, 403, "by name only");
    assert_eq!(node.get(&of("other", "releases/web-1")).await.code, 403);
    let change = json!({"spec": {"manifests": {"web.yaml": "kind: Job"}}});
    let answer = operator.patch(&of("acme", "releases/web-1"), &change).await;
    assert_eq!(answer.code, 422, "a release never changes: {}", answer.body);

    // Raising `force` is a new configuration of the same release; the token stays.
    let again = json!({"spec": {"kubernetes": {"force": 1}}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &again).await.code, 200);
    let told = node.must(&config).await["spec"]["kubernetes"].clone();
    assert_eq!((&told["release"]["force"], &told["token"]), (&json!(1), &json!(token)));
    // A site that is restored from another one's snapshots gets that one's token.
    let theirs = json!({"spec": {"kubernetes": {"joinToken": "of-the-old-site"}}});
    let answer = operator.patch(&of("acme", "sites/ce01"), &theirs).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert!(!answer.body.to_string().contains("of-the-old-site"), "{}", answer.body);
    let site = operator.must(&of("acme", "sites/ce01")).await;
    assert_eq!(site["spec"]["kubernetes"].get("joinToken"), None);
    assert_eq!(node.must(&config).await["spec"]["kubernetes"]["token"], "of-the-old-site");
    let short = json!({"spec": {"kubernetes": {"joinToken": "short"}}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &short).await.code, 422);
    // A release that is deleted is not taken from those who run it.
    assert_eq!(operator.call("DELETE", &of("acme", "releases/web-1"), &[], "").await.code, 200);
    let touched = json!({"spec": {"sysctls": {"net.ipv4.ip_forward": "1"}}});
    assert_eq!(operator.patch(&of("acme", "sites/ce01"), &touched).await.code, 200);
}
