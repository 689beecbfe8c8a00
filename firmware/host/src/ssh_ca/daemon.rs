//! sshd as this domain needs it: does it accept a configuration, and reload it.
//!
//! [`OpenSsh`] runs the real programs. A fake stands beside it where there is none.

use crate::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What sshd or its helpers did not do.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A program could not be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The configuration or list is not accepted.
    #[error("{said}")]
    Rejected {
        /// What the program said, in one line.
        said: String,
    },
    /// sshd was told to reload and did not.
    #[error("{said}")]
    Reload {
        /// What was said, in one line.
        said: String,
    },
}

/// sshd and what belongs to it.
pub trait Sshd {
    /// Whether there is one.
    fn installed(&self) -> bool;
    /// Checks the configuration at `config` (`sshd -t`), and tells what would be in force
    /// (`sshd -T`), by keyword in lower case.
    ///
    /// # Errors
    /// [`DaemonError::Run`], [`DaemonError::Rejected`].
    fn check(&self, config: &Path) -> Result<BTreeMap<String, String>, DaemonError>;
    /// Checks that a binary revocation list can be read, by asking it about a key.
    ///
    /// # Errors
    /// [`DaemonError::Run`], [`DaemonError::Rejected`].
    fn check_krl(&self, list: &Path, key: &Path) -> Result<(), DaemonError>;
    /// Makes the running sshd read its configuration; [`Outcome::Unchanged`] when none runs.
    ///
    /// # Errors
    /// [`DaemonError::Run`], [`DaemonError::Reload`].
    fn reload(&mut self) -> Result<Outcome, DaemonError>;
}

/// How the running sshd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// By systemd, whose unit is `ssh` (Debian) or `sshd` (others).
    Systemd,
    /// By SIGHUP to the process in this file (sshd(8)).
    PidFile(PathBuf),
}

/// The OpenSSH programs of this machine.
#[derive(Debug, Clone)]
pub struct OpenSsh {
    /// sshd(8).
    pub sshd: PathBuf,
    /// ssh-keygen(1).
    pub keygen: PathBuf,
    /// How to reload.
    pub reload: Reload,
}

impl OpenSsh {
    /// The programs below `root`, and systemd where it is PID 1 (sd_booted(3)).
    pub fn find(root: &holdfast_api::paths::Root) -> Self {
        let first = |places: [&str; 3]| {
            let found = places.iter().map(|place| root.join(place)).find(|path| path.is_file());
            found.unwrap_or_else(|| root.join(places[0]))
        };
        let reload = match root.join("run/systemd/system").is_dir() {
            true => Reload::Systemd,
            false => Reload::PidFile(root.join("run/sshd.pid")),
        };
        OpenSsh {
            sshd: first(["usr/sbin/sshd", "usr/bin/sshd", "usr/local/sbin/sshd"]),
            keygen: first(["usr/bin/ssh-keygen", "bin/ssh-keygen", "usr/local/bin/ssh-keygen"]),
            reload,
        }
    }

    fn test(&self, flag: &str, config: &Path) -> Result<Output, DaemonError> {
        let ask = || run(&self.sshd, [flag.as_ref(), "-f".as_ref(), config.as_os_str()]);
        let output = ask()?;
        // Its unit makes this directory when it starts (RuntimeDirectory=), which may be later.
        let said = said(&output);
        match said.strip_prefix("Missing privilege separation directory: ") {
            Some(dir) if !output.status.success() => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
                made.map_err(|source| DaemonError::Run { program: self.sshd.clone(), source })?;
                ask()
            }
            _ => Ok(output),
        }
    }
}

impl Sshd for OpenSsh {
    fn installed(&self) -> bool {
        self.sshd.is_file()
    }

    fn check(&self, config: &Path) -> Result<BTreeMap<String, String>, DaemonError> {
        for flag in ["-t", "-T"] {
            let output = self.test(flag, config)?;
            if !output.status.success() {
                return Err(DaemonError::Rejected { said: said(&output) });
            }
            if flag == "-T" {
                let text = String::from_utf8_lossy(&output.stdout);
                let pairs = text.lines().filter_map(|line| line.split_once(' '));
                return Ok(pairs
                    .map(|(key, value)| (key.to_string(), value.to_string()))
                    .collect());
            }
        }
        Ok(BTreeMap::new())
    }

    fn check_krl(&self, list: &Path, key: &Path) -> Result<(), DaemonError> {
        let output =
            run(&self.keygen, ["-Q".as_ref(), "-f".as_ref(), list.as_os_str(), key.as_os_str()])?;
        match output.status.code() {
            // 1: the list was read, and the key is on it.
            Some(0 | 1) => Ok(()),
            _ => Err(DaemonError::Rejected { said: said(&output) }),
        }
    }

    fn reload(&mut self) -> Result<Outcome, DaemonError> {
        match &self.reload {
            Reload::Systemd => reload_unit(),
            Reload::PidFile(file) => hang_up(file),
        }
    }
}

fn reload_unit() -> Result<Outcome, DaemonError> {
    let systemctl = Path::new("systemctl");
    for unit in ["ssh.service", "sshd.service"] {
        if run(systemctl, ["is-active", "--quiet", unit].map(AsRef::as_ref))?.status.success() {
            let output = run(systemctl, ["reload", unit].map(AsRef::as_ref))?;
            return match output.status.success() {
                true => Ok(Outcome::Changed),
                false => Err(DaemonError::Reload { said: said(&output) }),
            };
        }
    }
    // Not running: whoever starts it makes it read what is there.
    Ok(Outcome::Unchanged)
}

fn hang_up(file: &Path) -> Result<Outcome, DaemonError> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Unchanged),
        Err(error) => {
            return Err(DaemonError::Reload {
                said: format!("cannot read {}: {error}", file.display()),
            });
        }
        Ok(text) => text,
    };
    let pid: i32 = match text.trim().parse() {
        Ok(pid) if pid > 1 => pid,
        _ => {
            return Err(DaemonError::Reload {
                said: format!("{} names no process", file.display()),
            });
        }
    };
    // A stale file may name a process that has nothing to do with sshd.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if !name.trim().starts_with("sshd") {
        return Ok(Outcome::Unchanged);
    }
    kill(Pid::from_raw(pid), Signal::SIGHUP).map(|()| Outcome::Changed).map_err(|errno| {
        DaemonError::Reload { said: format!("cannot signal process {pid}: {errno}") }
    })
}

fn run<'a>(
    program: &Path,
    args: impl IntoIterator<Item = &'a std::ffi::OsStr>,
) -> Result<Output, DaemonError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    command.output().map_err(|source| DaemonError::Run { program: program.to_path_buf(), source })
}

/// What a program said on standard error, in one line of at most 500 characters.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    match line.is_empty() {
        true => output.status.to_string(),
        false => line.chars().take(500).collect(),
    }
}
