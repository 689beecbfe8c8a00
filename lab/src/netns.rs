//! Named network namespaces: make, find, enter, remove.
//!
//! A name is a bind mount in `/run/netns`, as ip-netns(8) makes it, so that people look around
//! with `ip netns exec`. The laboratory enters a namespace on a fresh thread only, never on one
//! that goes on to other work.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where ip-netns(8) keeps the names.
pub const DIR: &str = "/run/netns";

/// Why a namespace cannot be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no namespace of this name, or no right to enter it.
    #[error("cannot {attempt} network namespace {netns}")]
    Enter {
        /// What was tried.
        attempt: &'static str,
        /// The namespace.
        netns: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// `ip` could not be run.
    #[error("cannot run `ip {arguments}`")]
    Run {
        /// Its arguments.
        arguments: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// `ip` refused.
    #[error("`ip {arguments}` failed: {answer}")]
    Ip {
        /// Its arguments.
        arguments: String,
        /// What it wrote to stderr.
        answer: String,
    },
}

/// The file that stands for the namespace.
pub fn path(netns: &str) -> PathBuf {
    Path::new(DIR).join(netns)
}

/// Whether there is a namespace of this name.
pub fn exists(netns: &str) -> bool {
    path(netns).exists()
}

/// The names of all namespaces that begin with `prefix`, sorted.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    found.sort();
    found
}

/// Runs `work` on a fresh thread inside the namespace.
///
/// # Errors
/// [`NetnsError::Enter`] when the namespace is not there or may not be entered.
///
/// # Panics
/// When `work` panics.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(netns).map(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into the namespace, for good.
///
/// # Errors
/// [`NetnsError::Enter`] when the namespace is not there or may not be entered.
pub(crate) fn enter(netns: &str) -> Result<(), NetnsError> {
    let fail = |attempt| move |source| NetnsError::Enter { attempt, netns: netns.into(), source };
    let file = File::open(path(netns)).map_err(fail("open"))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .map_err(fail("enter"))
}

/// Runs ip(8) and gives what it wrote to stdout.
///
/// # Errors
/// [`NetnsError::Run`] when it cannot be started, [`NetnsError::Ip`] with its message when it fails.
pub fn ip(arguments: &[&str]) -> Result<String, NetnsError> {
    let joined = || arguments.join(" ");
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| NetnsError::Run { arguments: joined(), source })?;
    if !output.status.success() {
        let answer = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetnsError::Ip { arguments: joined(), answer });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
