//! Nodes for tests: started in namespaces of their own, waited for, asked, ended.
//!
//! A node has a folder, which is all that it writes to and all that is left of it. Dropping it
//! ends it, also when the test panics or its process is killed. What it leaves out: nodes in
//! somebody else's network namespaces; there the manager starts `k3s` itself.

mod namespaces;
mod surroundings;

pub use surroundings::{Registry, Switch, registry_config, web_image};

use crate::cgroups::Cgroup;
use crate::find::Kubernetes;
use crate::image::Image;
use crate::server::outer::GROUP_VARIABLE;
use holdfast_durable::WriteError;
use namespaces::Namespaces;
use netd::netns::{NetNs, NetNsError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a node shall be.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name, also its host name.
    pub name: String,
    /// Its address, and the length of the network's prefix.
    pub address: String,
    /// `server` or `agent`.
    pub role: &'static str,
    /// `config.yaml`.
    pub config: String,
    /// `registries.yaml`.
    pub registries: String,
    /// The network it is in; alone when there is none.
    pub switch: Option<u32>,
}

impl NodeSpec {
    /// A server with snapshots, alone, whose images come from its own [`Node::registry`]. It leads
    /// without an election: who loses one ends, and nobody would start it again.
    pub fn server(name: &str) -> Self {
        Self::first(name, &election(&["leader-elect=false"]))
    }

    /// The first of several servers, who elect their leaders; a machine that is busy for half a minute
    /// takes none from its place.
    pub fn first_server(name: &str) -> Self {
        Self::first(name, &election(PATIENT))
    }

    fn first(name: &str, election: &str) -> Self {
        Self {
            name: name.into(),
            address: "10.200.0.1/24".into(),
            role: "server",
            config: format!("cluster-init: true\nnode-name: {name}\n{election}"),
            registries: format!(
                "mirrors:\n  {REGISTRY}:\n    endpoint: [\"http://10.200.0.1:5000\"]\n"
            ),
            switch: None,
        }
    }

    /// A further server, that joins `server` and its datastore.
    pub fn further_server(name: &str, address: &str, server: &Node, token: &str) -> Self {
        let mut spec = Self { role: "server", ..Self::agent(name, address, server, token) };
        spec.config.push_str(&election(PATIENT));
        spec
    }

    /// A node that joins `server`, whose address it has as gateway of its images.
    pub fn agent(name: &str, address: &str, server: &Node, token: &str) -> Self {
        let host = server.spec.address.split('/').next().unwrap_or_default();
        Self {
            name: name.into(),
            address: address.into(),
            role: "agent",
            config: format!("server: https://{host}:6443\ntoken: {token}\nnode-name: {name}\n"),
            registries: server.spec.registries.clone(),
            switch: server.spec.switch,
        }
    }
}

/// How those who lead are elected where there are several servers.
const PATIENT: &[&str] = &["leader-elect-lease-duration=40s", "leader-elect-renew-deadline=30s"];

/// How long a node may take to end, on a machine that does other things as well.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// How long what belonged to one that ended may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Lines of `config.yaml` with these flags for whoever has a leader.
fn election(flags: &[&str]) -> String {
    let flags = flags.join(", ");
    ["kube-controller-manager-arg", "kube-scheduler-arg"]
        .map(|program| format!("{program}: [{flags}]\n"))
        .concat()
}

/// The registry's name in references of the tests' images.
pub const REGISTRY: &str = "registry.lab:5000";

