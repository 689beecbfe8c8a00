//! One process that we did not necessarily start: held by a pidfd (pidfd_open(2)), so that a
//! signal never reaches another process that was given the same number, and its end is an event.
//!
//! A process is the one of a record when its number, the tick of its start and the machine's boot
//! agree (proc_pid_stat(5)); the pidfd is opened before they are compared.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What tells a process from every other one, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a status.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Somebody else's child: nobody told us.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Status(status) => write!(f, "it ended with status {status}"),
            Ending::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            Ending::Unknown => f.write_str("it ended"),
        }
    }
}

/// A process that runs, or ran.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process with this number; none when there is none, or when it only waits to be buried.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no pidfd (before Linux 5.3), or no file descriptors are left.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        Process::hold(pid, start_of)
    }

    /// Our own child, which may have ended already. Its number is its own until it is buried.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn of_child(pid: u32) -> io::Result<Option<Self>> {
        Process::hold(pid, |stat| Some(state_and_start(stat)?.1))
    }

    fn hold(pid: u32, start: fn(&str) -> Option<u64>) -> io::Result<Option<Self>> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            result => result?,
        };
        let Some(identity) = identify(pid, start)? else { return Ok(None) };
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for a promise that an OwnedFd keeps by its type"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Some(Process { identity, pidfd }))
    }

    /// The very process of a record, if it still runs.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn recognise(identity: &Identity) -> io::Result<Option<Self>> {
        Ok(Process::open(identity.pid)?.filter(|process| process.identity == *identity))
    }

    /// Which one it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// How it ended; buries it when it was our child.
    pub fn ending(&self) -> Ending {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let Ok(pid) = i32::try_from(self.identity.pid) else { return Ending::Unknown };
        match waitpid(nix::unistd::Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Ending::Status(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ending::Signal(signal as i32),
            _ => Ending::Unknown,
        }
    }

    /// Asks it to end (SIGTERM). One that has ended is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn ask_to_end(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it (SIGKILL). One that has ended is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Reads who a process is; none when it is gone.
fn identify(pid: u32, start: fn(&str) -> Option<u64>) -> io::Result<Option<Identity>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // ESRCH: it ended between open and read.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            return Ok(None);
        }
        result => result?,
    };
    let Some(start_ticks) = start(&stat) else { return Ok(None) };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(Some(Identity { pid, start_ticks, boot }))
}

/// The tick of the start out of `/proc/PID/stat`; none for one that is dead.
fn start_of(stat: &str) -> Option<u64> {
    let (state, start) = state_and_start(stat)?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start)
}

/// The name in parentheses may hold anything, parentheses too.
fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 22 of the line; the state is field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_start_is_read_whatever_the_name() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n")
        };
        assert_eq!(start_of(&line("k3s", "S")), Some(4711));
        assert_eq!(start_of(&line("a) S 1 (b", "R")), Some(4711));
        assert_eq!(start_of(&line("k3s", "Z")), None);
        assert_eq!(start_of("nonsense"), None);
    }

    #[tokio::test]
    async fn an_end_is_seen_and_the_number_alone_is_not_enough() {
        let mut sleeper =
            Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep is there");
        let process = Process::open(sleeper.id()).unwrap().unwrap();
        let mut other = process.identity().clone();
        other.start_ticks += 1;
        assert!(Process::recognise(&other).unwrap().is_none());
        other = Identity { boot: "another".into(), ..process.identity().clone() };
        assert!(Process::recognise(&other).unwrap().is_none());
        assert!(Process::recognise(process.identity()).unwrap().is_some());

        process.ask_to_end().unwrap();
        process.ended().await.unwrap();
        assert!(Process::open(sleeper.id()).unwrap().is_none(), "dead, though not buried");
        let child = Process::of_child(sleeper.id()).unwrap().unwrap();
        assert_eq!(child.identity(), process.identity());
        assert_eq!(process.ending(), Ending::Signal(15));
        process.kill().unwrap();
        let _buried = sleeper.wait();
    }
}
