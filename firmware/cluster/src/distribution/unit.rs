//! The distribution as a unit of systemd, where that is PID 1.
//!
//! It is our own unit, `holdfast-k3s.service` below `/run`: the administrator's `k3s.service`
//! stays what it is, and after a reboot the manager decides anew. systemd starts and holds it;
//! it does not restart it (`Restart=no`), for the pause and the reason of a failure are ours, and
//! systemd restarts us. With `KillMode=process` containers outlive k3s, as with k3s' own unit.

use super::launch::{Launch, LaunchError, Places, Record};
use super::process::{Ending, Process};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// Its name.
const UNIT: &str = "holdfast-k3s.service";

/// systemd answers at once, or something is very wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts and finds it.
#[derive(Debug)]
pub struct UnitLauncher {
    places: Places,
    systemctl: PathBuf,
    folder: PathBuf,
}

impl UnitLauncher {
    /// With its files in these places.
    pub fn new(places: Places) -> Self {
        UnitLauncher { places, systemctl: "systemctl".into(), folder: "/run/systemd/system".into() }
    }

    /// With another systemd.
    #[cfg(test)]
    pub(super) fn of(places: Places, systemctl: PathBuf, folder: PathBuf) -> Self {
        UnitLauncher { places, systemctl, folder }
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) async fn start(&self, launch: &Launch) -> Result<Process, LaunchError> {
        if !launch.program.is_file() {
            return Err(LaunchError::Absent(launch.program.clone()));
        }
        drop(self.places.fresh_log()?);
        let log = self.places.log().display().to_string();
        let text = unit(launch, &log, &self.places.data().display().to_string());
        holdfast_durable::write_if_changed(&self.folder.join(UNIT), text.as_bytes(), 0o644)?;
        let logs = self.places.log_lengths();
        let mut record = Record { aspects: launch.aspects.clone(), process: None, logs };
        self.places.keep(&record)?;
        self.systemctl(&["daemon-reload"]).await?;
        // Fails when it never failed.
        let _clean = self.systemctl(&["reset-failed", UNIT]).await;
        self.systemctl(&["start", UNIT]).await?;
        let process = self.process().await?.ok_or(LaunchError::Gone)?;
        record.process = Some(process.identity().clone());
        self.places.keep(&record)?;
        Ok(process)
    }

    pub(super) async fn find(&self) -> Result<Option<(Process, Record)>, LaunchError> {
        Ok(self.process().await?.map(|process| (process, self.places.record())))
    }

    pub(super) async fn ending(&self) -> Ending {
        let words = ["show", "--property=ExecMainCode", "--property=ExecMainStatus", UNIT];
        self.systemctl(&words).await.map_or(Ending::Unknown, |text| ending(&text))
    }

    async fn process(&self) -> Result<Option<Process>, LaunchError> {
        let text = self.systemctl(&["show", "--property=MainPID", "--value", UNIT]).await?;
        match text.trim().parse() {
            Ok(0) | Err(_) => Ok(None),
            Ok(pid) => Process::open(pid).map_err(LaunchError::io("watch", &self.folder)),
        }
    }