/// Why something could not be done with a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file cannot be written.
    #[error("cannot write the node's files")]
    Write(#[from] WriteError),
    /// Its network cannot be entered.
    #[error("cannot go into the network of the node")]
    Network(#[from] NetNsError),
    /// A file or a process cannot be handled.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The file or program.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// It ended by itself.
    #[error("the node {name} ended ({status}): {said}")]
    Ended {
        /// The node.
        name: String,
        /// How.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// It took too long.
    #[error("{what} within {patience:?}: {last}")]
    Late {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        patience: Duration,
        /// How things stood at the end.
        last: String,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// What it wrote.
        said: String,
    },
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NodeError {
    let path = path.to_path_buf();
    move |source| NodeError::Io { attempt, path, source }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    kubernetes: Kubernetes,
    spec: NodeSpec,
    state: PathBuf,
    cgroup: Cgroup,
    notify: UnixDatagram,
    outer: Child,
    _lifeline: Option<ChildStdin>,
    namespaces: Namespaces,
    is_up: bool,
}

impl Node {
    /// Starts it; everything that it writes goes to `state`, which may be that of an earlier one.
    ///
    /// # Errors
    /// Its files cannot be written or its process not started.
    pub fn start(kubernetes: &Kubernetes, state: &Path, spec: NodeSpec) -> Result<Self, NodeError> {
        let id = format!("{}-{}", std::process::id(), spec.name);
        let cgroup = Cgroup::named(&id);
        let etc = state.join("etc/rancher/k3s");
        holdfast_durable::write(&etc.join("config.yaml"), spec.config.as_bytes(), 0o600)?;
        holdfast_durable::write(&etc.join("registries.yaml"), spec.registries.as_bytes(), 0o600)?;
        let socket = state.join("notify");
        let _of_an_earlier_one = fs::remove_file(&socket);
        let _of_an_earlier_one = fs::remove_file(state.join("pid"));
        let notify = UnixDatagram::bind(&socket).map_err(io_error("listen at", &socket))?;
        let log = state.join("k3s.log");
        let log = File::create(&log).map_err(io_error("make", &log))?;
        let program = kubernetes.lab_k3s();
        let mut command = Command::new(program);
        command.arg("isolate").arg("--state").arg(state).args([
            "--until-eof",
            "--hostname",
            &spec.name,
            "--address",
            &spec.address,
        ]);
        if let Some(switch) = spec.switch {
            command.arg(format!("--switch={switch}"));
        }
        command.arg("--").arg(kubernetes.k3s()).arg(spec.role);
        if kubernetes.is_real() {
            cgroup.make().map_err(io_error("make the control group of", state))?;
            command.arg(format!("--kubelet-arg=cgroup-root={}", cgroup.root()));
        }
        let mut outer = command
            .env("NOTIFY_SOCKET", &socket)
            .env(GROUP_VARIABLE, &id)
            .env(crate::cache::BUILD_VARIABLE, kubernetes.built().root())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(io_error("open the log below", state))?)
            .stderr(log)
            .spawn()
            .map_err(io_error("start", program))?;
        let lifeline = outer.stdin.take();
        let mut node = Self {
            kubernetes: kubernetes.clone(),
            spec,
            state: state.to_path_buf(),
            cgroup,
            notify,
            outer,
            _lifeline: lifeline,
            namespaces: Namespaces::default(),
            is_up: false,
        };
        node.until("the node has its namespaces", Duration::from_secs(60), |node| {
            node.pid().map_or(Err("no PID 1 yet".into()), |_| Ok(()))
        })?;
        node.namespaces = node.pid().map(Namespaces::of).unwrap_or_default();
        Ok(node)
    }

    /// PID 1 of the node, as this process sees it.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.state.join("pid")).ok()?.trim().parse().ok()
    }

    /// The folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A path of the node below `/var/lib/rancher/k3s`, as this process sees it.
    pub fn data(&self, path: &str) -> PathBuf {
        self.state.join("own/var/lib/rancher/k3s").join(path)
    }

    /// A path inside the node (`/` is its own root), as this process sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.pid().unwrap_or_default());
        Path::new(&root).join(path.trim_start_matches('/'))
    }

    /// Its network namespace, where its API server is.
    ///
    /// # Errors
    /// The node has ended.
    pub fn network(&self) -> Result<NetNs, NodeError> {
        let path = format!("/proc/{}/ns/net", self.pid().unwrap_or_default());
        Ok(NetNs::open_at(Path::new(&path))?)
    }

    /// Does async work in the node's network, on a thread and a runtime of its own.
    ///
    /// # Errors
    /// The node has ended, or the runtime cannot be made.
    ///
    /// # Panics
    /// When `work` does.
    pub fn in_network<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T, NodeError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io_error("make a runtime in", &self.state))?;
        Ok(self.network()?.enter(|| runtime.block_on(work()))?)
    }

    /// The token that others join with.
    ///
    /// # Errors
    /// The server has none yet.
    pub fn token(&self) -> Result<String, NodeError> {
        let path = self.data("server/node-token");
        fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(io_error("read", &path))
    }

    /// Waits for k3s' own word (`READY=1`, sd_notify(3)).
    ///
    /// # Errors
    /// It ended, or the time is over.
    pub fn wait_up(&mut self, patience: Duration) -> Result<(), NodeError> {
        self.until("k3s says that it is ready", patience, |node| {
            if node.is_up {
                return Ok(());
            }
            let mut message = [0u8; 4096];
            let _timeout = node.notify.set_read_timeout(Some(Duration::from_millis(50)));
            if let Ok(length) = node.notify.recv(&mut message) {
                node.is_up =
                    message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
            }
            if node.is_up { Ok(()) } else { Err("it said nothing".into()) }
        })
    }

    /// Waits until the node named `name` is Ready, and pods can be made.
    ///
    /// # Errors
    /// The node ended, or the time is over.
    pub fn wait_ready(&mut self, name: &str, patience: Duration) -> Result<(), NodeError> {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}"#;
        self.until(&format!("node {name} is Ready"), patience, |node| {
            match node.kubectl(&["get", "node", name, "-o", ready]) {
                Ok(text) if text.starts_with("True") => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        })?;
        self.until("the default service account is there", patience, |node| {
            node.kubectl(&["get", "serviceaccount", "default"])
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
    }

    /// Tries until it succeeds.
    ///
    /// # Errors
    /// The node ended, or the time is over; with the last attempt's words.
    pub fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), NodeError> {
        let deadline = Instant::now() + patience;
        loop {
            let last = match attempt(self) {
                Ok(()) => return Ok(()),
                Err(last) => last,
            };
            if let Ok(Some(status)) = self.outer.try_wait() {
                let said = fs::read_to_string(self.state.join("k3s.log")).unwrap_or_default();
                return Err(NodeError::Ended {
                    name: self.spec.name.clone(),
                    status,
                    said: said.trim().into(),
                });
            }
            if Instant::now() >= deadline {
                return Err(NodeError::Late { what: format!("not: {what}"), patience, last });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command inside the node.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid().unwrap_or_default()))
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--"])
            .arg(program)
            .env(crate::cache::BUILD_VARIABLE, self.kubernetes.built().root())
            .env_remove("KUBECONFIG");
        command
    }

    /// A command of k3s inside the node, to its end; what it wrote to its output.
    ///
    /// # Errors
    /// It failed; with what it wrote to its error output.
    pub fn k3s(&self, words: &[&str]) -> Result<String, NodeError> {
        let program = self.kubernetes.k3s();
        output(self.command(program).args(words), &format!("k3s {}", words.join(" ")))
    }

    /// `kubectl` inside the node.
    ///
    /// # Errors
    /// It failed; with what it wrote to its error output.
    pub fn kubectl(&self, words: &[&str]) -> Result<String, NodeError> {
        let words: Vec<&str> = std::iter::once("kubectl").chain(words.iter().copied()).collect();
        self.k3s(&words)
    }

    /// `kubectl apply` of manifests.
    ///
    /// # Errors
    /// It failed; with what it wrote to its error output.
    pub fn apply(&self, manifests: &str) -> Result<String, NodeError> {
        let path = self.state.join("apply.yaml");
        holdfast_durable::write(&path, manifests.as_bytes(), 0o600)?;
        self.kubectl(&["apply", "--filename", &path.display().to_string()])
    }

    /// An image with the tests' web server and a shell (`go/web.go` says what it can be told).
    ///
    /// # Errors
    /// The build lacks a program.
    pub fn web_image(&self, name: &str) -> Result<Image, NodeError> {
        web_image(self.kubernetes.built(), name)
    }

    /// Asks it to end and waits; what is left is ended by force. Tells what it left behind.
    ///
    /// # Errors
    /// The processes cannot be waited for.
    pub fn stop(mut self) -> Result<Vec<String>, NodeError> {
        self.signal(self.outer.id(), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            let ended = self.outer.try_wait().map_err(io_error("wait for", &self.state))?;
            if ended.is_some() {
                return Ok(self.left());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.end_by_force();
        let mut left = self.left();
        left.push(format!("it did not end within {STOP_WITHIN:?} and was killed"));
        Ok(left)
    }

    /// Ends it as a power cut would: PID 1 is killed.
    pub fn kill(mut self) -> Vec<String> {
        self.end_by_force();
        self.left()
    }

    fn signal(&self, pid: u32, signal: Signal) {
        if let Ok(pid) = i32::try_from(pid) {
            let _gone = kill(Pid::from_raw(pid), signal);
        }
    }

    fn end_by_force(&mut self) {
        if let Ok(None) = self.outer.try_wait() {
            if let Some(pid) = self.pid() {
                self.signal(pid, Signal::SIGKILL);
            }
            self.signal(self.outer.id(), Signal::SIGKILL);
            let _reaped = self.outer.wait();
        }
        // Told by `left`, when it matters to anybody.
        let _busy = self.cgroup.remove(GONE_WITHIN);
    }

    /// What outlived it: processes in its namespaces, mounts of its folder, its control group.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        // The kernel takes namespaces down a moment after the last process of them.
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            left.clear();
            left.extend(self.namespaces.processes().iter().map(|one| format!("process {one}")));
            let folder = self.state.display().to_string();
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
                if mounts.contains(&folder) {
                    let pid = entry.file_name();
                    left.push(format!("a mount of {folder} in process {}", pid.display()));
                }
            }
            if self.cgroup.exists() {
                left.push(format!("control group {}", self.cgroup.root()));
            }
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end_by_force();
    }
}

fn output(command: &mut Command, shown: &str) -> Result<String, NodeError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("start", Path::new(command.get_program())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NodeError::Failed { program: shown.into(), said })
}
