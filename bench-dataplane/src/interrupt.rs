//! A bench that is asked to end takes its namespaces and what runs in them with it.

use crate::leftovers;
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::signal::unix::{SignalKind, signal};

static ENDING: AtomicBool = AtomicBool::new(false);

/// On SIGINT and SIGTERM everything that this process has made is removed, and it ends with the
/// exit code of shells, 128 and the signal's number. A signal that is ignored, as SIGINT by what a
/// shell starts in the background, stays so. Signals are handled and not blocked, for what is
/// started takes over which are blocked.
///
/// # Errors
/// No thread, or the kernel refuses a handler.
pub fn clean_up_on_signals() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut heard = Vec::new();
    for one in [Signal::SIGINT, Signal::SIGTERM] {
        if !is_ignored(&status, one) {
            let _inside = runtime.enter();
            heard.push((one, signal(SignalKind::from_raw(one as i32))?));
        }
    }
    let wait = move || {
        let one = runtime.block_on(poll_fn(|context| {
            for (one, signals) in &mut heard {
                if signals.poll_recv(context).is_ready() {
                    return Poll::Ready(*one);
                }
            }
            Poll::Pending
        }));
        ENDING.store(true, Ordering::SeqCst);
        eprintln!("{one}: removes what it has made");
        leftovers::remove_own();
        std::process::exit(128 + one as i32);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("a thread")?;
    Ok(())
}

/// Nothing more is made once it was asked to end.
pub(crate) fn goes_on() -> anyhow::Result<()> {
    ensure!(!ENDING.load(Ordering::SeqCst), "asked to end");
    Ok(())
}

/// For whoever has done its work, or failed as what it had made was taken away: where the process
/// was asked to end, that is done first, and this does not return.
pub fn wait_for_clean_up() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
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
