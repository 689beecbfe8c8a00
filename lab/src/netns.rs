//! The namespaces of worlds: named as ip-netns(8) does it, so that people look around with
//! `ip netns exec`. Making and entering is `netd`'s; ip(8) sets hosts up, where a line of text
//! says best what is meant.

use netd::netns::{NetNs, NetNsError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DIRECTORY: &str = "/run/netns";

/// ip(8) did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum IpError {
    /// It could not be run.
    #[error("cannot run `ip {arguments}`; is iproute2 installed?")]
    Run {
        /// Its arguments.
        arguments: String,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// It refused.
    #[error("`ip {arguments}` failed: {answer}")]
    Refused {
        /// Its arguments.
        arguments: String,
        /// What it wrote to stderr.
        answer: String,
    },
}

/// The file that stands for the namespace.
pub fn path(netns: &str) -> PathBuf {
    Path::new(DIRECTORY).join(netns)
}

/// Whether there is a namespace of this name.
pub fn exists(netns: &str) -> bool {
    path(netns).exists()
}

/// The names of all namespaces that begin with `prefix`, sorted.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    found.sort();
    found
}

/// Runs `work` on a fresh thread inside the namespace of this name.
///
/// # Errors
/// There is no such namespace, or it may not be entered.
///
/// # Panics
/// When `work` does.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    NetNs::open(netns)?.enter(work)
}

/// Runs ip(8) with these arguments and gives what it wrote.
///
/// # Errors
/// [`IpError::Run`] when it cannot be started, [`IpError::Refused`] with its message when it fails.
pub fn ip(arguments: &[&str]) -> Result<String, IpError> {
    ip_fed(arguments, "")
}

/// Runs lines of `ip -batch` in a namespace, stopping at the first that fails.
///
/// # Errors
/// As [`ip`].
pub fn ip_batch(netns: &str, lines: &[String]) -> Result<(), IpError> {
    let mut input = lines.join("\n");
    input.push('\n');
    ip_fed(&["-n", netns, "-batch", "-"], &input).map(|_| ())
}

fn ip_fed(arguments: &[&str], input: &str) -> Result<String, IpError> {
    let run = || {
        let mut child = Command::new("ip")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Ended early it says why on stderr; that is the better error.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    };
    let arguments = || arguments.join(" ");
    let output = run().map_err(|source| IpError::Run { arguments: arguments(), source })?;
    if !output.status.success() {
        let answer = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(IpError::Refused { arguments: arguments(), answer });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