    async fn systemctl(&self, words: &[&str]) -> Result<String, LaunchError> {
        let failed = |said: String| LaunchError::Systemd { words: words.join(" "), said };
        let output = Command::new(&self.systemctl).args(words).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .map_err(|_| failed(format!("no answer within {PATIENCE:?}")))?
            .map_err(LaunchError::io("start", &self.systemctl))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The file (systemd.service(5), systemd.exec(5), systemd.kill(5)); limits as in k3s' own unit.
fn unit(launch: &Launch, log: &str, data: &str) -> String {
    let mut start = quoted(&launch.program.display().to_string(), true);
    for argument in &launch.arguments {
        start.push(' ');
        start.push_str(&quoted(argument, true));
    }
    let mut environment = String::new();
    for (name, value) in &launch.environment {
        let pair = quoted(&format!("{name}={value}"), false);
        let _infallible = writeln!(environment, "Environment={pair}");
    }
    let (log, data) = (log.replace('%', "%%"), data.replace('%', "%%"));
    format!(
        "# Written by holdfastd, which replaces changes.\n\
         [Unit]\nDescription=Kubernetes (k3s), watched by holdfastd\nAfter=network-online.target\n\
         RequiresMountsFor={data}\n\n\
         [Service]\nType=exec\nExecStart={start}\n{environment}Restart=no\nKillMode=process\n\
         Delegate=yes\nTimeoutStartSec=infinity\nLimitNOFILE=1048576\nLimitNPROC=infinity\n\
         LimitCORE=infinity\nTasksMax=infinity\nStandardOutput=append:{log}\n\
         StandardError=append:{log}\n"
    )
}

/// In quotes, with what systemd would expand doubled (systemd.syntax(7), "Quoting"; `$` is
/// expanded in commands only).
fn quoted(text: &str, command: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{}\"", if command { text.replace('$', "$$") } else { text })
}

/// Out of `ExecMainCode=1` (CLD_EXITED of waitid(2); 2 and 3 are signals) and `ExecMainStatus=7`.
fn ending(text: &str) -> Ending {
    let value = |name: &str| -> Option<i32> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
    };
    match (value("ExecMainCode"), value("ExecMainStatus")) {
        (Some(1), Some(status)) => Ending::Status(status),
        (Some(2 | 3), Some(signal)) => Ending::Signal(signal),
        _ => Ending::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::plan::Aspect;
    use crate::paths::ClusterPaths;
    use holdfast_api::paths::Root;

    #[test]
    fn the_unit_takes_every_argument_as_it_is() {
        let launch = Launch {
            program: "/var/lib/k 3s".into(),
            arguments: vec!["server".into(), "--x=$HOME%h\"\\".into()],
            environment: vec![("A".into(), "b c$".into())],
            aspects: Default::default(),
        };
        let text = unit(&launch, "/var/log/100%", "/var/lib/rancher/k3s");
        let has = |line: &str| assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        has(r#"ExecStart="/var/lib/k 3s" "server" "--x=$$HOME%%h\"\\""#);
        has(r#"Environment="A=b c$""#);
        has("StandardOutput=append:/var/log/100%%");
        // On its own disk it would begin an empty datastore while that disk is away.
        has("RequiresMountsFor=/var/lib/rancher/k3s");
        has("Restart=no");
        has("KillMode=process");
    }

    #[test]
    fn endings_are_those_of_waitid() {
        assert_eq!(ending("ExecMainCode=1\nExecMainStatus=7\n"), Ending::Status(7));
        assert_eq!(ending("ExecMainStatus=9\nExecMainCode=2\n"), Ending::Signal(9));
        assert_eq!(ending("ExecMainCode=0\nExecMainStatus=0\n"), Ending::Unknown);
    }

    /// A systemctl that starts the unit's command and remembers it in files.
    const SYSTEMCTL: &str = r#"#!/bin/sh
D=$(dirname "$0")
echo "$*" >> "$D/asked"
case "$1" in
reset-failed) exit 1;;
start) sh -c "exec $(sed -n 's/^ExecStart=//p' "$D/holdfast-k3s.service")" > /dev/null 2>&1 & echo $! > "$D/pid";;
show) case "$2" in --property=MainPID) cat "$D/pid" 2>/dev/null || echo 0;; *) echo ExecMainCode=2; echo ExecMainStatus=15;; esac;;
esac
"#;

    #[tokio::test]
    async fn it_is_started_found_and_asked_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("systemctl");
        holdfast_durable::write(&path, SYSTEMCTL.as_bytes(), 0o755).unwrap();
        let places = Places::new(&ClusterPaths::new(&Root::new(folder.path())));
        let launcher = UnitLauncher::of(places, path, folder.path().to_path_buf());
        assert!(launcher.find().await.unwrap().is_none());
        let launch = Launch {
            program: "/bin/sleep".into(),
            arguments: vec!["60".into()],
            environment: Vec::new(),
            aspects: [(Aspect::Arguments, "60".to_owned())].into(),
        };
        let process = launcher.start(&launch).await.unwrap();
        let (found, record) = launcher.find().await.unwrap().unwrap();
        assert_eq!(found.identity(), process.identity());
        assert_eq!(record.aspects, launch.aspects);
        process.ask_to_end().unwrap();
        process.ended().await.unwrap();
        assert!(launcher.find().await.unwrap().is_none());
        assert_eq!(launcher.ending().await, Ending::Signal(15));
        let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
        assert!(asked.contains(
            "daemon-reload\nreset-failed holdfast-k3s.service\nstart holdfast-k3s.service\n"
        ));
    }
}
