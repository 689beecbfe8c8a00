//! A drill: the newest snapshot is restored into a datastore that is thrown away, a control plane
//! is started on it, and what it holds is compared with what was there when it was taken.
//!
//! The control plane runs without a kubelet, in a folder and a network namespace of its own, where
//! nothing can be reached and nothing reaches it; the site's Kubernetes goes on meanwhile. It needs
//! memory and room, and is skipped where these are short. It ends with the thread that drives it
//! (`thread`), so that none is left when the manager is killed.
//!
//! What a drill does not show: that workloads run (nothing is started), and that the storage has
//! the same file (portable ones are checked by their sums when they are opened).

mod thread;

use super::bundle::{carried, copy_carried};
use super::distribution::Distribution;
use super::error::{SnapshotError, io_error};
use super::files::{self, Scratch};
use super::program::{self, last_words};
use super::records::{Inventory, Record, Records};
use super::{etcd_file, take};
use crate::paths::ClusterPaths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Memory that a control plane needs beside everything else.
pub const MEMORY_MIB: u64 = 700;
/// Room that it needs beside the datastore: k3s unpacks its programs into its folder.
const ROOM: u64 = 512 << 20;
/// How long the datastore may take to be made.
const MAKE_PATIENCE: Duration = Duration::from_secs(300);
/// How long the API server may take to become ready.
const READY_PATIENCE: Duration = Duration::from_secs(240);
/// How long one question may take.
const ASK_PATIENCE: Duration = Duration::from_secs(10);
/// How often what was not told is asked for: a control plane that has just begun is slow.
const COUNTS: u32 = 4;
/// How long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// How a drill went.
#[derive(Debug)]
pub enum Drill {
    /// It was made; what was found, or why the snapshot is not good for a restore.
    Made(Result<String, SnapshotError>),
    /// There was no memory or room for it.
    Skipped(String),
}

/// Makes a drill of one snapshot. Dropping the future ends it.
pub async fn drill(
    distribution: Arc<dyn Distribution>,
    paths: &ClusterPaths,
    record: &Record,
) -> Drill {
    if let Err(why) = enough(paths, record) {
        return Drill::Skipped(why);
    }
    let (paths, record) = (paths.clone(), record.clone());
    Drill::Made(thread::run(move || rehearse(distribution, paths, record)).await)
}

/// Whether a drill would not take from the site what it needs itself.
fn enough(paths: &ClusterPaths, record: &Record) -> Result<(), String> {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_mib(&text));
    if let Some(free) = free.filter(|free| *free < MEMORY_MIB) {
        return Err(format!("{free} MiB of memory are available, {MEMORY_MIB} MiB are needed"));
    }
    let need = record.bytes.saturating_mul(3).saturating_add(ROOM);
    files::room(&paths.state_dir(), need).map_err(|error| error.to_string())
}

