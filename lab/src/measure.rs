//! What a process costs: memory as its proportional set size, and time of the processor.
//!
//! PSS counts shared pages by their share (`/proc/<pid>/smaps_rollup`), so that the sum over
//! processes is what they really take. Reading it needs the rights over the process.

use procfs::Current;
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Why a process could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} of process {pid}")]
pub struct MeasureError {
    /// The process.
    pub pid: i32,
    /// What was read.
    pub what: &'static str,
    /// Why not.
    #[source]
    pub source: procfs::ProcError,
}

/// What a process takes at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Proportional set size in bytes.
    pub pss_bytes: u64,
    /// Resident set size in bytes, shared pages counted in full.
    pub rss_bytes: u64,
    /// Processor time since its start, user and system, in milliseconds (steps of a clock tick, mostly 10 ms).
    pub cpu_ms: u64,
    /// Time since its start in milliseconds.
    pub age_ms: u64,
    /// Its threads.
    pub threads: i64,
}

impl Usage {
    /// Average share of one core over the process's life, 0.0 and up.
    pub fn cpu_share(&self) -> f64 {
        if self.age_ms == 0 { 0.0 } else { self.cpu_ms as f64 / self.age_ms as f64 }
    }
}

/// Measures a process now.
///
/// # Errors
/// The process is gone, or its memory may not be looked at.
pub fn usage(pid: i32) -> Result<Usage, MeasureError> {
    let fail = |what| move |source| MeasureError { pid, what, source };
    let process = Process::new(pid).map_err(fail("identity"))?;
    let stat = process.stat().map_err(fail("times"))?;
    let rollup = process.smaps_rollup().map_err(fail("memory"))?;
    let sum = |key: &str| -> u64 {
        let areas = rollup.memory_map_rollup.iter();
        areas.filter_map(|area| area.extension.map.get(key)).sum()
    };
    let ticks = procfs::ticks_per_second();
    let uptime = procfs::Uptime::current().map_err(fail("uptime"))?.uptime;
    let started = stat.starttime as f64 / ticks as f64;
    Ok(Usage {
        pss_bytes: sum("Pss"),
        rss_bytes: sum("Rss"),
        cpu_ms: (stat.utime + stat.stime) * 1000 / ticks,
        age_ms: u64::try_from(Duration::from_secs_f64((uptime - started).max(0.0)).as_millis())
            .unwrap_or(u64::MAX),
        threads: stat.num_threads,
    })
}

/// Share of one core that processes take between two moments.
#[derive(Debug, Clone)]
pub struct CpuMeter {
    pids: Vec<i32>,
    since: Instant,
    ticks: u64,
}

impl CpuMeter {
    /// Starts to measure these processes together.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn start(pids: &[i32]) -> Result<Self, MeasureError> {
        Ok(CpuMeter { pids: pids.into(), since: Instant::now(), ticks: total_ticks(pids)? })
    }

    /// The share of one core taken since the start, 0.0 and up, and the time that passed. The
    /// kernel counts in clock ticks of mostly 10 ms: measure for a minute to see 0.02 %.
    ///
    /// # Errors
    /// One of the processes is gone.
    pub fn read(&self) -> Result<(f64, Duration), MeasureError> {
        let passed = self.since.elapsed();
        let taken = total_ticks(&self.pids)?.saturating_sub(self.ticks);
        let seconds = taken as f64 / procfs::ticks_per_second() as f64;
        Ok((seconds / passed.as_secs_f64().max(f64::MIN_POSITIVE), passed))
    }
}

fn total_ticks(pids: &[i32]) -> Result<u64, MeasureError> {
    pids.iter().try_fold(0, |sum, pid| {
        let stat = Process::new(*pid).and_then(|process| process.stat());
        let stat = stat.map_err(|source| MeasureError { pid: *pid, what: "times", source })?;
        Ok(sum + stat.utime + stat.stime)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let own = i32::try_from(std::process::id()).unwrap();
        let usage = usage(own).unwrap();
        assert!(usage.pss_bytes > 0 && usage.pss_bytes <= usage.rss_bytes, "{usage:?}");
        assert!(usage.threads >= 1);
    }

    #[test]
    fn a_busy_thread_shows() {
        let own = i32::try_from(std::process::id()).unwrap();
        let meter = CpuMeter::start(&[own]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (share, passed) = meter.read().unwrap();
            if share > 0.0 && passed > Duration::ZERO {
                break;
            }
            assert!(Instant::now() < deadline, "20 s of work were not counted");
        }
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(usage(pid).unwrap_err().pid, pid);
    }
}
