//! Processes of a world: who they are, whether they live, how they are ended.
//!
//! A pid alone is not an identity, the kernel gives it again. Together with the start time of
//! the process (field 22 of `/proc/<pid>/stat`, proc_pid_stat(5)) it is one until the next boot.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// What one line of `/proc/<pid>/stat` says, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    id: ProcessId,
    state: char,
    flags: u64,
}

/// It is on its way out (`PF_EXITING`, kernel: include/linux/sched.h): it runs no instruction of its
/// program any more, and holds what it held until the kernel has torn it down.
const EXITING: u64 = 0x4;

impl ProcessId {
    /// Reads the identity from a line of `/proc/<pid>/stat`.
    pub fn parse(stat: &str) -> Option<ProcessId> {
        parse(stat).map(|stat| stat.id)
    }

    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<ProcessId> {
        observe(pid).map(|stat| stat.id)
    }

    /// Whether this very process still runs. One that has exited and waits for its parent does not.
    pub fn alive(self) -> bool {
        observe(self.pid).is_some_and(|stat| stat.id == self && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether it is stopped by a signal.
    pub fn stopped(self) -> bool {
        observe(self.pid).is_some_and(|stat| stat.id == self && stat.state == 'T')
    }

    /// Whether it does not come back, whatever it still holds: gone, or being torn down.
    pub fn ended(self) -> bool {
        !self.alive() || observe(self.pid).is_none_or(|stat| stat.flags & EXITING != 0)
    }

    /// Waits until it is gone with all that it held; says whether it is.
    pub fn wait(self, patience: Duration) -> bool {
        until(patience, || !self.alive())
    }

    /// Waits until a signal has stopped it; says whether one has.
    pub fn wait_stopped(self, patience: Duration) -> bool {
        until(patience, || self.stopped())
    }

    /// Sends a signal, when this very process still runs.
    ///
    /// # Errors
    /// The kernel refuses the signal, for lack of rights.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Waits until something holds; says whether it does.
fn until(patience: Duration, holds: impl Fn() -> bool) -> bool {
    holdfast_poll::retry(patience, || if holds() { Ok(()) } else { Err(()) }).is_ok()
}

/// Ends processes: SIGTERM to all (SIGCONT to those that are stopped), SIGKILL to those that still
/// run after `grace`, and waits until every one is gone. Gives those that outlived even that.
pub fn end(processes: &[ProcessId], grace: Duration) -> Vec<ProcessId> {
    /// The kernel needs a moment to tear a killed process down.
    const AFTER_KILL: Duration = Duration::from_secs(30);
    for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, AFTER_KILL)] {
        for process in processes {
            if let Err(error) = process.signal(signal) {
                tracing::warn!(pid = process.pid, %error, "cannot end a process");
            }
            if process.stopped() {
                // Else it would not hear of the other signal before the grace is over.
                let _ = process.signal(Signal::SIGCONT);
            }
        }
        until(patience, || !processes.iter().any(|process| process.alive()));
    }
    processes.iter().copied().filter(|process| process.alive()).collect()
}

/// Every process whose network namespace is the file `netns` (a name in `/run/netns`), this one
/// left out.
pub fn inside(netns: &Path) -> Vec<ProcessId> {
    use std::os::unix::fs::MetadataExt;
    let Ok(wanted) = std::fs::metadata(netns) else { return Vec::new() };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let here = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            here.is_ok_and(|here| (here.dev(), here.ino()) == (wanted.dev(), wanted.ino()))
        })
        .filter_map(ProcessId::of)
        .collect()
}

fn observe(pid: i32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Stat> {
    let (pid, rest) = stat.split_once(' ')?;
    // The command name stands in brackets and may itself contain brackets and spaces.
    let fields: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
    let id = ProcessId { pid: pid.parse().ok()?, start_ticks: fields.get(19)?.parse().ok()? };
    let flags = fields.get(6)?.parse().ok()?;
    Some(Stat { id, state: fields.first()?.chars().next()?, flags })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = "42 (a) R (b) S 1 42 42 0 -1 4194304 1 0 0 0 7 8 0 0 20 0 1 0 31337 1 2 3";
        let stat = parse(line).unwrap();
        let id = ProcessId { pid: 42, start_ticks: 31337 };
        assert_eq!(stat, Stat { id, state: 'S', flags: 4194304 });
        assert_eq!(parse("42 (cut off"), None);
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let real = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        let former = ProcessId { start_ticks: real.start_ticks - 1, ..real };
        assert!(real.alive() && !former.alive());
        assert_eq!(end(&[former], Duration::ZERO), []);
        assert!(real.alive(), "the wrong process was ended");
        assert_eq!(end(&[real], Duration::from_secs(5)), []);
        assert!(!real.alive() && real.ended(), "a zombie counts as gone");
        child.wait().unwrap();
    }
}