/// `MemAvailable` of proc_meminfo(5).
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// The drill itself, on its own thread.
async fn rehearse(
    distribution: Arc<dyn Distribution>,
    paths: ClusterPaths,
    record: Record,
) -> Result<String, SnapshotError> {
    let snapshot = Records::new(&paths).snapshot(&record.name);
    etcd_file::verify(&snapshot)
        .map_err(|source| SnapshotError::Damaged { path: snapshot.clone(), source })?;
    let scratch = Scratch::make(paths.state_dir().join("drill"))?;
    let dir = scratch.path();
    copy_carried(&carried(&paths)?, &dir.join("data"))?;
    let token = dir.join("data/server/token");
    if token.exists() {
        copy_carried(&[super::bundle::Carried { name: "token".into(), path: token }], dir)?;
    }
    let config = dir.join("config.yaml");
    holdfast_durable::write(&config, render(dir).as_bytes(), 0o600)
        .map_err(SnapshotError::Write)?;
    let config = format!("--config={}", config.display());
    let path = format!("--cluster-reset-restore-path={}", snapshot.display());
    let make = distribution.command(&["server", &config, "--cluster-reset", &path]);
    program::run(dies_with_us(&make), "restoring in a drill", MAKE_PATIENCE).await?;

    let server = dies_with_us(&distribution.command(&["server", &config]));
    let mut server = Server::start(server, dir)?;
    let kubeconfig = format!("--kubeconfig={}", dir.join("kubeconfig").display());
    let ask = |words: &[&str]| {
        // `kubectl` comes first; its options may stand behind it.
        let mut all = words.to_vec();
        all.insert(1, &kubeconfig);
        distribution.command(&all)
    };
    let began = Instant::now();
    loop {
        let asked = ask(&["kubectl", "get", "--raw", "/readyz"]);
        let last = match program::run(asked, "asking for readiness", ASK_PATIENCE).await {
            Ok(_) => break,
            Err(last) => last,
        };
        server.still_runs()?;
        if began.elapsed() > READY_PATIENCE {
            return Err(last);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut found = Inventory::new();
    for _ in 0..COUNTS {
        for (kind, page) in take::pages() {
            if found.contains_key(kind) {
                continue;
            }
            let asked = ask(&["kubectl", "get", "--raw", &page]);
            let answer = program::run(asked, "counting objects", ASK_PATIENCE).await;
            take::note(&mut found, kind, answer.ok());
        }
        server.still_runs()?;
        if take::uncounted(&record.inventory, &found).is_none() {
            break;
        }
    }
    server.end().await?;
    if let Some(what) = take::uncounted(&record.inventory, &found) {
        return Err(SnapshotError::Uncounted { what });
    }
    match take::lacks(&record.inventory, &found) {
        Some(what) => Err(SnapshotError::Lacks { what }),
        None => {
            let count = |kind: &str| found.get(kind).copied().unwrap_or_default();
            let all: u64 = found.values().sum();
            Ok(format!("{all} objects in {} namespaces", count("namespaces")))
        }
    }
}

/// The configuration of the control plane. It is all there is: the node's own is not read.
fn render(dir: &Path) -> String {
    let mut lines = vec![
        format!("data-dir: {}", dir.join("data").display()),
        format!("write-kubeconfig: {}", dir.join("kubeconfig").display()),
        format!("node-ip: {}", thread::ADDRESS),
        format!("advertise-address: {}", thread::ADDRESS),
        "node-name: drill".into(),
        "flannel-backend: none".into(),
    ];
    if dir.join("token").exists() {
        lines.push(format!("token-file: {}", dir.join("token").display()));
    }
    // What k3s brings along is not disabled: it would delete the site's from the datastore, and
    // then it would be missing.
    lines.extend(
        [
            "cluster-init",
            "disable-agent",
            "disable-cloud-controller",
            "disable-helm-controller",
            "disable-kube-proxy",
            "disable-network-policy",
            "etcd-disable-snapshots",
        ]
        .map(|flag| format!("{flag}: true")),
    );
    lines.join("\n") + "\n"
}

/// The same command, killed by the kernel when the thread that starts it ends (setpriv(1)).
fn dies_with_us(command: &Command) -> Command {
    let command = command.as_std();
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

/// The control plane of a drill; killed when dropped.
struct Server {
    child: Child,
    log: std::path::PathBuf,
}

impl Server {
    fn start(mut command: Command, dir: &Path) -> Result<Self, SnapshotError> {
        let log = dir.join("log");
        let file = std::fs::File::create(&log).map_err(io_error("make", &log))?;
        let errors = file.try_clone().map_err(io_error("open", &log))?;
        let child = command
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SnapshotError::Start { program: "setpriv".into(), source })?;
        Ok(Server { child, log })
    }

    fn still_runs(&mut self) -> Result<(), SnapshotError> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let said = last_words(&std::fs::read(&self.log).unwrap_or_default());
                Err(SnapshotError::Failed { attempt: "the control plane", status, said })
            }
            _ => Ok(()),
        }
    }

    async fn end(&mut self) -> Result<(), SnapshotError> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself; the wait tells.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(END_PATIENCE, self.child.wait()).await.is_err() {
            self.child
                .kill()
                .await
                .map_err(|source| SnapshotError::Start { program: "kill".into(), source })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_says_it() {
        let text = "MemTotal:       24683512 kB\nMemAvailable:    1048576 kB\n";
        assert_eq!(available_mib(text), Some(1024));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_command_stays_what_it_was() {
        let mut command = Command::new("k3s");
        command.arg("server").env("A", "b").env_remove("C");
        let wrapped = dies_with_us(&command);
        let wrapped = wrapped.as_std();
        let words: Vec<_> = wrapped.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words, ["--pdeathsig", "KILL", "--", "k3s", "server"]);
        assert_eq!(wrapped.get_envs().count(), 2);
    }

    #[test]
    fn the_control_plane_reads_nothing_of_the_nodes_own() {
        let text = render(Path::new("/d"));
        assert!(text.contains("data-dir: /d/data\n") && text.contains("disable-agent: true\n"));
        assert!(!text.contains("token"), "no token is there to be named");
    }
}
