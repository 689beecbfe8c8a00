//! `k3s etcd-snapshot save|ls|prune|delete`, and restoring (docs.k3s.io, "etcd-snapshot").
//!
//! Snapshots are etcd's own, in `server/db/snapshots` of the data directory. As with k3s, there
//! are none without `cluster-init`. Left out: S3, compression and the schedule.

use crate::cache::Built;
use crate::config::Settings;
use crate::pki::Pki;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

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

fn etcdctl(settings: &Settings, built: &Built) -> Command {
    let pki = Pki::below(&settings.data);
    let mut command = Command::new(built.usr().join("bin/etcdctl"));
    command
        .envs(built.environment())
        .env("ETCDCTL_API", "3")
        .arg("--endpoints=https://127.0.0.1:2379")
        .arg(format!("--cacert={}", pki.path("etcd/server-ca.crt").display()))
        .arg(format!("--cert={}", pki.path("etcd/client.crt").display()))
        .arg(format!("--key={}", pki.path("etcd/client.key").display()));
    command
}

fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot start etcdctl to {what}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("cannot {what}: {}", said.lines().last().unwrap_or("etcdctl gave no reason"))
}

/// Takes one and returns it. Older ones beyond the retention go.
///
/// # Errors
/// The datastore does not answer, or the disk is full; no file is left then.
pub fn save(settings: &Settings, built: &Built) -> anyhow::Result<Snapshot> {
    if !settings.cluster_init {
        bail!("etcd datastore disabled: snapshots need cluster-init");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let prefix = settings.text("etcd-snapshot-name", "on-demand");
    let name = format!("{prefix}-{}-{now}", settings.node_name);
    let path = folder(settings).join(&name);
    std::fs::create_dir_all(folder(settings)).context("cannot make the folder of snapshots")?;
    let mut command = etcdctl(settings, built);
    // It writes to NAME.part, syncs and renames.
    command.args(["snapshot", "save"]).arg(&path);
    run(command, "take a snapshot")?;
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

/// Makes the datastore anew out of a snapshot; the old one is kept beside it, as k3s does.
/// The server must not be running.
///
/// # Errors
/// The snapshot is damaged or not there; the old datastore then stands.
pub fn restore(settings: &Settings, built: &Built, snapshot: &Path) -> anyhow::Result<()> {
    let database = settings.data.join("server/db/etcd");
    let fresh = settings.data.join("server/db/etcd.restoring");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).context("cannot remove an unfinished restore")?;
    }
    std::fs::create_dir_all(settings.data.join("server/db"))
        .context("cannot make the folder of the datastore")?;
    let mut command = etcdctl(settings, built);
    command
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg(format!("--data-dir={}", fresh.display()))
        .arg(format!("--name={}", settings.node_name))
        .arg(format!("--initial-cluster={}=https://127.0.0.1:2380", settings.node_name))
        .arg("--initial-advertise-peer-urls=https://127.0.0.1:2380");
    run(command, "restore the snapshot")?;
    if database.exists() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let old = settings.data.join(format!("server/db/etcd-old-{now}"));
        std::fs::rename(&database, &old).context("cannot put the old datastore aside")?;
    }
    std::fs::rename(&fresh, &database).context("cannot put the new datastore in place")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Options, Role};
    use crate::places::Places;

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
