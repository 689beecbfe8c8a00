//! A server of real Kubernetes below a folder, stopped and started as the manager would.

use futures_util::future::BoxFuture;
use holdfast_api::paths::Root;
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::nodes::kube::KubeCluster;
use holdfast_cluster::nodes::restored::{Reboots, forget_reboots, reboots};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::snapshots::distribution::Refusal;
use holdfast_cluster::snapshots::{Distribution, Paused};
use holdfast_lab_kubernetes::cache::BUILD_VARIABLE;
use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::places::ROOT_VARIABLE;
use holdfast_poll::TICK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::process::Command;

/// A control plane without a kubelet: all that snapshots are about.
/// Nobody starts it again when it loses an election, so that one takes long.
const CONFIG: &str = "cluster-init: true\ndisable-agent: true\nnode-name: node1\nnode-ip: 10.201.0.1\n\
     kube-controller-manager-arg: [leader-elect-lease-duration=40s, leader-elect-renew-deadline=30s]\n\
     kube-scheduler-arg: [leader-elect-lease-duration=40s, leader-elect-renew-deadline=30s]\n";

/// A fragment as the manager writes it, with the token of the site.
fn token(paths: &ClusterPaths, token: &str) {
    let path = paths.config_dir().join("config.yaml.d/60-holdfast.yaml");
    holdfast_durable::write(&path, format!("token: {token}\n").as_bytes(), 0o600).unwrap();
}

pub(crate) struct Server {
    kubernetes: Kubernetes,
    dir: PathBuf,
    pub(crate) paths: ClusterPaths,
    /// None while it is kept stopped or has ended.
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Configured, not started.
    pub(crate) fn new(kubernetes: &Kubernetes, dir: &Path) -> Arc<Self> {
        let paths = ClusterPaths::new(&Root::new(dir));
        let config = paths.config_dir().join("config.yaml");
        holdfast_durable::write(&config, CONFIG.as_bytes(), 0o600).unwrap();
        token(&paths, "the-site's-token");
        let (kubernetes, dir) = (kubernetes.clone(), dir.to_path_buf());
        Arc::new(Server { kubernetes, dir, paths, child: Mutex::default() })
    }

    /// The site was made anew and has another token.
    pub(crate) fn has_token(&self, text: &str) {
        token(&self.paths, text);
    }

    /// It is one of several servers, and to join this one.
    pub(crate) fn joins(&self, server: &str) {
        let path = self.paths.config_dir().join("config.yaml.d/70-site.yaml");
        let text = format!("cluster-init: false\nserver: {server}\n");
        holdfast_durable::write(&path, text.as_bytes(), 0o600).unwrap();
    }

    pub(crate) fn start(&self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("k3s.log"))
            .unwrap();
        // It ends with the thread of the test, also when that is killed (setpriv(1)).
        let server = self.command(&["server"]).into_std();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(server.get_program());
        command.args(server.get_args());
        for (key, value) in server.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let before = self.child.lock().unwrap().replace(command.spawn().unwrap());
        assert!(before.is_none(), "it runs already");
    }

    pub(crate) fn stop(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    /// Output of `kubectl`.
    pub(crate) async fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        let words: Vec<&str> = ["kubectl"].iter().chain(words).copied().collect();
        let output = self.command(&words).stdin(Stdio::null()).output().await.unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn has_ended(&self) -> Option<String> {
        let mut child = self.child.lock().unwrap();
        let status = child.as_mut()?.try_wait().unwrap()?;
        *child = None;
        let said = std::fs::read_to_string(self.dir.join("k3s.log")).unwrap_or_default();
        Some(format!("it ended ({status}): {}", said.lines().last().unwrap_or_default()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts it again, as the manager does when nothing keeps it stopped.
struct Guard(Arc<Server>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start();
    }
}

/// The manager's view of a [`Server`].
pub(crate) struct Supervised(pub(crate) Arc<Server>);

impl Server {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.kubernetes.k3s());
        command
            .args(words)
            .env(ROOT_VARIABLE, &self.dir)
            .env(BUILD_VARIABLE, self.kubernetes.built().root())
            .env_remove("KUBECONFIG")
            .env_remove("NOTIFY_SOCKET");
        command
    }
}

impl Distribution for Supervised {
    fn command(&self, words: &[&str]) -> Command {
        self.0.command(words)
    }

    fn version(&self) -> String {
        "v1.20.2".into()
    }

    fn pause(&self) -> BoxFuture<'_, Result<Paused, Refusal>> {
        Box::pin(async {
            self.0.stop();
            Ok(Box::new(Guard(self.0.clone())) as Paused)
        })
    }

    fn wait_ready(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let mut last = Refusal::from("it does not answer");
            let mut ticks = tokio::time::interval(TICK);
            let answers = tokio::time::timeout(patience, async {
                loop {
                    ticks.tick().await;
                    match self.0.kubectl(&["get", "--raw=/readyz"]).await {
                        Ok(_) => return Ok(()),
                        Err(said) => last = said.into(),
                    }
                    if let Some(how) = self.0.has_ended() {
                        return Err(how.into());
                    }
                }
            });
            answers.await.unwrap_or_else(|_| Err(last))
        })
    }

    fn reboots(&self) -> BoxFuture<'_, Result<Reboots, Refusal>> {
        Box::pin(async {
            let api = Api::connect(&self.0.paths.admin_kubeconfig())?;
            Ok(reboots(&KubeCluster::new(api)).await?)
        })
    }

    fn forget_reboots<'a>(&'a self, of_before: &'a Reboots) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async {
            let api = Api::connect(&self.0.paths.admin_kubeconfig())?;
            Ok(forget_reboots(&KubeCluster::new(api), of_before).await?)
        })
    }
}
