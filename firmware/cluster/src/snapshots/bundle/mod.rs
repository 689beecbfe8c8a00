//! A portable snapshot: what it takes to bring a cluster up on other hardware, in one file.
//!
//! It is a `tar` compressed by gzip and encrypted by `age` to the site's recovery key, so that
//! `age -d -i KEY FILE | tar xz` opens it on any machine
//! (`docs/decisions/0015-snapshots-are-age-files.md`). Inside:
//!
//! | file | what |
//! |---|---|
//! | `holdfast-snapshot.json` | [`Manifest`]: what it is of, and the SHA-256 of every other file |
//! | `etcd.db` | the snapshot of etcd |
//! | `server/…` | token, authorities, key of the service accounts, encryption of secrets |
//! | `node/password` | what the node is known by to the servers |
//!
//! Certificates that the authorities sign are left out: the distribution makes them for the
//! hardware it finds itself on. What is opened is believed only where the manifest vouches for it;
//! that the manifest is the site's own is not proved, since anybody can encrypt to a public key.

mod carried;

pub(super) use carried::copy;
pub use carried::{Carried, Top, carried, copy_carried};

use super::error::{SnapshotError, io_error};
use super::etcd_file;
use super::files::{self, Scratch, blocking};
use super::program::{self, last_words};
use super::records::{Record, Records};
use crate::paths::ClusterPaths;
use holdfast_api::chain;
use holdfast_api::kubernetes::Secret;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Behind the name of the snapshot.
pub const ENDING: &str = ".tar.gz.age";

/// How long packing or opening may take: some gigabytes on a slow processor.
const PATIENCE: Duration = Duration::from_secs(1800);

/// No identity is longer; a pipe holds more (pipe(7)).
const IDENTITY_LIMIT: usize = 16 * 1024;

const MANIFEST: &str = "holdfast-snapshot.json";
const SNAPSHOT: &str = "etcd.db";
/// The format of [`Manifest`] that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// What a portable snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// The snapshot.
    pub snapshot: Record,
    /// SHA-256 of every other file, hex, by its name inside.
    pub files: BTreeMap<String, String>,
}

/// A portable snapshot, opened and found whole.
#[derive(Debug)]
pub struct Unpacked {
    /// What it is of.
    pub record: Record,
    /// The snapshot of etcd.
    pub snapshot: PathBuf,
    /// The rest.
    pub carried: Vec<Carried>,
}

