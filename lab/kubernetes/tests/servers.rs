//! Three servers: one dies, and another takes its place under its name.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec, Switch};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);

/// Writes through the API server of `node`, as soon as that is possible.
fn writes(node: &mut Node, name: &str) {
    node.until(&format!("{name} is written"), PATIENCE, |node| {
        node.kubectl(&["--request-timeout=5s", "create", "configmap", name])
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
    .unwrap();
}

/// Reads through the API server of `node`, as soon as that is possible: one that has just begun
/// when the datastore elects a leader ends, and its supervisor begins it again.
fn reads(node: &mut Node, name: &str) {
    node.until(&format!("{name} is read"), PATIENCE, |node| {
        node.kubectl(&["--request-timeout=5s", "get", "configmap", name])
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
    .unwrap();
}

#[test]
fn a_server_dies_and_another_takes_its_place_and_name() {
    let Some(kubernetes) = kubernetes("a_server_dies_and_another_takes_its_place_and_name") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let switch = Switch::new(&kubernetes).unwrap();
    let spec = NodeSpec { switch: Some(switch.pid()), ..NodeSpec::first_server("node1") };
    let mut first = Node::start(&kubernetes, &folder.path().join("1"), spec).unwrap();
    first.wait_up(PATIENCE).unwrap();
    let token = first.token().unwrap();
    passed("the first server is up");
    let join = |name: &str, place: &str, address: &str, server: &Node| {
        let spec = NodeSpec::further_server(name, address, server, &token);
        Node::start(&kubernetes, &folder.path().join(place), spec).unwrap()
    };
    let mut second = join("node2", "2", "10.200.0.2/24", &first);
    let mut third = join("node3", "3", "10.200.0.3/24", &first);
    for node in [&mut second, &mut third] {
        node.wait_up(PATIENCE).unwrap();
        passed("a further server is up");
    }
    for name in ["node1", "node2", "node3"] {
        third.wait_ready(name, PATIENCE).unwrap();
    }
    passed("three nodes are Ready");

    assert_eq!(first.kill(), [] as [String; 0]);
    writes(&mut second, "while-one-is-away");
    passed("the others write after one was killed");

    second.kubectl(&["delete", "node", "node1"]).unwrap();
    let mut first = join("node1", "new", "10.200.0.1/24", &second);
    first.wait_up(PATIENCE).unwrap();
    first.wait_ready("node1", PATIENCE).unwrap();
    reads(&mut first, "while-one-is-away");
    passed("a new one is Ready under its name");

    // Two of three write, two of four would not: the dead member is gone.
    assert_eq!(second.kill(), [] as [String; 0]);
    writes(&mut third, "with-the-new-one");
    reads(&mut first, "with-the-new-one");
    passed("the new one counts");
    assert_eq!(third.stop().unwrap(), [] as [String; 0]);
    assert_eq!(first.stop().unwrap(), [] as [String; 0]);
}
