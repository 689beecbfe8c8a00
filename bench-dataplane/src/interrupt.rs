//! A bench that is asked to end takes its namespaces and what runs in them with it.

use crate::tunnel::leftovers;
use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// On SIGINT and SIGTERM everything that this process has made is removed, and it ends with the
/// exit code of shells, 128 and the signal's number. A signal that is ignored, as SIGINT by what a
/// shell starts in the background, stays so. To be called before there is any other thread, since
/// those take over which signals are blocked; the programs that are started do not
/// (`std::process::Command`).
///
/// # Errors
/// No thread.
pub fn clean_up_on_signals() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        if !is_ignored(&status, signal) {
            signals.add(signal);
        }
    }
    signals.thread_block()?;
    let wait = move || {
        // Only a set that no signal is in cannot be waited for.
        let Ok(signal) = signals.wait() else { return };
        eprintln!("{signal}: removes what it has made");
        leftovers::remove_own();
        std::process::exit(128 + signal as i32);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("a thread")?;
    Ok(())
}

/// By the mask in `/proc/PID/status` (proc_pid_status(5): SigIgn).
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as i32 - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_in_the_mask() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001002\n";
        assert!(is_ignored(status, Signal::SIGINT) && is_ignored(status, Signal::SIGPIPE));
        assert!(!is_ignored(status, Signal::SIGTERM) && !is_ignored("", Signal::SIGINT));
    }
}