/// Whether this is a key that can be encrypted to, by its looks (age-encryption.org/v1, Bech32).
pub fn looks_like_recipient(key: &str) -> bool {
    key.starts_with("age1")
        && key.len() > 20
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Makes a portable snapshot at `out`, mode 0600, replaced whole or not at all.
///
/// # Errors
/// [`SnapshotError::KeyInvalid`], [`SnapshotError::NoProgram`], no room, or the snapshot is gone.
pub async fn pack(
    paths: &ClusterPaths,
    record: &Record,
    recipient: &str,
    out: &Path,
) -> Result<(), SnapshotError> {
    if !looks_like_recipient(recipient) {
        return Err(SnapshotError::KeyInvalid { said: "it does not begin with age1".into() });
    }
    // Never more than the snapshot itself and what comes with it.
    files::room(&paths.state_dir(), record.bytes.saturating_add(16 << 20))?;
    let staged = blocking({
        let (paths, record) = (paths.clone(), record.clone());
        move || stage(&paths, record)
    })
    .await?;
    let partial = staged.path().join("out");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--dereference", "--owner=0", "--group=0", "--file=-"])
        .arg(format!("--directory={}", staged.path().join("in").display()))
        .args([MANIFEST, SNAPSHOT])
        .args(tops(&staged.path().join("in"))?);
    let mut age = Command::new("age");
    age.args(["--encrypt", "--recipient", recipient, "--output"]).arg(&partial);
    let (packed, encrypted) = pipe(None, tar, ("tar", "tar"), age, ("age", "age")).await?;
    if !encrypted.status.success() {
        return Err(SnapshotError::KeyInvalid { said: complaint(&encrypted.stderr) });
    }
    ended_well("packing a snapshot", packed)?;
    let out = out.to_path_buf();
    blocking(move || {
        let file = std::fs::File::open(&partial).map_err(io_error("open", &partial))?;
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .and_then(|()| file.sync_all())
            .map_err(io_error("sync", &partial))?;
        files::make_parent(&out)?;
        files::rename(&partial, &out)
    })
    .await?;
    drop(staged);
    Ok(())
}

/// The files of a portable snapshot in one folder; the snapshot itself by a link.
fn stage(paths: &ClusterPaths, record: Record) -> Result<Scratch, SnapshotError> {
    let scratch = Scratch::make(paths.state_dir().join("pack"))?;
    let inside = scratch.path().join("in");
    files::fresh_dir(&inside)?;
    let carried = carried(paths)?;
    copy_carried(&carried, &inside)?;
    let mut sums = BTreeMap::from([(SNAPSHOT.to_owned(), record.sha256.clone())]);
    for one in &carried {
        let path = inside.join(&one.name);
        sums.insert(one.name.clone(), etcd_file::sha256(&path).map_err(io_error("read", &path))?);
    }
    let snapshot = Records::new(paths).snapshot(&record.name);
    let link = inside.join(SNAPSHOT);
    std::os::unix::fs::symlink(&snapshot, &link).map_err(io_error("link to", &snapshot))?;
    let manifest = Manifest { format: FORMAT, snapshot: record, files: sums };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    holdfast_durable::write(&inside.join(MANIFEST), &text, 0o600).map_err(SnapshotError::Write)?;
    Ok(scratch)
}

fn tops(inside: &Path) -> Result<Vec<String>, SnapshotError> {
    let entries = std::fs::read_dir(inside).map_err(io_error("read", inside))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != MANIFEST && name != SNAPSHOT)
        .collect();
    names.sort();
    Ok(names)
}

/// Opens a portable snapshot into the folder `into`, which is made anew, and checks every file.
///
/// # Errors
/// [`SnapshotError::WrongKey`], [`SnapshotError::Bundle`] with what is wrong inside,
/// [`SnapshotError::NoProgram`], no room. What was unpacked is removed then.
pub async fn unpack(
    file: &Path,
    identity: &Secret,
    into: &Path,
) -> Result<Unpacked, SnapshotError> {
    let bytes = std::fs::metadata(file).map_err(io_error("read", file))?.len();
    if identity.0.trim().is_empty() || identity.0.len() > IDENTITY_LIMIT {
        return Err(SnapshotError::WrongKey { path: file.into() });
    }
    // A datastore seldom gets smaller than a quarter by compression.
    files::room(into, bytes.saturating_mul(4))?;
    files::fresh_dir(into)?;
    let result = open(file, identity, into).await;
    if result.is_err() {
        files::remove(into)?;
    }
    result
}

async fn open(file: &Path, identity: &Secret, into: &Path) -> Result<Unpacked, SnapshotError> {
    let mut age = Command::new("age");
    // The identity comes over the standard input, so that neither the disk nor `ps` ever has it.
    age.args(["--decrypt", "--identity", "-", "--"]).arg(file);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--file=-", "--no-same-owner", "--no-same-permissions"])
        .arg(format!("--directory={}", into.display()));
    let (decrypted, unpacked) =
        pipe(Some(identity), age, ("age", "age"), tar, ("tar", "tar")).await?;
    let bundle = |why: String| SnapshotError::Bundle { path: file.into(), why };
    if !decrypted.status.success() {
        let said = complaint(&decrypted.stderr);
        let is_key = said.contains("no identity matched") || said.starts_with("reading ");
        return Err(match is_key {
            true => SnapshotError::WrongKey { path: file.into() },
            false => bundle(said),
        });
    }
    if !unpacked.status.success() {
        return Err(bundle(last_words(&unpacked.stderr)));
    }
    blocking({
        let (file, into) = (file.to_path_buf(), into.to_path_buf());
        move || check(&into).map_err(|why| SnapshotError::Bundle { path: file, why })
    })
    .await
}

