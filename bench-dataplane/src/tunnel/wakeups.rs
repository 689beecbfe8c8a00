//! How often a process wakes up.

use anyhow::Context;
use std::path::Path;

/// How often the threads of a process have gone to sleep by themselves until now, those that still
/// live: `voluntary_ctxt_switches` of proc_pid_status(5). Who goes to sleep was awake.
pub(crate) fn wakeups(pid: u32) -> anyhow::Result<u64> {
    of_tasks(Path::new(&format!("/proc/{pid}/task")))
}

fn of_tasks(dir: &Path) -> anyhow::Result<u64> {
    let tasks = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut sum = 0;
    for task in tasks {
        // A thread may end while this reads.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        sum += of_status(&status).context("no voluntary_ctxt_switches in a task's status")?;
    }
    Ok(sum)
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_voluntary_ones_of_all_threads_count() {
        let status = "Name:\tx\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(of_status(status), Some(5));
        assert_eq!(of_status("Name:\tx\n"), None);
        let count = || wakeups(std::process::id()).unwrap();
        let before = count();
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel::<()>();
            let sleeper = scope.spawn(move || while told.recv().is_ok() {});
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while count() < before + 3 && std::time::Instant::now() < end {
                tell.send(()).unwrap();
                std::thread::yield_now();
            }
            assert!(count() >= before + 3);
            drop(tell);
            sleeper.join().unwrap();
        });
    }
}
