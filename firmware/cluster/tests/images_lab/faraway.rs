//! A registry in a network of its own, which the node reaches by one cable.

use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::image::{Image, publish};
use holdfast_lab_kubernetes::node::{Node, registry_config};
use nix::sched::{CloneFlags, unshare};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Its address at the far end of the cable (TEST-NET-2, RFC 5737).
pub const REGISTRY_ADDRESS: &str = "198.51.100.2";
const NODE_END: &str = "198.51.100.1";

/// It ends, and its network with it, when this is dropped.
pub struct FarRegistry {
    ends: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Ended also when something panics.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl FarRegistry {
    pub fn start(kubernetes: &Kubernetes, node: &Node, images: &[Image]) -> Self {
        let folder = node.state().join("far-registry");
        for image in images {
            publish(&folder, image).unwrap();
        }
        let config = node.state().join("far-registry.yml");
        let text = registry_config(&folder);
        holdfast_durable::write(&config, text.as_bytes(), 0o600).unwrap();
        // util-linux' setpriv: the registry ends with the thread that started it, however that ends.
        let mut serve = Command::new("setpriv");
        serve
            .args(["--pdeathsig", "KILL"])
            .arg(kubernetes.built().usr().join("bin/docker-registry"))
            .arg("serve")
            .arg(&config)
            .envs(kubernetes.built().environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let pid = node.pid().unwrap();
        let (ends, told) = mpsc::channel::<()>();
        let (says, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip(&["link", "set", "lo", "up"]);
            ip(&[
                "link",
                "add",
                "far",
                "type",
                "veth",
                "peer",
                "name",
                "near",
                "netns",
                &pid.to_string(),
            ]);
            ip(&["addr", "add", &format!("{REGISTRY_ADDRESS}/24"), "dev", "far"]);
            ip(&["link", "set", "far", "up"]);
            let _serves = Served(serve.spawn().unwrap());
            says.send(()).unwrap();
            let _either = told.recv();
        });
        ready.recv().unwrap();
        let near = || {
            ip(&["addr", "add", &format!("{NODE_END}/24"), "dev", "near"]);
            ip(&["link", "set", "near", "up"]);
        };
        node.network().unwrap().enter(near).unwrap();
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for FarRegistry {
    fn drop(&mut self) {
        let _gone = self.ends.send(());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// In the network of the calling thread.
fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
