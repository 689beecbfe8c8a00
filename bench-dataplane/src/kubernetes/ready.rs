//! The distribution's process: found, ended, started by hand, and seen to become ready.
//!
//! Times run from the start of the process as the kernel counts it (proc_pid_stat(5), field 22),
//! so that what its starter does before and after does not count.

use super::{Cluster, NODE, PATIENCE};
use anyhow::{Context, ensure};
use holdfast_cluster::distribution::{ApiProbe, Probe};
use jiff::{SignedDuration, Timestamp};
use lab::process::{self, ProcessId};
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// The service of a distribution that was started by hand.
const BY_HAND: &str = "node-1.by-hand";
/// Between two looks; a look is two questions to the API server.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For the end of all its parts.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// With what it was started.
#[derive(Debug, Clone)]
pub(crate) struct CommandLine {
    pub(crate) program: std::path::PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl CommandLine {
    /// Of a process that runs.
    pub(crate) fn of(process: ProcessId) -> anyhow::Result<Self> {
        let read = |what: &str| -> anyhow::Result<Vec<String>> {
            let path = format!("/proc/{}/{what}", process.pid);
            let text = std::fs::read(&path).with_context(|| path.clone())?;
            let words = text.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
        };
        let program = std::fs::read_link(format!("/proc/{}/exe", process.pid))?;
        let environment = read("environ")?;
        let pair = |line: &String| {
            line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        Ok(CommandLine {
            program,
            arguments: read("cmdline")?.into_iter().skip(1).collect(),
            environment: environment.iter().filter_map(pair).collect(),
        })
    }
}

impl Cluster {
    /// The process that the manager started, when it runs.
    pub(crate) fn distribution(&self) -> Option<ProcessId> {
        let record = self.paths.state_dir().join("distribution/process.json");
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        let identity = &record["process"];
        let process = ProcessId {
            pid: i32::try_from(identity["pid"].as_i64()?).ok()?,
            start_ticks: identity["startTicks"].as_u64()?,
        };
        process.alive().then_some(process)
    }

    /// Waits for a process that the manager starts.
    pub(crate) fn wait_started(&self) -> anyhow::Result<ProcessId> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(process) = self.distribution() {
                return Ok(process);
            }
            ensure!(Instant::now() < deadline, "the manager does not start Kubernetes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the manager, and leaves everything as it is.
    pub(crate) fn end_manager(&self) -> anyhow::Result<()> {
        end(self.manager()?)
    }

    /// Starts the same by hand, on the same host.
    pub(crate) fn start_by_hand(&mut self, line: &CommandLine) -> anyhow::Result<ProcessId> {
        let arguments: Vec<&str> = line.arguments.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> =
            line.environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let world = &mut self.bench.world;
        Ok(world.start(BY_HAND, Some(NODE), &line.program, &arguments, &environment)?)
    }

    /// Waits until the API server says that it is ready, and the condition of the node `name`, told
    /// by the kubelet of this process. The time from the start of the process.
    pub(crate) fn until_ready(&self, name: &str, process: ProcessId) -> anyhow::Result<Duration> {
        let since = Timestamp::now() - SignedDuration::try_from(age(process)?)?;
        let probe = ApiProbe::new(&self.paths);
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                loop {
                    let Err(why) = probe.ready(name, Some(since)).await else {
                        return age(process);
                    };
                    ensure!(process.alive(), "Kubernetes ended: {why}");
                    ensure!(age(process)? < PATIENCE, "Kubernetes is not ready: {why}");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            })
        })
    }
}

/// Asks it to end, and waits until it has.
pub(crate) fn end(process: ProcessId) -> anyhow::Result<()> {
    let left = process::end(&[process], ENDS_WITHIN);
    ensure!(left.is_empty(), "process {} does not end", process.pid);
    Ok(())
}

/// How long it runs.
fn age(process: ProcessId) -> anyhow::Result<Duration> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("clock ticks")?;
    let ticks = u64::try_from(ticks)?;
    Ok(now.saturating_sub(Duration::from_millis(process.start_ticks * 1000 / ticks)))
}
