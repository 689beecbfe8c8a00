//! `tunneld`: started, found again, asked for its state.
//!
//! It is a process of its own: it goes on when we restart or die. Where systemd is PID 1 it is a
//! unit; else it is a child in a session of its own, and the next manager finds it by its socket.

use crate::settings::TunneldStart;
use holdfast_api::paths::Root;
use holdfast_api::tunnel::{TunnelsState, TunnelsVersion};
use holdfast_client::unix;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// It answers from memory; more means that it hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// It answers after a minute when nothing happens.
const LONGEST_WAIT: Duration = Duration::from_secs(75);
/// Between two attempts to find it: soon after it was started, and rarely when it is away for long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Changes of the tunnel daemon's state.
#[derive(Debug)]
pub struct Changes {
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Changes {
    /// Waits for the next. Cancel safe: a change that nobody waited for is kept.
    pub async fn next(&self) {
        self.news.notified().await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Our end of the tunnel daemon.
#[derive(Debug, Clone)]
pub struct TunnelDaemon {
    root: Root,
    start: TunneldStart,
}

impl TunnelDaemon {
    /// The daemon below `root`.
    pub fn new(root: Root, start: TunneldStart) -> Self {
        TunnelDaemon { root, start }
    }

    /// Its state; none while it does not answer.
    pub async fn state(&self) -> Option<TunnelsState> {
        let socket = self.root.tunneld_socket();
        tokio::time::timeout(PATIENCE, unix::get_json(&socket, "/v1/state")).await.ok()?.ok()
    }

    /// Notifies whoever waits of each change of the state, and again and again while it does not
    /// answer. The task ends with what is returned.
    pub fn follow(&self) -> Changes {
        let (socket, news) = (self.root.tunneld_socket(), Arc::new(Notify::new()));
        let tell = news.clone();
        let task = tokio::spawn(async move {
            let (mut known, mut pause) = (None, FIRST_PAUSE);
            loop {
                let path = match known {
                    Some(version) => format!("/v1/changes?after={version}"),
                    None => "/v1/changes".into(),
                };
                let answer = unix::get_json_within::<TunnelsVersion>(&socket, &path, LONGEST_WAIT);
                let now = answer.await.ok().map(|answer| answer.version);
                if now.is_none() || now != known {
                    tell.notify_one();
                }
                if now.is_none() {
                    tokio::time::sleep(pause).await;
                }
                pause = if now.is_none() { (pause * 2).min(LAST_PAUSE) } else { FIRST_PAUSE };
                known = now;
            }
        });
        Changes { news, task }
    }

    /// Tells it to read its configuration again; it would notice by itself, later.
    pub async fn reload(&self) {
        let socket = self.root.tunneld_socket();
        let _ = tokio::time::timeout(PATIENCE, unix::post(&socket, "/v1/reload")).await;
    }

    /// Starts it. Call only when it does not answer: two of them would fight over the links,
    /// so the second one ends by itself when it finds the socket taken.
    ///
    /// # Errors
    /// The program or systemd cannot be started.
    pub fn start(&self) -> std::io::Result<()> {
        match &self.start {
            TunneldStart::External => Ok(()),
            TunneldStart::Systemd => systemctl_start(),
            TunneldStart::Auto(_) if Path::new("/run/systemd/system").is_dir() => systemctl_start(),
            TunneldStart::Auto(program) | TunneldStart::Child(program) => {
                self.spawn(program.as_deref())
            }
        }
    }

    fn spawn(&self, program: Option<&Path>) -> std::io::Result<()> {
        let program = program.map_or_else(beside_us, Path::to_path_buf);
        info!(program = %program.display(), "starting tunneld");
        let mut child = Command::new(program)
            .arg("--root")
            .arg(self.root.dir())
            .stdin(Stdio::null())
            // A group of its own: a signal to our terminal or our group is not for it.
            .process_group(0)
            .spawn()?;
        // Somebody must collect it when it ends before us.
        std::thread::Builder::new().name("tunneld-reaper".into()).spawn(move || {
            match child.wait() {
                Ok(status) => warn!(%status, "tunneld ended"),
                Err(error) => warn!(%error, "lost sight of tunneld"),
            }
        })?;
        Ok(())
    }
}

fn systemctl_start() -> std::io::Result<()> {
    let status =
        Command::new("systemctl").args(["start", "--no-block", "tunneld.service"]).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("systemctl start tunneld.service: {status}"))),
    }
}

fn beside_us() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name("tunneld"))
        .filter(|path| path.exists())
        .unwrap_or_else(|| "tunneld".into())
}
