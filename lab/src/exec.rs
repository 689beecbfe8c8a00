//! Running programs on a world's host.
//!
//! A host is a network namespace and a view of the machine that belongs to it (a mount namespace
//! for each program; what it shows is in `view.rs`). A thread enters both, starts the program and
//! ends; the caller's thread stays where it was.
//!
//! Left out: pid and user namespaces. A host's processes are ordinary processes of this machine.

use crate::process::ProcessId;
use crate::{netns, view};
use netd::netns::NetNsError;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// Why a program could not be run on a host.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The host's namespace cannot be entered.
    #[error("cannot enter host {netns}")]
    Enter {
        /// The namespace.
        netns: String,
        /// Why.
        #[source]
        source: NetNsError,
    },
    /// The private view of the machine cannot be made.
    #[error("cannot {attempt} for a program on {netns}")]
    Mount {
        /// What was tried.
        attempt: &'static str,
        /// The namespace.
        netns: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The log file cannot be opened.
    #[error("cannot open the log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {program} on {netns}")]
    Start {
        /// The program.
        program: String,
        /// The namespace.
        netns: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// What a shell exits with when a program cannot be started (POSIX, Shell Command Language,
    /// 2.8.2): 127 when it is not there, 126 when it cannot be run. None for other errors.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            ExecError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some(127)
            }
            ExecError::Start { .. } => Some(126),
            ExecError::Enter { .. } | ExecError::Mount { .. } | ExecError::Log { .. } => None,
        }
    }
}

/// A program that stays: it gets its own session, so that it outlives the one who started it,
/// and tells its identity to a file before its first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// The program, found on `PATH` or by its path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables beside the inherited ones.
    pub env: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// The line of `/proc/<pid>/stat` is written here; the directory must be there already.
    /// When the file cannot be written, the program is not started.
    pub record: PathBuf,
    /// Scheduling priority as in nice(1), -20 to 19; 0 is ordinary.
    pub nice: i8,
}

/// Runs `work` on a fresh thread that is in the host's network and mount namespace.
///
/// # Errors
/// [`ExecError::Enter`] or [`ExecError::Mount`] when the namespaces cannot be set up.
///
/// # Panics
/// When `work` panics.
pub fn on_host<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> Result<T, ExecError> {
    netns::inside(netns, || view::enter(netns).map(|()| work()))
        .map_err(|source| ExecError::Enter { netns: netns.into(), source })?
}

/// Starts `command` on the host, with whatever standard streams it was given.
///
/// # Errors
/// [`ExecError`] when the host cannot be entered or the program cannot be started.
pub fn spawn(netns: &str, command: &mut Command) -> Result<Child, ExecError> {
    let program = command.get_program().to_string_lossy().into_owned();
    on_host(netns, || command.spawn())?.map_err(|source| ExecError::Start {
        program,
        netns: netns.into(),
        source,
    })
}

/// Runs `command` on the host to its end, collecting what it writes.
///
/// # Errors
/// As [`spawn`]. A program that fails is no error; look at the status.
pub fn output(netns: &str, command: &mut Command) -> Result<Output, ExecError> {
    let program = command.get_program().to_string_lossy().into_owned();
    on_host(netns, || command.stdin(Stdio::null()).output())?.map_err(|source| ExecError::Start {
        program,
        netns: netns.into(),
        source,
    })
}

/// Where programs look for userspace WireGuard devices (wg(8)); this path is compiled into them.
const WIREGUARD_SOCKETS: &str = "/run/wireguard";

/// Runs `command` on the host to its end with the caller's terminal. It sees the sockets of the
/// WireGuard devices below `root` where wg(8) looks for them.
///
/// # Errors
/// As [`spawn`].
pub fn status(netns: &str, root: &Path, command: &mut Command) -> Result<ExitStatus, ExecError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let sockets = root.join(WIREGUARD_SOCKETS.trim_start_matches('/'));
    let made = sockets.is_dir() && std::fs::create_dir(WIREGUARD_SOCKETS).is_ok();
    let status = on_host(netns, || {
        if sockets.is_dir() {
            view::show(&sockets, Path::new(WIREGUARD_SOCKETS)).map_err(|errno| {
                ExecError::Mount {
                    attempt: "show the node's WireGuard sockets",
                    netns: netns.into(),
                    source: errno.into(),
                }
            })?;
        }
        Ok(command.status())
    })?;
    if made {
        // Somebody else may use it by now.
        let _ = std::fs::remove_dir(WIREGUARD_SOCKETS);
    }
    status?.map_err(|source| ExecError::Start { program, netns: netns.into(), source })
}

/// Records the identity of the shell, which stays that of the program it becomes: so there is
/// no moment at which the program runs and nobody knows of it.
const RECORD_AND_BECOME: &str =
    r#"IFS= read -r stat </proc/$$/stat && printf '%s\n' "$stat" >"$0" && exec "$@""#;

/// Starts a program that stays, on the host, or on the machine itself when `netns` is none.
///
/// # Errors
/// [`ExecError`] when the host cannot be entered, the log cannot be opened or the program cannot be started.
pub fn start(netns: Option<&str>, daemon: &Daemon) -> Result<Child, ExecError> {
    let log = |source| ExecError::Log { path: daemon.log.clone(), source };
    let out = OpenOptions::new().create(true).append(true).open(&daemon.log).map_err(log)?;
    let err = out.try_clone().map_err(log)?;
    // setsid(1) becomes its program without a fork, since it is no leader of a process group;
    // so the number of the child is that of the program.
    let mut command = Command::new("setsid");
    if daemon.nice != 0 {
        command.args(["nice", "-n", &daemon.nice.to_string()]);
    }
    command
        .args(["sh", "-c", RECORD_AND_BECOME])
        .arg(&daemon.record)
        .arg(&daemon.program)
        .args(&daemon.args)
        .envs(daemon.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    match netns {
        Some(netns) => spawn(netns, &mut command),
        None => command.spawn().map_err(|source| ExecError::Start {
            program: daemon.program.display().to_string(),
            netns: "this machine".into(),
            source,
        }),
    }
}

/// The identity that a daemon wrote to its record; none before it has.
pub fn recorded(record: &Path) -> Option<ProcessId> {
    ProcessId::parse(&std::fs::read_to_string(record).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn daemon(dir: &Path, script: &str) -> Daemon {
        Daemon {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("LAB_TEST".into(), "seen".into())],
            log: dir.join("log"),
            record: dir.join("record"),
            nice: 0,
        }
    }

    #[test]
    fn a_daemon_is_known_by_its_record_and_writes_to_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(None, &daemon(dir.path(), "echo $LAB_TEST; exec sleep 600")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read(dir.path().join("log")).unwrap() != b"seen\n" {
            assert!(Instant::now() < deadline, "nothing in the log");
            std::thread::yield_now();
        }
        let known = recorded(&dir.path().join("record")).unwrap();
        assert_eq!(known.pid, i32::try_from(child.id()).unwrap());
        assert_eq!(crate::process::end(&[known], Duration::from_secs(5)), []);
        child.wait().unwrap();
    }

    #[test]
    fn without_a_record_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let trace = dir.path().join("trace");
        let mut daemon = daemon(dir.path(), &format!("touch {}", trace.display()));
        daemon.record = dir.path().join("no-such-directory/record");
        let mut child = start(None, &daemon).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!trace.exists(), "the program ran unrecorded");
    }
}
