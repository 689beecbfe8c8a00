//! `k3s etcd-snapshot save|ls|prune|delete`, and restoring (docs.k3s.io, "etcd-snapshot").
//!
//! Snapshots are etcd's own, in `server/db/snapshots` of the data directory. As with k3s, there
//! are none without `cluster-init`. Left out: S3, compression and the schedule.

use crate::cache::Built;
use crate::config::Settings;
use crate::places::Places;
use crate::server::members::{self, Etcdctl};
use crate::server::{prepare, put_aside};
use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its file's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub created: u64,
}

fn folder(settings: &Settings) -> PathBuf {
    match settings.text("etcd-snapshot-dir", "") {
        "" => settings.data.join("server/db/snapshots"),
        dir => dir.into(),
    }
}

/// Takes one and returns it. Older ones beyond the retention go.
///
/// # Errors
/// The datastore does not answer, or the disk is full; no file is left then.
pub fn save(settings: &Settings, built: &Built) -> anyhow::Result<Snapshot> {
    if !settings.has_etcd {
        bail!("etcd datastore disabled: snapshots need cluster-init");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let prefix = settings.text("etcd-snapshot-name", "on-demand");
    let name = format!("{prefix}-{}-{now}", settings.node_name);
    let path = folder(settings).join(&name);
    std::fs::create_dir_all(folder(settings)).context("cannot make the folder of snapshots")?;
    // It writes to NAME.part, syncs and renames.
    Etcdctl::own(settings, built)
        .run(&["snapshot", "save", &path.display().to_string()])
        .context("cannot take a snapshot")?;
    prune(settings)?;
    list(settings)?.into_iter().find(|one| one.name == name).context("the snapshot is gone already")
}

/// Those that are there, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn list(settings: &Settings) -> anyhow::Result<Vec<Snapshot>> {
    let folder = folder(settings);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (data, name) = (entry.metadata()?, entry.file_name().to_string_lossy().into_owned());
        if !data.is_file() || name.ends_with(".part") {
            continue;
        }
        let created = data.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        found.push(Snapshot { path: entry.path(), name, size: data.len(), created });
    }
    found.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    Ok(found)
}

/// Removes the oldest beyond `etcd-snapshot-retention` (5), of this node's name and prefix.
///
/// # Errors
/// A file cannot be removed.
pub fn prune(settings: &Settings) -> anyhow::Result<Vec<Snapshot>> {
    let keep: usize = settings
        .text("etcd-snapshot-retention", "5")
        .parse()
        .context("etcd-snapshot-retention takes a number")?;
    let prefix =
        format!("{}-{}-", settings.text("etcd-snapshot-name", "on-demand"), settings.node_name);
    let mut ours = list(settings)?;
    ours.retain(|snapshot| snapshot.name.starts_with(&prefix));
    let surplus: Vec<Snapshot> = ours.drain(..ours.len().saturating_sub(keep)).collect();
    for snapshot in &surplus {
        remove(&snapshot.path)?;
    }
    Ok(surplus)
}

