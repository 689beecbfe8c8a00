//! The process that whoever started `k3s` sees: it prepares the node, starts PID 1 of it, tells
//! its supervisor when the node is ready, and passes the wish to end on.
//!
//! It stays one thread: a process that has asked for a new PID namespace can make no threads
//! (pid_namespaces(7)).

use super::{Plan, prepare};
use crate::cache::Built;
use crate::cgroups::Cgroup;
use crate::config::Settings;
use crate::places::Places;
use crate::recipe::hex;
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Says `ready` from the inside to here.
pub(super) const READY: u8 = b'R';

/// Names the group of a node, so that whoever started it can clear away after a `kill -9`.
pub const GROUP_VARIABLE: &str = "HOLDFAST_LAB_CGROUP";

/// Runs the node until it ends or is told to.
///
/// # Errors
/// What keeps it from starting, or what ended it.
pub fn run(settings: &Settings, places: &Places, built: &Built) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a node runs as root only");
    }
    let id = match std::env::var(GROUP_VARIABLE) {
        Ok(id) => id,
        Err(_) => {
            let mut bytes = [0u8; 4];
            getrandom::fill(&mut bytes).map_err(prepare::PrepareError::Random)?;
            hex(&bytes)
        }
    };
    let cgroup = Cgroup::named(&id);
    let plan = prepare(settings, places, built, &cgroup.root())?;
    let path = settings.data.join("agent/etc/plan.json");
    holdfast_durable::write(&path, &serde_json::to_vec(&plan)?, 0o600)?;
    cgroup.make().context("cannot make the node's control group")?;
    let result = watch(&plan, &path);
    cgroup.remove(Duration::from_secs(30)).context("cannot remove the node's control group")?;
    result
}

fn watch(plan: &Plan, path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let mut wanted = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .for_each(|signal| wanted.add(signal));
    wanted.thread_block()?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC)?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("cannot make namespaces")?;
    // Who leads among several servers is told apart by it.
    nix::unistd::sethostname(&plan.node).context("cannot name the node's host")?;
    let mut inside = Command::new(std::env::current_exe()?)
        .arg(super::inner::INIT)
        .arg(path)
        // etcd and containerd would say that they are ready, which is not what was asked.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the node")?;
    let mut wish = inside.stdin.take();
    let mut answers = inside.stdout.take().context("the node has no output")?;
    loop {
        let mut events = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(answers.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut events, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        let [told, answered] = events.map(|event| event.any().unwrap_or(false));
        if told {
            let _which = signals.read_signal()?;
            let _nobody_listens = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            // The end of its input is what the node takes as the wish to end.
            wish = None;
        }
        if answered {
            let mut answer = [0u8; 64];
            match answers.read(&mut answer)? {
                0 => break,
                length if answer[..length].contains(&READY) => {
                    eprintln!("the node {} is up", plan.node);
                    let _nobody_listens = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                }
                _ => {}
            }
        }
    }
    let was_told = wish.is_none();
    let status = inside.wait()?;
    if was_told || status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!(
        "the node ended by itself ({status}); its logs are beside {}",
        plan.kubernetes.log.display()
    )
}
