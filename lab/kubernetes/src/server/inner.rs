//! Inside a node's PID namespace: PID 1, which only buries, and its child, which starts the
//! programs and watches them. When one of them ends, all end, as with k3s.

use super::outer::READY;
use super::{Plan, Program, manifests, members, routes};
use anyhow::{Context, bail};
use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Hidden argument: be PID 1.
pub const INIT: &str = "__init";

/// Hidden argument: be its child.
pub const NODE: &str = "__node";

/// How long the programs have to end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// Settings of the whole machine that the kubelet writes; a node gets copies.
const MACHINE_WIDE: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Reads a plan.
fn read(path: &Path) -> anyhow::Result<Plan> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// PID 1: mounts, starts the child, and buries whatever is left to it until the child ends.
///
/// # Errors
/// What keeps the child from starting.
pub fn init(path: &Path) -> anyhow::Result<ExitCode> {
    // Whoever started this may end without a word.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    SigSet::all().thread_unblock()?;
    let plan = read(path)?;
    own_mounts(&plan).context("cannot make the node's mounts")?;
    let child = Command::new(std::env::current_exe()?).arg(NODE).arg(path).spawn()?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                bail!("the node was killed by {signal}")
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn own_mounts(plan: &Plan) -> anyhow::Result<()> {
    let nothing = None::<&Path>;
    let root = Path::new("/");
    // First away from the machine's mounts; then shared again, among the pods of this node.
    mount(nothing, root, nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(nothing, root, nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing)?;
    std::fs::create_dir_all(&plan.settings)?;
    for setting in MACHINE_WIDE {
        let own: PathBuf = plan.settings.join(setting.replace('/', "_"));
        let real = Path::new("/proc/sys").join(setting);
        if let Ok(value) = std::fs::read(&real) {
            File::create(&own)?.write_all(&value)?;
            mount(Some(&own), &real, nothing, MsFlags::MS_BIND, nothing)
                .with_context(|| real.display().to_string())?;
        }
    }
    if plan.root != root {
        own_root(plan)?;
    }
    Ok(())
}

/// containerd and the kubelet have paths below `/run` and `/var` that nobody can change; they
/// must not reach the machine's.
fn own_root(plan: &Plan) -> anyhow::Result<()> {
    let nothing = None::<&Path>;
    // Held open, for what is mounted over them hides them.
    let mut kept = Vec::new();
    for path in &plan.keep {
        let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
        let directory = File::options().read(true).custom_flags(flags).open(path);
        kept.push((path, directory.with_context(|| path.display().to_string())?));
    }
    for top in ["run", "var"] {
        let (own, machine) = (plan.root.join(top), Path::new("/").join(top));
        std::fs::create_dir_all(&own)?;
        mount(Some(&own), &machine, nothing, MsFlags::MS_BIND, nothing)?;
        for (path, directory) in kept.iter().filter(|(path, _)| path.starts_with(&machine)) {
            std::fs::create_dir_all(path)?;
            let held = format!("/proc/self/fd/{}", directory.as_raw_fd());
            mount(Some(held.as_str()), *path, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// PID 1's child: the node itself, until it is told to end or something in it ends.
///
/// # Errors
/// What ended it.
pub fn node(path: &Path) -> anyhow::Result<ExitCode> {
    let plan = read(path)?;
    let mut running = Vec::new();
    let datastore = plan.datastore.iter().map(|datastore| &datastore.program);
    for program in datastore.chain(&plan.programs) {
        running.push((program.clone(), start(&plan, program)?));
    }
    let (joined, waits) = mpsc::channel();
    match plan.datastore.as_ref().and_then(|datastore| datastore.joining.clone()) {
        Some(joining) => {
            let name = plan.node.clone();
            thread::spawn(move || {
                joining.follow(&name);
                joined.send(())
            });
        }
        None => joined.send(())?,
    }
    let mut waits = Some(waits);
    let ended = loop {
        // Without a vote the datastore answers nobody, and the API server would give up.
        if waits.as_ref().is_some_and(|joined| joined.try_recv().is_ok()) {
            waits = None;
            running.push((plan.kubernetes.clone(), start(&plan, &plan.kubernetes)?));
            attend(&plan);
        }
        if told_to_end(Duration::from_millis(if waits.is_some() { 20 } else { 100 }))? {
            break None;
        }
        let mut ended = None;
        for (program, child) in &mut running {
            if let Some(status) = child.try_wait()? {
                ended = Some((program.clone(), status));
            }
        }
        if ended.is_some() {
            break ended;
        }
    };
    end(&mut running);
    match ended {
        None => Ok(ExitCode::SUCCESS),
        Some((program, status)) => {
            let words = last_lines(&program.log);
            if let Some(datastore) = &plan.datastore
                && words.contains(members::REMOVED)
            {
                holdfast_durable::write(&datastore.tombstone, b"", 0o600)?;
            }
            let last = words.lines().last().unwrap_or("it wrote nothing");
            bail!("{} ended ({status}): {last}", program.name)
        }
    }
}

/// What goes on beside Kubernetes.
fn attend(plan: &Plan) {
    let beside: [fn(&Plan); 4] = [import, tell_when_ready, routes::follow, forget_earlier_self];
    for one in beside {
        let plan = plan.clone();
        thread::spawn(move || one(&plan));
    }
}

/// A server that was killed leads for a while after its death, and its next self would wait for
/// it. Only what was taken before this start is given up.
fn forget_earlier_self(plan: &Plan) {
    let Some(manifests) = &plan.manifests else { return };
    if !manifests.elects {
        return;
    }
    until_success(plan, &["get", "--raw=/livez"]);
    for part in ["kube-controller-manager", "kube-scheduler"] {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{part}");
        let Ok(output) = routes::kubectl(plan, &["get", &format!("--raw={path}")]).output() else {
            continue;
        };
        let lease: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let of = |field: &str| lease["spec"][field].as_str().unwrap_or_default();
        let is_own = of("holderIdentity").starts_with(&format!("{}_", plan.node));
        if is_own
            && of("acquireTime").parse().is_ok_and(|taken: Timestamp| taken < manifests.started)
        {
            let _another_took_it =
                routes::kubectl(plan, &["delete", &format!("--raw={path}")]).output();
        }
    }
}

fn start(plan: &Plan, program: &Program) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&program.log)
        .with_context(|| format!("cannot open {}", program.log.display()))?;
    command(plan, &program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.name))
}

/// A command with the environment of the node.
pub(super) fn command(plan: &Plan, arguments: &[String]) -> Command {
    // Looked up here: the child's own PATH does not count for finding it.
    let path =
        plan.environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
    let found = path
        .split(':')
        .map(|dir| Path::new(dir).join(&arguments[0]))
        .find(|program| program.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(&arguments[0])));
    command.args(&arguments[1..]).envs(plan.environment.iter().cloned());
    command
}

/// Whether nobody holds the other end of the input any more.
fn told_to_end(patience: Duration) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    let mut events = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    match poll(&mut events, PollTimeout::try_from(patience)?) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks, then waits a little; what is left ends with PID 1.
fn end(running: &mut [(Program, Child)]) {
    for (_, child) in running.iter() {
        if let Ok(pid) = i32::try_from(child.id()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    let _ends_with_pid_1 = holdfast_poll::retry(GRACE, || {
        match running.iter_mut().any(|(_, child)| matches!(child.try_wait(), Ok(None))) {
            true => Err(()),
            false => Ok(()),
        }
    });
}

/// The last lines that say something.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> =
        text.lines().rev().filter(|line| !line.trim().is_empty()).take(20).collect();
    lines.reverse();
    lines.join("\n")
}

/// Imports the archives of images as soon as containerd answers.
fn import(plan: &Plan) {
    let Some(images) = &plan.images else { return };
    let mut archives: Vec<PathBuf> = std::fs::read_dir(images)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    archives.retain(|path| path.extension().is_some_and(|ending| ending == "tar"));
    archives.sort();
    for archive in archives {
        let words =
            ["ctr", "--namespace=k8s.io", "images", "import", "--all-platforms", "--digests=false"];
        let words =
            words.iter().map(|word| (*word).to_owned()).chain([archive.display().to_string()]);
        let words: Vec<String> = words.collect();
        // containerd needs a moment to come up, and ctr does not wait for it.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let output =
                command(plan, &words).env("CONTAINERD_ADDRESS", &plan.runtime_socket).output();
            match output {
                Ok(output) if output.status.success() => break,
                Ok(output) if Instant::now() >= deadline => {
                    eprintln!(
                        "cannot import {}: {}",
                        archive.display(),
                        String::from_utf8_lossy(&output.stderr).trim()
                    );
                    break;
                }
                Ok(_) => thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    eprintln!("cannot start ctr: {error}");
                    break;
                }
            }
        }
    }
}

/// A server is ready when its API server says so; an agent, when its node is known.
fn tell_when_ready(plan: &Plan) {
    let words: &[&str] = if plan.manifests.is_some() {
        &["get", "--raw=/readyz"]
    } else {
        &["get", "node", &plan.node]
    };
    until_success(plan, words);
    let _outside_is_gone =
        std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush());
    if let Some(manifests) = &plan.manifests {
        until_success(plan, &["apply", "--filename", &manifests.own.display().to_string()]);
        manifests::follow(plan, manifests);
    }
}

pub(super) fn until_success(plan: &Plan, words: &[&str]) {
    loop {
        let output =
            routes::kubectl(plan, words).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if output.is_ok_and(|status| status.success()) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
