//! apt-get, as patient as it has to be.

use super::find;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long to wait for another program's lock on the package database.
const LOCK_SECS: u32 = 300;

/// Why a package could not be installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AptError {
    /// Only root installs packages.
    #[error(
        "packages can only be installed by root; run the command as root, or install it by hand"
    )]
    NoRights,
    /// This is no Debian.
    #[error("this machine has no apt-get; install it with the means of your distribution")]
    NoApt,
    /// The mirrors cannot be reached.
    #[error("the package mirrors cannot be reached: {0}")]
    Offline(String),
    /// The mirrors do not have it.
    #[error("the package sources of this machine do not have it: {0}")]
    Unknown(String),
    /// Another program holds the lock.
    #[error(
        "another program works on the packages for more than {LOCK_SECS} s; try again when it is done"
    )]
    Locked,
    /// The package was installed and does not have the program.
    #[error("the package does not have {0} on this machine")]
    Elsewhere(&'static str),
    /// Something else.
    #[error("apt-get failed: {0}")]
    Failed(String),
}

/// Installs packages, without what they only recommend. The lists are fetched anew only when a
/// package is not found in those that are there.
///
/// # Errors
/// [`AptError`] says what keeps it from being installed.
pub fn install(packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<(), AptError> {
    if find("apt-get").is_none() {
        return Err(AptError::NoApt);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(AptError::NoRights);
    }
    let install: Vec<&str> = ["install", "-y", "-q", "--no-install-recommends"]
        .iter()
        .chain(packages)
        .copied()
        .collect();
    match apt_get(&install) {
        // Fresh machines have no lists; old lists name versions that the mirrors dropped.
        Err(AptError::Unknown(_) | AptError::Offline(_)) => {
            say("fetching the package lists");
            apt_get(&["update", "-q"])?;
            apt_get(&install)
        }
        result => result,
    }
}

fn apt_get(arguments: &[&str]) -> Result<(), AptError> {
    // apt-get waits for dpkg's lock, but not for that of the package lists.
    let deadline = Instant::now() + Duration::from_secs(LOCK_SECS.into());
    loop {
        match apt_get_once(arguments) {
            Err(AptError::Locked) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_secs(1))
            }
            result => return result,
        }
    }
}

fn apt_get_once(arguments: &[&str]) -> Result<(), AptError> {
    let output = Command::new("apt-get")
        .args(["-o", &format!("DPkg::Lock::Timeout={LOCK_SECS}")])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The answers are read below.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| AptError::Failed(error.to_string()))?;
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    judge(output.status.success(), &said)
}

/// What apt-get's answer means (its messages in the C locale).
fn judge(success: bool, said: &str) -> Result<(), AptError> {
    let line = |words: &[&str]| {
        said.lines()
            .find(|line| words.iter().any(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
    };
    // `update` succeeds without having fetched anything.
    let offline = line(&[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Failed to fetch",
        "Some index files failed",
    ]);
    match (success, offline) {
        (_, Some(why)) => Err(AptError::Offline(why)),
        (true, None) => Ok(()),
        (false, None) => Err(None
            .or_else(|| {
                line(&["Unable to locate package", "has no installation candidate"])
                    .map(AptError::Unknown)
            })
            .or_else(|| line(&["Could not get lock"]).map(|_| AptError::Locked))
            .or_else(|| line(&["E: "]).map(AptError::Failed))
            .unwrap_or_else(|| AptError::Failed("it gave no reason".into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(judge(true, "Setting up iproute2 ..."), Ok(()));
        let unknown = "Reading package lists...\nE: Unable to locate package nonsense\n";
        assert_eq!(
            judge(false, unknown),
            Err(AptError::Unknown("E: Unable to locate package nonsense".into()))
        );
        let update = "W: Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'\n";
        assert!(matches!(judge(true, update), Err(AptError::Offline(_))));
        let lock =
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)\n";
        assert_eq!(judge(false, lock), Err(AptError::Locked));
        assert_eq!(judge(false, "E: Broken\n"), Err(AptError::Failed("E: Broken".into())));
    }
}
