//! Three servers: any of them answers for the lock, one dies and is replaced.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod nodes_common;

use holdfast_api::chain;
use holdfast_cluster::nodes::client::Call;
use holdfast_cluster::nodes::cluster::Cluster;
use holdfast_cluster::nodes::fleetlock::Key;
use holdfast_cluster::nodes::refusal::Kind;
use holdfast_cluster::nodes::removal::Removal;
use holdfast_cluster::nodes::replace::{Held, Wanted, Why};
use holdfast_cluster::nodes::service::{LockSettings, RebootLock};
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec};
use nodes_common::{PATIENCE, client, cluster, serve, until};
use std::sync::Arc;
use std::time::Instant;

/// What a node's client is told by the lock that `server` serves.
fn ask(server: &Node, key: &Key, id: &str, call: Call, passing: &[Kind]) -> Option<Kind> {
    server
        .in_network(async || {
            let lock = Arc::new(RebootLock::new(cluster(server), LockSettings::default()));
            let face = serve(server, &lock, key).await;
            let client = client(id, &face, key);
            until("an answer that stays", async || match client.ask(call).await {
                Err(refusal) if passing.contains(&refusal.kind) => Err(refusal),
                answer => Ok(answer.err().map(|refusal| refusal.kind)),
            })
            .await
        })
        .unwrap()
}

#[test]
fn three_servers_share_the_lock_and_a_dead_one_is_replaced() {
    let Some(kubernetes) = kubernetes("three_servers_share_the_lock_and_a_dead_one_is_replaced")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let (_switch, mut first) = nodes_common::first(&kubernetes, folder.path());
    first.wait_up(PATIENCE).unwrap();
    let token = first.token().unwrap();
    let join = |name: &str, place: &str, address: &str| {
        let spec = NodeSpec::further_server(name, address, &first, &token);
        Node::start(&kubernetes, &folder.path().join(place), spec).unwrap()
    };
    let mut second = join("node2", "2", "10.200.0.2/24");
    let mut third = join("node3", "3", "10.200.0.3/24");
    second.wait_up(PATIENCE).unwrap();
    third.wait_up(PATIENCE).unwrap();
    for name in ["node1", "node2", "node3"] {
        second.wait_ready(name, PATIENCE).unwrap();
    }
    passed("three servers are Ready");

    let key = Key::of_site(&token);
    let busy = [Kind::Draining, Kind::Unavailable];
    let away = [Kind::Unavailable];
    assert_eq!(ask(&second, &key, "node3", Call::PreReboot, &busy), None);
    for server in [&second, &third] {
        assert_eq!(ask(server, &key, "node2", Call::PreReboot, &away), Some(Kind::Locked));
    }
    passed("two servers tell the same");

    // It dies with the lock, in the middle of its reboot.
    assert_eq!(third.kill(), [] as [String; 0]);
    assert_eq!(ask(&second, &key, "node2", Call::PreReboot, &away), Some(Kind::Locked));
    let wanted = second
        .in_network(async || {
            let cluster = cluster(&second);
            let lock = Arc::new(RebootLock::new(Arc::clone(&cluster), LockSettings::default()));
            let mut removal = Removal::new(Arc::clone(&cluster), Arc::clone(&lock), "node2");
            let names = ["node1", "node2", "node3"].map(str::to_owned).into();
            let mut retired = [removal.retire("node3").await.unwrap().unwrap()].to_vec();
            retired.push(removal.retire("node1").await.unwrap().unwrap());
            let both = Wanted { names, retired: retired.iter().cloned().collect() };
            let plan = removal.plan(&both, Instant::now()).await.unwrap();
            assert_eq!(plan.held, [Held { node: "node3".into(), why: Why::OneAtATime }]);
            retired.pop();
            let wanted = Wanted { retired: retired.into_iter().collect(), ..both };
            removal.pass(&wanted, Instant::now()).await.unwrap();
            assert_eq!(lock.holders().await.unwrap(), []);
            until("the dead server is gone", async || {
                let nodes = cluster.nodes().await.map_err(|error| chain(&error))?;
                match nodes.iter().any(|node| node.name == "node3") {
                    true => Err("it is there".to_owned()),
                    false => Ok(()),
                }
            })
            .await;
            wanted
        })
        .unwrap();
    passed("the dead server is removed, its lock is free");

    let mut third = join("node3", "new", "10.200.0.3/24");
    third.wait_up(PATIENCE).unwrap();
    second.wait_ready("node3", PATIENCE).unwrap();
    third
        .in_network(async || {
            let cluster = cluster(&third);
            let lock = Arc::new(RebootLock::new(Arc::clone(&cluster), LockSettings::default()));
            let mut removal = Removal::new(Arc::clone(&cluster), lock, "node2");
            assert_eq!(removal.pass(&wanted, Instant::now()).await.unwrap().steps, []);
            assert_eq!(cluster.nodes().await.unwrap().iter().filter(|node| node.server).count(), 3);
        })
        .unwrap();
    assert_eq!(ask(&third, &key, "node2", Call::PreReboot, &busy), None);
    assert_eq!(ask(&second, &key, "node2", Call::SteadyState, &away), None);
    passed("another one of the same name is there, and answers for the lock");
    for node in [third, second, first] {
        assert_eq!(node.stop().unwrap(), [] as [String; 0]);
    }
}