/// Every file is one that the manifest vouches for, and none is missing.
fn check(into: &Path) -> Result<Unpacked, String> {
    // Before anything is opened: a pipe would be waited for, and a link leads elsewhere.
    let (mut there, others) = carried::files_and_others(into).map_err(|error| chain(&error))?;
    if let Some(name) = others.first() {
        return Err(format!("{name} is no plain file"));
    }
    if !there.remove(MANIFEST) {
        return Err(format!("it has no {MANIFEST}"));
    }
    let text = carried::read(&into.join(MANIFEST)).map_err(|error| chain(&error))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
    if manifest.format > FORMAT {
        return Err(format!("its format {} is newer than {FORMAT}", manifest.format));
    }
    let vouched: BTreeSet<String> = manifest.files.keys().cloned().collect();
    if let Some(name) = there.symmetric_difference(&vouched).next() {
        return Err(match there.contains(name) {
            true => format!("{name} is in it and not in its {MANIFEST}"),
            false => format!("{name} is missing"),
        });
    }
    let mut found = Vec::new();
    for (name, sum) in &manifest.files {
        let path = into.join(name);
        let have = etcd_file::sha256(&path).map_err(|error| format!("{name}: {error}"))?;
        if have != *sum {
            return Err(format!("{name} is not what its {MANIFEST} says"));
        }
        if name != SNAPSHOT {
            found.push(
                Carried::named(name, path).ok_or_else(|| format!("{name} has no place here"))?,
            );
        }
    }
    Ok(Unpacked { record: manifest.snapshot, snapshot: into.join(SNAPSHOT), carried: found })
}

/// Two programs, the output of the first being the input of the second, to the end of both.
/// Each comes with its name and the package that has it. The first is told `told`, which must not
/// fill a pipe.
async fn pipe(
    told: Option<&Secret>,
    mut first: Command,
    of_first: (&'static str, &'static str),
    mut second: Command,
    of_second: (&'static str, &'static str),
) -> Result<(Output, Output), SnapshotError> {
    let input = if told.is_some() { Stdio::piped() } else { Stdio::null() };
    first.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut source = spawn(&mut first, of_first)?;
    if let (Some(told), Some(mut input)) = (told, source.stdin.take()) {
        // A program that does not listen says why when it ends.
        let _ends_early = input.write_all(told.0.as_bytes()).await;
    }
    let output = source.stdout.take().map(TryInto::<Stdio>::try_into);
    let input = match output {
        Some(Ok(input)) => input,
        Some(Err(error)) => {
            return Err(SnapshotError::Start { program: of_second.0.into(), source: error });
        }
        None => Stdio::null(),
    };
    second.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let sink = spawn(&mut second, of_second)?;
    // The command holds the reading end of the pipe; the first program must see it close.
    drop(second);
    let both = async {
        tokio::try_join!(source.wait_with_output(), sink.wait_with_output())
            .map_err(|error| SnapshotError::Start { program: of_first.0.into(), source: error })
    };
    match tokio::time::timeout(PATIENCE, both).await {
        Ok(outputs) => outputs,
        Err(_) => Err(SnapshotError::Late { attempt: "encrypting", patience: PATIENCE }),
    }
}

fn spawn(
    command: &mut Command,
    (program, package): (&'static str, &'static str),
) -> Result<Child, SnapshotError> {
    command.spawn().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => SnapshotError::NoProgram { program, package },
        _ => SnapshotError::Start { program: program.into(), source },
    })
}

fn ended_well(attempt: &'static str, output: Output) -> Result<(), SnapshotError> {
    if output.status.success() { Ok(()) } else { Err(program::failed(attempt, &output)) }
}

/// What age says, without its advice where to report.
fn complaint(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().find_map(|line| line.strip_prefix("age: error: "));
    line.map_or_else(|| last_words(said), str::to_owned)
}

#[cfg(test)]
mod tests;
