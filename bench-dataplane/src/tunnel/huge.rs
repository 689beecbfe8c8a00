//! What a process has of huge pages.

use anyhow::Context;

/// KiB of huge pages of any size that a process has touched: `HugetlbPages` of proc_pid_status(5).
pub(crate) fn kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    of_status(&status).with_context(|| format!("no HugetlbPages in {path}"))
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_those_of_the_status() {
        let status = "VmSwap:\t       0 kB\nHugetlbPages:\t    4096 kB\nThreads:\t1\n";
        assert_eq!(of_status(status), Some(4096));
        assert_eq!(of_status("VmSwap:\t       0 kB\n"), None);
        assert_eq!(kib(std::process::id()).unwrap(), 0, "this test takes none");
    }
}