/// Removes those with these names.
///
/// # Errors
/// One is not there.
pub fn delete(settings: &Settings, names: &[String]) -> anyhow::Result<()> {
    let there = list(settings)?;
    for name in names {
        let snapshot = there
            .iter()
            .find(|one| one.name == *name)
            .with_context(|| format!("no snapshot {name}"))?;
        remove(&snapshot.path)?;
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Makes the datastore one of this server alone: out of `settings.restore` when it names a
/// snapshot, the old datastore being kept beside it; else out of what is there. As with k3s it is
/// refused a second time until the server has been started normally ([`forget_reset`]). The
/// server must not be running.
///
/// # Errors
/// The snapshot is damaged or not there; the old datastore then stands.
pub fn reset(settings: &Settings, places: &Places, built: &Built) -> anyhow::Result<()> {
    let flag = settings.data.join(RESET);
    if flag.exists() {
        bail!(
            "the cluster was reset already: start the server without cluster-reset, or remove {} to reset it again",
            flag.display()
        );
    }
    match &settings.restore {
        Some(snapshot) => restore(settings, built, snapshot)?,
        None => alone(settings, places, built)?,
    }
    holdfast_durable::write(&flag, b"", 0o600)?;
    Ok(())
}

/// Below the data directory: the datastore was reset and not started since.
const RESET: &str = "server/db/reset-flag";

/// At a normal start.
///
/// # Errors
/// The mark cannot be removed.
pub fn forget_reset(settings: &Settings) -> anyhow::Result<()> {
    match std::fs::remove_file(settings.data.join(RESET)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the mark of a reset")
        }
        _ => Ok(()),
    }
}

fn restore(settings: &Settings, built: &Built, snapshot: &Path) -> anyhow::Result<()> {
    let database = settings.data.join("server/db/etcd");
    let fresh = settings.data.join("server/db/etcd.restoring");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).context("cannot remove an unfinished restore")?;
    }
    std::fs::create_dir_all(settings.data.join("server/db"))
        .context("cannot make the folder of the datastore")?;
    let peer = members::url(prepare::address(settings)?, members::PEERS);
    Etcdctl::own(settings, built)
        .run(&[
            "snapshot",
            "restore",
            &snapshot.display().to_string(),
            &format!("--data-dir={}", fresh.display()),
            &format!("--name={}", settings.node_name),
            &format!("--initial-cluster={}={peer}", settings.node_name),
            &format!("--initial-advertise-peer-urls={peer}"),
        ])
        .context("cannot restore the snapshot")?;
    if database.exists() {
        put_aside(&database).context("cannot put the old datastore aside")?;
    }
    std::fs::rename(&fresh, &database).context("cannot put the new datastore in place")
}

/// Runs etcd until it answers, with the others forgotten.
fn alone(settings: &Settings, places: &Places, built: &Built) -> anyhow::Result<()> {
    if !settings.data.join("server/db/etcd/member").exists() {
        bail!("there is no datastore below {}", settings.data.display());
    }
    let program = prepare::datastore_alone(settings, places, built)?;
    let log = std::fs::File::options().create(true).append(true).open(&program.log)?;
    let mut etcd = Command::new(built.usr().join("bin/etcd"))
        .args(&program.arguments[1..])
        .arg("--force-new-cluster")
        .envs(built.environment())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start etcd")?;
    let deadline = Instant::now() + PATIENCE;
    let answered = loop {
        if Etcdctl::own(settings, built).run(&["endpoint", "health"]).is_ok() {
            break Ok(());
        }
        if let Some(status) = etcd.try_wait()? {
            bail!("etcd ended ({status}); its log is {}", program.log.display());
        }
        if Instant::now() >= deadline {
            break Err(anyhow!("etcd does not answer within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    kill(Pid::from_raw(i32::try_from(etcd.id())?), Signal::SIGTERM)?;
    etcd.wait().context("cannot wait for etcd")?;
    answered
}

/// For a datastore to come up.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Options, Role};

    #[test]
    fn the_oldest_go_first_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new();
        options.insert("data-dir", vec![dir.path().display().to_string()]);
        options.insert("node-name", vec!["n".into()]);
        options.insert("etcd-snapshot-retention", vec!["2".into()]);
        let settings = Settings::of(Role::Server, options, &Places::default(), "h").unwrap();
        let names =
            ["on-demand-n-1", "on-demand-n-2", "on-demand-n-3", "manual-n-0", "on-demand-n-4.part"];
        for (age, name) in names.iter().enumerate() {
            let path = folder(&settings).join(name);
            holdfast_durable::write(&path, b"x", 0o600).unwrap();
            let when = UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
        }
        let gone: Vec<String> = prune(&settings).unwrap().into_iter().map(|one| one.name).collect();
        assert_eq!(gone, ["on-demand-n-1"]);
        assert_eq!(list(&settings).unwrap().len(), 3);
        assert!(delete(&settings, &["nothing".into()]).is_err());
    }
}
