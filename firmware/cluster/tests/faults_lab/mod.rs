//! What the stories of faults share: a node beside which a manager runs that can be killed, and
//! releases that differ in one thing.
//!
//! The thread of a story has a network of its own on the node's switch, and so have the managers
//! that it starts. They stay where they are when the node goes and comes back.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each story uses a part; helpers fail by panics"
)]

pub mod disk;
pub mod manager;
pub mod releases;
pub mod webhook;

use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::image::Image;
use holdfast_lab_kubernetes::node::{Node, NodeSpec, Registry, Switch};
use manager::Surroundings;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything of a cluster may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The node's own registry, which containerd asks without TLS, and nobody after it.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// Where the story is, for the node.
pub const SEAT: &str = "10.200.0.9";
const NODE: &str = "10.200.0.1";

/// A node, and a place beside it.
pub struct Lab {
    kubernetes: Kubernetes,
    switch: Switch,
    folder: tempfile::TempDir,
    node: Option<(Node, Registry)>,
    images: Vec<Image>,
    started: Instant,
}

impl Lab {
    /// A node that is Ready, with images of these tags and `more`.
    pub fn start(kubernetes: &Kubernetes, tags: &[&str], more: Vec<Image>) -> Self {
        let started = Instant::now();
        let switch = Switch::new(kubernetes).unwrap();
        take_a_seat(switch.pid());
        let image = |tag: &&str| {
            let name = releases::image(tag);
            holdfast_lab_kubernetes::node::web_image(kubernetes.built(), &name).unwrap()
        };
        let images = tags.iter().map(image).chain(more).collect();
        let folder = tempfile::tempdir().unwrap();
        let kubernetes = kubernetes.clone();
        let mut lab = Lab { kubernetes, switch, folder, node: None, images, started };
        lab.start_node();
        lab.passed("the node is Ready");
        lab
    }

    /// Starts the node, also one that ended.
    pub fn start_node(&mut self) {
        let spec = NodeSpec {
            switch: Some(self.switch.pid()),
            registries: format!(
                "mirrors:\n  {REGISTRY:?}:\n    endpoint: [\"http://{REGISTRY}\"]\n"
            ),
            ..NodeSpec::server("node1")
        };
        let mut node =
            Node::start(&self.kubernetes, &self.folder.path().join("node"), spec).unwrap();
        let registry = node.registry(&self.images).unwrap();
        node.wait_up(PATIENCE).unwrap();
        node.wait_ready("node1", PATIENCE).unwrap();
        self.node = Some((node, registry));
        self.furnish();
    }

    /// The place of the manager: the files of the node that it needs, with addresses and paths as
    /// they are from there.
    fn furnish(&self) {
        let (node, seat) = (self.node(), self.seat());
        let pid = node.pid().unwrap();
        let rewritten = |from: &Path, to: &str| {
            let text = std::fs::read_to_string(from).unwrap();
            let text = text
                .replace("https://127.0.0.1:", &format!("https://{NODE}:"))
                .replace("/var/lib/rancher/k3s", &node.data("").display().to_string());
            holdfast_durable::write(&seat.join(to), text.as_bytes(), 0o600).unwrap();
        };
        rewritten(&node.state().join("etc/rancher/k3s/k3s.yaml"), "etc/rancher/k3s/k3s.yaml");
        rewritten(
            &node.data("agent/kubelet.kubeconfig"),
            "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
        );
        for path in ["run/k3s/containerd/containerd.sock", "var/lib/rancher/k3s/server"] {
            let (there, here) = (format!("/proc/{pid}/root/{path}"), seat.join(path));
            std::fs::create_dir_all(here.parent().unwrap()).unwrap();
            let _of_the_node_before = std::fs::remove_file(&here);
            std::os::unix::fs::symlink(there, here).unwrap();
        }
    }

    pub fn node(&self) -> &Node {
        &self.node.as_ref().unwrap().0
    }

    /// The root of the manager's paths.
    pub fn seat(&self) -> PathBuf {
        self.folder.path().join("seat")
    }

    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            seat: self.seat(),
            node: self.node().pid().unwrap(),
            k3s: self.kubernetes.k3s().to_path_buf(),
            build: self.kubernetes.built().root().to_path_buf(),
            snapshots: false,
        }
    }

    pub fn passed(&self, what: &str) {
        eprintln!("{:6.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    pub fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        self.node().kubectl(words).map_err(|error| error.to_string())
    }

    /// A field of an object of the release.
    pub fn get(&self, object: &str, path: &str) -> Result<String, String> {
        self.kubectl(&["get", "-n", "shop", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Kills the process with the API server in it, as the kernel does when memory runs out, and
    /// waits until the node is gone with it, as k3s goes.
    pub fn kill_api_server(&mut self) {
        // The laboratory's runs the parts of Kubernetes `together`.
        let word = if self.kubernetes.is_real() { "k3s" } else { "together" };
        let pid = process_of(self.node(), word);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let (mut node, registry) = self.node.take().unwrap();
        // Its folder holds what the next one starts from.
        let ended = node.until("never", PATIENCE, |_| Err("it runs".into())).unwrap_err();
        let ended = ended.to_string();
        assert!(ended.contains("the node node1 ended"), "{ended}");
        drop(registry);
        assert_eq!(node.kill(), [] as [String; 0]);
    }

    /// Ends it all, and sees that nothing is left.
    pub fn stop(mut self) {
        let (node, registry) = self.node.take().unwrap();
        drop(registry);
        assert_eq!(node.stop().unwrap(), [] as [String; 0]);
    }
}

/// The process of the node's own network whose command line has this word.
pub fn process_of(node: &Node, word: &str) -> i32 {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network(&node.pid().unwrap().to_string());
    let has = |pid: &str| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|one| one == word || one.ends_with(&format!("/{word}")))
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let mut pids = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.parse::<i32>().is_ok() && network(name) == own && has(name));
    pids.next().unwrap_or_else(|| panic!("no process {word}")).parse().unwrap()
}

/// Takes the calling thread, and what it starts, into a network on the switch and away from the
/// machine's mounts.
fn take_a_seat(switch: u32) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&Path>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    run(&format!("ip link add seat0 type veth peer name pseat netns {switch}"));
    run(&format!("nsenter --net=/proc/{switch}/ns/net ip link set pseat master switch up"));
    run(&format!("ip addr add {SEAT}/24 dev seat0"));
    run("ip link set lo up");
    run("ip link set seat0 up");
}

pub fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
