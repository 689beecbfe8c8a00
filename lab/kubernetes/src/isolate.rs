//! A machine's view of its own for one command: mounts, processes, host name and network.
//!
//! `lab-k3s isolate --state DIR … -- COMMAND` keeps everything that the command writes below the
//! usual places in `DIR`, and ends everything with PID 1 of the namespace. It works for a real
//! k3s as well as for ours. What it writes into `DIR`: `pid`, PID 1 as the caller sees it.
//!
//! `/etc` and `/var` are overlays whose upper layers are in `DIR`; `/run` and `/dev/shm` are new;
//! k3s' and the kubelet's directories are real directories of `DIR`, for an overlay cannot carry
//! another one. The network has `node0`, in the world's switch when one is named.

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Hidden argument: be PID 1 of such a view.
pub const INSIDE: &str = "__isolated";

/// Directories that are whole in the state, not layers over the machine's.
const OWN: &[&str] = &["var/lib/rancher", "var/lib/kubelet", "var/log"];

/// What to make.
#[derive(Debug, Clone, clap::Args)]
pub struct Isolate {
    /// Where everything that is written is kept
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// The host name
    #[arg(long, default_value = "node1")]
    pub hostname: String,
    /// Address and length of the prefix, on the interface node0
    #[arg(long, default_value = "10.200.0.1/24")]
    pub address: String,
    /// A process whose network namespace has the bridge `switch`
    #[arg(long, value_name = "PID")]
    pub switch: Option<u32>,
    /// End when the standard input does
    #[arg(long)]
    pub until_eof: bool,
    /// What to run
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Makes the view and runs the command in it, to its end.
///
/// # Errors
/// What could not be made.
pub fn run(wish: &Isolate) -> anyhow::Result<ExitCode> {
    let state = &wish.state;
    for dir in ["etc", "etc.work", "var", "var.work"].into_iter().chain(OWN.iter().copied()) {
        let dir =
            state.join(if OWN.contains(&dir) { format!("own/{dir}") } else { dir.to_owned() });
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut wanted = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]
        .into_iter()
        .for_each(|signal| wanted.add(signal));
    wanted.thread_block()?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    network(wish)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID,
    )
    .context("cannot make namespaces")?;
    nix::unistd::sethostname(&wish.hostname)?;
    let mut inside = Command::new(std::env::current_exe()?)
        .arg(INSIDE)
        .arg(state)
        .args(&wish.command)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start PID 1")?;
    holdfast_durable::write(&state.join("pid"), format!("{}\n", inside.id()).as_bytes(), 0o644)?;
    let input = std::io::stdin();
    let mut listens = wish.until_eof;
    loop {
        let mut events =
            [signals.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let watched = if listens { 2 } else { 1 };
        let _interrupted = poll(&mut events[..watched], PollTimeout::NONE);
        if listens && events[1].any() == Some(true) {
            listens = false;
            kill(Pid::from_raw(i32::try_from(inside.id())?), Signal::SIGTERM)?;
        }
        if let Some(signal) = signals.read_signal()?
            && signal.ssi_signo != Signal::SIGCHLD as u32
        {
            kill(Pid::from_raw(i32::try_from(inside.id())?), Signal::SIGTERM)?;
        }
        if let Some(status) = inside.try_wait()? {
            let _pid = fs::remove_file(state.join("pid"));
            return match (status.code(), status.signal()) {
                (Some(code), _) => Ok(ExitCode::from(u8::try_from(code)?)),
                (None, signal) => {
                    bail!("PID 1 was killed by signal {}", signal.unwrap_or_default())
                }
            };
        }
    }
}

/// The interface. Made from outside, where the switch's process has a number.
fn network(wish: &Isolate) -> anyhow::Result<()> {
    let ip = |words: &str| -> anyhow::Result<()> {
        let output = Command::new("ip")
            .args(words.split(' '))
            .output()
            .context("cannot start ip (package iproute2)")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    ip("link set lo up")?;
    match wish.switch {
        Some(switch) => {
            // Its name in the switch must be its own; the process' number is.
            let port = format!("p{}", std::process::id());
            ip(&format!("link add node0 type veth peer name {port} netns {switch}"))?;
            let inside =
                format!("--net=/proc/{switch}/ns/net ip link set {port} master {SWITCH} up");
            let output = Command::new("nsenter").args(inside.split(' ')).output()?;
            if !output.status.success() {
                bail!("nsenter {inside}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        // Alone, an address is all that is needed.
        None => ip("link add node0 type bridge")?,
    }
    ip(&format!("addr add {} dev node0", wish.address))?;
    ip("link set node0 up")?;
    // Kubernetes wants a default route, and nothing may leave.
    ip("route add default dev node0")?;
    let forward = File::options().write(true).open("/proc/sys/net/ipv4/ip_forward");
    forward.and_then(|mut file| file.write_all(b"1")).context("cannot turn forwarding on")
}

/// Name of the bridge in a switch.
pub const SWITCH: &str = "switch";

/// A network namespace with a bridge, for as long as this process lives.
///
/// # Errors
/// What could not be made.
pub fn switch() -> anyhow::Result<ExitCode> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    for words in [format!("link add {SWITCH} type bridge"), format!("link set {SWITCH} up")] {
        let status = Command::new("ip").args(words.split(' ')).status()?;
        if !status.success() {
            bail!("ip {words} failed");
        }
    }
    println!("ready");
    // Its maker keeps the other end.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(ExitCode::SUCCESS)
}

/// PID 1: mounts, runs the command, buries, and ends with it.
///
/// # Errors
/// What could not be mounted or started.
pub fn inside(state: &Path, command: &[String]) -> anyhow::Result<ExitCode> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let state = state.canonicalize()?;
    mounts(&state).context("cannot make the mounts")?;
    let mut wanted = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGCHLD].into_iter().for_each(|signal| wanted.add(signal));
    // The rest was blocked by the parent.
    SigSet::all().thread_unblock()?;
    let (program, arguments) = command.split_first().context("no command")?;
    let child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    wanted.thread_block()?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC)?;
    loop {
        // Before the first signal is read: the child may have ended before they were blocked.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                    return Ok(ExitCode::from(u8::try_from(code)?));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    bail!("{program} was killed by {signal}");
                }
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => break,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Some(signal) = signals.read_signal()?
            && signal.ssi_signo == Signal::SIGTERM as u32
        {
            kill(child, Signal::SIGTERM)?;
        }
    }
}

fn mounts(state: &Path) -> anyhow::Result<()> {
    let nothing = None::<&Path>;
    let none = MsFlags::empty();
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    for layer in ["etc", "var"] {
        let options = format!(
            "lowerdir=/{layer},upperdir={upper},workdir={upper}.work",
            upper = state.join(layer).display()
        );
        mount(
            Some("overlay"),
            &Path::new("/").join(layer),
            Some("overlay"),
            none,
            Some(options.as_str()),
        )
        .with_context(|| format!("an overlay over /{layer}"))?;
    }
    for own in OWN {
        let target = Path::new("/").join(own);
        fs::create_dir_all(&target)?;
        mount(Some(&state.join("own").join(own)), &target, nothing, MsFlags::MS_BIND, nothing)?;
    }
    mount(Some("tmpfs"), "/run", Some("tmpfs"), none, Some("mode=755"))?;
    fs::create_dir_all("/run/lock")?;
    mount(Some("proc"), "/proc", Some("proc"), none, nothing)?;
    Ok(())
}
