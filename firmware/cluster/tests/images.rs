//! Images on a real node: fetched from a registry that breaks off, kept, put back, let go of.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod images_lab;

use holdfast_api::Reason;
use holdfast_cluster::images::{ImageError, Progress, Runtime};
use holdfast_lab_kubernetes::asked::kubernetes;
use holdfast_lab_kubernetes::node::{Node, NodeSpec};
use images_lab::{WAY, Way, image, socket};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BALLAST: u64 = 30 * MIB;
const RELEASE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[tokio::test]
async fn an_image_is_fetched_through_failures_kept_put_back_and_let_go() {
    let Some(kubernetes) = kubernetes("images") else { return };
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let passed = |what: &str| eprintln!("{:6.2} s  {what}", started.elapsed().as_secs_f64());
    let mut node = Node::start(&kubernetes, folder.path(), NodeSpec::server("node1")).unwrap();
    let app = format!("{WAY}/app:v1");
    let _registry = node.registry(&[image(&kubernetes, &app, 30)]).unwrap();
    let way = Way::open(&node);
    let runtime = Runtime::connect(&socket(&node));
    node.until("containerd answers", Duration::from_secs(60), |node| {
        node.k3s(&["crictl", "images"]).map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    passed(&format!("containerd {} answers", runtime.version().await.unwrap()));

    let away = Runtime::connect(&folder.path().join("nobody.sock")).present(&app).await;
    assert!(matches!(away, Err(ImageError::Runtime { .. })), "{away:?}");

    assert_eq!(runtime.present(&app).await.unwrap(), None);
    let none = runtime.pull(&format!("{WAY}/none:v1"), None, |_| ()).await.unwrap_err();
    assert!(matches!(none, ImageError::Missing { .. }), "{none}");
    let none = runtime.pull(&format!("{WAY}/app:v9"), None, |_| ()).await.unwrap_err();
    assert_eq!((none.reason(), none.retryable()), (Reason::ReleaseImageMissing, false), "{none}");
    assert_eq!(way_cut(&way, &runtime, &app).await.reason(), Reason::ReleaseRegistry);
    passed("what is not there, and a registry that is not, are told apart");

    way.mend();
    let before = way.carried();
    way.cut_after(24 * MIB);
    let mut seen = Vec::new();
    let look = |progress: Progress| {
        if progress.done_bytes > MIB {
            way.cut_after(0);
        }
        seen.push(progress);
    };
    let broken = runtime.pull(&app, None, look).await.unwrap_err();
    assert_eq!((broken.reason(), broken.retryable()), (Reason::ReleaseRegistry, true), "{broken}");
    let furthest = seen.iter().map(|progress| progress.done_bytes).max().unwrap();
    assert!(furthest > MIB && furthest < BALLAST, "{seen:?}");
    passed(&format!("the registry died at {furthest} bytes: {broken}"));
    way.mend();
    seen.clear();
    let target = runtime.pull(&app, None, |progress| seen.push(progress)).await.unwrap();
    let carried = way.carried() - before;
    let total = seen.last().unwrap().total_bytes;
    assert!(total > BALLAST && seen.last().unwrap().done_bytes == total, "{seen:?}");
    // Beside the image itself: headers, and what was in the air when the way broke.
    assert!(carried >= total && carried < total + MIB, "{carried} bytes for {total}");
    assert_eq!(runtime.present(&app).await.unwrap(), Some(target.clone()));
    passed(&format!("pulled; {carried} bytes were carried for {total}"));

    let images = BTreeMap::from([(app.clone(), target.clone())]);
    runtime.pin(RELEASE, &images).await.unwrap();
    runtime.pin(RELEASE, &images).await.unwrap();
    let pinned = runtime.pinned().await.unwrap();
    assert_eq!((pinned.len(), pinned[0].release.as_str()), (1, RELEASE));
    assert!(pinned[0].complete && pinned[0].images == images);
    let listed = node.k3s(&["ctr", "images", "ls", "-q"]).unwrap();
    assert!(listed.contains(&app), "{listed}");
    let leases = node.k3s(&["ctr", "leases", "ls"]).unwrap();
    assert!(leases.contains("holdfast-0011") && !leases.contains("pull"), "{leases}");
    passed("pinned");

    // From here on there is no registry.
    way.cut_after(0);
    assert!(!runtime.ensure(&app, &target).await.unwrap());
    node.k3s(&["crictl", "rmi", &app]).unwrap();
    assert_eq!(runtime.present(&app).await.unwrap(), None);
    assert!(runtime.ensure(&app, &target).await.unwrap(), "it was there without a name");
    assert_eq!(runtime.present(&app).await.unwrap(), Some(target.clone()));
    passed("its name was removed and is back, without a registry");
    node.wait_up(Duration::from_secs(120)).unwrap();
    node.wait_ready("node1", Duration::from_secs(120)).unwrap();
    node.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: app, image: {app:?}, readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}}}\n"
    ))
    .unwrap();
    node.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]).unwrap();
    node.kubectl(&["delete", "pod", "app"]).unwrap();
    passed("a pod ran of it");

    let nothing = BTreeSet::new();
    assert_eq!(runtime.retain(&BTreeSet::from([RELEASE.into()]), &nothing).await.unwrap(), [""; 0]);
    assert_eq!(runtime.retain(&nothing, &nothing).await.unwrap(), [RELEASE]);
    assert_eq!(runtime.pinned().await.unwrap(), []);
    node.k3s(&["crictl", "rmi", &app]).unwrap();
    node.until("its content is gone", Duration::from_secs(30), |node| {
        let content = node.k3s(&["ctr", "content", "ls", "-q"]).unwrap();
        if content.contains(&target.digest) { Err(content) } else { Ok(()) }
    })
    .unwrap();
    let lost = runtime.ensure(&app, &target).await.unwrap_err();
    assert!(matches!(lost, ImageError::Lost { .. }), "{lost}");
    passed("let go of, and gone");
    assert_eq!(node.stop().unwrap(), [""; 0]);
}

/// What a pull says while there is no way at all.
async fn way_cut(way: &Way, runtime: &Runtime, image: &str) -> ImageError {
    way.cut_after(0);
    runtime.pull(image, None, |_| ()).await.unwrap_err()
}
