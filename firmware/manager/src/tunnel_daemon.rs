//! `tunneld`: started, found again, asked for its state.
//!
//! It is a process of its own: it goes on when we restart or die. Where systemd is PID 1 it is a
//! unit; else it is a child in a session of its own, and the next manager finds it by its socket.

use crate::settings::TunneldStart;
use holdfast_api::paths::Root;
use holdfast_api::tunnel::TunnelsState;
use holdfast_client::unix;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tracing::{info, warn};

/// It answers from memory; more means that it hangs.
const PATIENCE: Duration = Duration::from_secs(2);

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
