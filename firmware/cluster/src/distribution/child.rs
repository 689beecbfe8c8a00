//! The distribution as a process of its own session, where no systemd is.
//!
//! It outlives us, `kill -9` too: it shares neither session nor terminal nor group with us, and
//! writes to a file. Its standard input is an empty file of ours, which nothing else has open;
//! by that it is found when we died between its start and the record of its number. k3s gives
//! its own children another input.

use super::launch::{Launch, LaunchError, Places, Record};
use super::process::Process;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tracing::warn;

/// Of our own supervisor; k3s must not speak to it in our name (sd_notify(3), sd_listen_fds(3)).
const NOT_FOR_IT: &[&str] = &[
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Starts and finds it.
#[derive(Debug)]
pub struct ChildLauncher {
    places: Places,
}

impl ChildLauncher {
    /// With its files in these places.
    pub fn new(places: Places) -> Self {
        ChildLauncher { places }
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    fn input(&self) -> PathBuf {
        self.places.folder().join("input")
    }

    pub(super) fn start(&self, launch: &Launch) -> Result<Process, LaunchError> {
        if !launch.program.is_file() {
            return Err(LaunchError::Absent(launch.program.clone()));
        }
        let log = self.places.fresh_log()?;
        let input = self.input();
        holdfast_durable::write_if_changed(&input, b"", 0o600)?;
        let stdin = File::open(&input).map_err(LaunchError::io("open", &input))?;
        let logs = self.places.log_lengths();
        let mut record = Record { aspects: launch.aspects.clone(), process: None, logs };
        self.places.keep(&record)?;
        let mut command = detached(&launch.program);
        command.args(&launch.arguments).envs(launch.environment.iter().cloned());
        for name in NOT_FOR_IT {
            command.env_remove(name);
        }
        let errors = log.try_clone().map_err(LaunchError::io("open", &self.places.log()))?;
        let child = command
            .current_dir("/")
            .stdin(stdin)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(LaunchError::io("start", &launch.program))?;
        let opened =
            Process::of_child(child.id()).map_err(LaunchError::io("watch", &launch.program));
        let process = opened?.ok_or(LaunchError::Gone)?;
        record.process = Some(process.identity().clone());
        if let Err(error) = self.places.keep(&record) {
            // It runs, and is found by its input.
            warn!(error = %error, "the record of Kubernetes' process is not kept");
        }
        Ok(process)
    }

    pub(super) fn find(&self) -> Result<Option<(Process, Record)>, LaunchError> {
        let record = self.places.record();
        let proc = Path::new("/proc");
        if let Some(identity) = &record.process {
            let known = Process::recognise(identity).map_err(LaunchError::io("watch", proc))?;
            if let Some(process) = known {
                return Ok(Some((process, record)));
            }
        }
        let found = self.by_input().map_err(LaunchError::io("search", proc))?;
        Ok(found.map(|process| (process, record)))
    }

    /// The oldest process that has our file as its standard input.
    fn by_input(&self) -> std::io::Result<Option<Process>> {
        let Ok(input) = std::fs::metadata(self.input()) else { return Ok(None) };
        let mut oldest: Option<Process> = None;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(pid) = number else { continue };
            let same = std::fs::metadata(entry.path().join("fd/0"))
                .is_ok_and(|it| (it.dev(), it.ino()) == (input.dev(), input.ino()));
            if !same {
                continue;
            }
            let Some(process) = Process::open(pid)? else { continue };
            let start = process.identity().start_ticks;
            if oldest.as_ref().is_none_or(|other| start < other.identity().start_ticks) {
                oldest = Some(process);
            }
        }
        Ok(oldest)
    }
}

/// A command for a process with a session of its own. setsid(1) of util-linux makes one and
/// becomes the program; without it, a group of its own must do.
fn detached(program: &Path) -> Command {
    let setsid = ["/usr/bin/setsid", "/bin/setsid"].map(Path::new);
    match setsid.into_iter().find(|path| path.is_file()) {
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg(program);
            command
        }
        None => {
            let mut command = Command::new(program);
            command.process_group(0);
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::plan::Aspect;
    use crate::distribution::process::Ending;
    use crate::paths::ClusterPaths;
    use holdfast_api::paths::Root;

    struct Bed {
        folder: tempfile::TempDir,
        launcher: ChildLauncher,
    }

    fn bed() -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(folder.path()));
        Bed { launcher: ChildLauncher::new(Places::new(&paths)), folder }
    }

    impl Bed {
        fn launch(&self, script: &str) -> Launch {
            Launch {
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), script.into()],
                environment: vec![("GIVEN".into(), "yes".into())],
                aspects: [(Aspect::HugePages, "2M=1".to_owned())].into(),
            }
        }

        fn start(&self, script: &str) -> Started {
            Started(self.launcher.start(&self.launch(script)).unwrap())
        }
    }

    /// Ends with the test.
    struct Started(Process);

    impl Drop for Started {
        fn drop(&mut self) {
            let _gone = self.0.kill();
        }
    }

    #[tokio::test]
    async fn it_is_found_again_by_its_record_and_without_one_by_its_input() {
        let bed = bed();
        assert!(bed.launcher.find().unwrap().is_none());
        let started = bed.start("exec sleep 60");
        let (found, record) = bed.launcher.find().unwrap().unwrap();
        assert_eq!(found.identity(), started.0.identity());
        assert_eq!(record.aspects[&Aspect::HugePages], "2M=1");

        // As if we had died right after the start.
        let early = Record { process: None, ..record.clone() };
        bed.launcher.places.keep(&early).unwrap();
        let (found, again) = bed.launcher.find().unwrap().unwrap();
        assert_eq!(found.pid(), started.0.pid());
        assert_eq!(again.aspects, record.aspects);

        started.0.kill().unwrap();
        started.0.ended().await.unwrap();
        assert!(bed.launcher.find().unwrap().is_none());
        assert_eq!(started.0.ending(), Ending::Signal(9));
    }

    #[tokio::test]
    async fn it_has_a_session_and_a_log_of_its_own_and_not_our_supervisor() {
        let bed = bed();
        let script =
            "echo one; cut -d' ' -f6 /proc/self/stat; echo $$; echo [$NOTIFY_SOCKET$GIVEN]; exit 3";
        let started = bed.start(script);
        started.0.ended().await.unwrap();
        assert_eq!(started.0.ending(), Ending::Status(3));
        let log = std::fs::read_to_string(bed.launcher.places.log()).unwrap();
        let pid = started.0.pid().to_string();
        assert_eq!(log.lines().collect::<Vec<_>>(), ["one", &pid, &pid, "[yes]"]);

        let again = bed.start("echo two");
        again.0.ended().await.unwrap();
        again.0.ending();
        assert_eq!(std::fs::read_to_string(bed.launcher.places.log()).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(bed.launcher.places.old_log()).unwrap(), log);
    }

    #[tokio::test]
    async fn a_long_log_is_cut_under_its_writer() {
        let bed = bed();
        let go = bed.folder.path().join("go");
        let script = "head -c 17000000 /dev/zero; until [ -e GO ]; do sleep 0.02; done; echo end";
        let started = bed.start(&script.replace("GO", &go.display().to_string()));
        let log = bed.launcher.places.log();
        let patience = std::time::Duration::from_secs(20);
        holdfast_poll::until_async("the log is long", patience, async || {
            match log.metadata().unwrap().len() {
                17_000_000.. => Ok(()),
                length => Err(length),
            }
        })
        .await;
        bed.launcher.places.bound_log().unwrap();
        assert_eq!(log.metadata().unwrap().len(), 0);
        assert_eq!(bed.launcher.places.old_log().metadata().unwrap().len(), 17_000_000);
        File::create(&go).unwrap();
        started.0.ended().await.unwrap();
        started.0.ending();
        let end = std::fs::read_to_string(&log).unwrap();
        assert!(end.ends_with("end\n") && !end.contains('\0'), "{}", end.len());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_before_anything_is_written() {
        let bed = bed();
        let mut launch = bed.launch("true");
        launch.program = bed.folder.path().join("k3s");
        let error = bed.launcher.start(&launch).unwrap_err();
        assert!(matches!(error, LaunchError::Absent(_)));
        assert_eq!(error.reason(), holdfast_api::Reason::KubernetesAbsent);
        assert!(!bed.launcher.places.folder().exists());
    }
}
