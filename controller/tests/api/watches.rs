//! Watches: what is told, and when they end.

use super::world::{World, of};
use holdfast_controller::fleet::FleetSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_the_watch_behind_it_miss_nothing() {
    let world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    let sites = of("acme", "sites");
    operator.create(&sites, &json!({"metadata": {"name": "a"}})).await;
    let list = operator.must(&sites).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    operator.create(&sites, &json!({"metadata": {"name": "b", "labels": {"x": "1"}}})).await;
    let mut all = operator.watch(&format!("{sites}?watch=true&resourceVersion={version}")).await;
    let mut some = operator
        .watch(&format!("{sites}?watch=1&resourceVersion={version}&labelSelector=x%3D1"))
        .await;
    let mut one = operator
        .watch(&format!(
            "{sites}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Da"
        ))
        .await;
    assert_eq!(all.short().await, "ADDED b", "what happened between the two");
    assert_eq!(some.short().await, "ADDED b");
    operator.patch(&of("acme", "sites/a"), &json!({"metadata": {"labels": {"x": "1"}}})).await;
    assert_eq!(all.short().await, "MODIFIED a");
    assert_eq!(some.short().await, "ADDED a", "it came into the selection");
    assert_eq!(one.short().await, "MODIFIED a");
    operator.patch(&of("acme", "sites/b"), &json!({"metadata": {"labels": {"x": "2"}}})).await;
    assert_eq!(some.short().await, "DELETED b", "it left the selection");
    assert_eq!(all.short().await, "MODIFIED b");
    let before = operator.must(&of("acme", "sites/a")).await;
    operator.delete(&of("acme", "sites/a")).await;
    let event = all.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["uid"]),
        (&json!("DELETED"), &before["metadata"]["uid"])
    );
    let number = |object: &Value| {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(number(&event["object"]) > number(&before), "a deletion has a version of its own");
    assert_eq!(one.short().await, "DELETED a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_what_is_there_and_ends_with_a_bookmark() {
    let world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    let sites = of("acme", "sites");
    for name in ["a", "b"] {
        operator.create(&sites, &json!({"metadata": {"name": name}})).await;
    }
    let mut watch =
        operator.watch(&format!("{sites}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    assert_eq!(watch.short().await, "ADDED a");
    assert_eq!(watch.short().await, "ADDED b");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let version = operator.must(&sites).await["metadata"]["resourceVersion"].clone();
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], version);
    assert_eq!(watch.next().await, None, "its time is over");
    let streaming =
        "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = operator.watch(&format!("{sites}?{streaming}")).await;
    assert_eq!(watch.short().await, "ADDED a");
    assert_eq!(watch.short().await, "ADDED b");
    let end = watch.next().await.unwrap();
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_too_long_ago_is_told_to_list_again() {
    let mut world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    let sites = of("acme", "sites");
    operator.create(&sites, &json!({"metadata": {"name": "a"}})).await;
    let version =
        operator.must(&sites).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut running = operator.watch(&format!("{sites}?watch=1&resourceVersion={version}")).await;
    world.stop().await;
    assert_eq!(running.next().await, None, "shutdown ends watches in order");
    world.start().await;
    let operator = world.operator(Some("acme")).await;
    operator.create(&sites, &json!({"metadata": {"name": "b"}})).await;
    let mut watch = operator.watch(&format!("{sites}?watch=1&resourceVersion={version}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
    let mut future = operator.watch(&format!("{sites}?watch=1&resourceVersion=99999999")).await;
    assert_eq!(future.next().await.unwrap()["object"]["code"], 410);
    assert_eq!(operator.get(&format!("{sites}?watch=1&resourceVersion=x")).await.code, 400);
}

/// A client that does not read costs the server nothing but this client's watch.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_lags_too_far_is_ended_and_others_go_on() {
    const CHANGES: usize = 400;
    let world = World::with(FleetSettings::default(), 50).await;
    let operator = world.operator(Some("acme")).await;
    let sites = of("acme", "sites");
    // Large objects fill the windows of HTTP/2 and TCP soon.
    let ballast = "x".repeat(100_000);
    operator
        .create(&sites, &json!({"metadata": {"name": "a", "annotations": {"ballast": ballast}}}))
        .await;
    let slow = world.operator(Some("acme")).await;
    let mut lagging = slow.watch(&format!("{sites}?watch=1")).await;
    assert_eq!(lagging.short().await, "ADDED a");
    let path = of("acme", "sites/a");
    let mut jobs = tokio::task::JoinSet::new();
    let operator = std::sync::Arc::new(operator);
    for i in 0..CHANGES {
        let (operator, path) = (operator.clone(), path.clone());
        jobs.spawn(async move {
            operator.patch(&path, &json!({"metadata": {"labels": {"n": i.to_string()}}})).await.code
        });
        if jobs.len() >= 50 {
            assert_eq!(jobs.join_next().await.unwrap().unwrap(), 200);
        }
    }
    while let Some(code) = jobs.join_next().await {
        assert_eq!(code.unwrap(), 200);
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(event) = lagging.next().await {
        *kinds.entry(event["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(kinds.get("ERROR"), Some(&1), "{kinds:?}");
    assert!(kinds["MODIFIED"] < CHANGES);
    let mut fresh = operator.watch(&format!("{sites}?watch=1")).await;
    assert_eq!(fresh.short().await, "ADDED a");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_watched_too() {
    let world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    let sites = of("acme", "sites");
    operator.create(&sites, &json!({"metadata": {"name": "a"}})).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer =
        operator.call("GET", &format!("{sites}?watch=1&timeoutSeconds=1"), &accept, "").await;
    assert_eq!(answer.code, 200);
    assert_eq!(
        (&answer.body["type"], &answer.body["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(answer.body["object"]["rows"][0]["cells"][0], "a");
}
