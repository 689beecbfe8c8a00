//! Which files of a server other hardware needs beside the snapshot.
//!
//! k3s keeps in its datastore, encrypted by the token, what it needs to be the same cluster
//! (k3s `pkg/daemons/config/types.go`, `ControlRuntimeBootstrap`: authorities, key of the service
//! accounts, `passwd`, the IPsec secret, the encryption of secrets). So the token is what cannot
//! be done without (k3s documentation, "Backup and Restore"); the files are carried as well, since
//! a token that was changed after the snapshot does not open it any more.

use super::super::error::{SnapshotError, io_error};
use super::super::files;
use crate::paths::ClusterPaths;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No secret of a server is longer.
const LIMIT: u64 = 1 << 20;

/// A file beside the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Its name inside a portable snapshot, such as `server/tls/server-ca.crt`.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
}

/// What is replaced as a whole when a file is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Its place on a server.
    pub place: PathBuf,
    /// Its name inside a portable snapshot.
    pub staged: String,
}

impl Carried {
    /// One of this name; none when such a file has no place on a server.
    pub fn named(name: &str, path: PathBuf) -> Option<Carried> {
        belongs(name).then(|| Carried { name: name.into(), path })
    }

    /// The file or folder that holds it on a server: `tls` and `cred` go whole.
    pub fn top(&self, paths: &ClusterPaths) -> Top {
        let staged = match self.name.split('/').collect::<Vec<_>>().as_slice() {
            ["server", folder @ ("tls" | "cred"), ..] => format!("server/{folder}"),
            _ => self.name.clone(),
        };
        Top { place: place(paths, &staged), staged }
    }
}

fn place(paths: &ClusterPaths, name: &str) -> PathBuf {
    match name {
        "node/password" => paths.root().join("etc/rancher/node/password"),
        name => paths.data_dir().join(name),
    }
}

/// Whether a file of this name is carried.
fn belongs(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return false;
    }
    let file = parts.last().copied().unwrap_or_default();
    match parts.as_slice() {
        ["server", "token" | "agent-token"] | ["node", "password"] => true,
        // Authorities, their chains, and the key of the service accounts: what is not made anew.
        ["server", "tls", ..] => file.contains("-ca.") || file.starts_with("service."),
        ["server", "cred", ..] => !file.ends_with(".kubeconfig"),
        _ => false,
    }
}

/// What there is on this server.
///
/// # Errors
/// A folder cannot be read.
pub fn carried(paths: &ClusterPaths) -> Result<Vec<Carried>, SnapshotError> {
    let mut names: BTreeSet<String> = ["server/token", "server/agent-token", "node/password"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    for folder in ["server/tls", "server/cred"] {
        let (inside, _) = files_and_others(&paths.data_dir().join(folder))?;
        names.extend(inside.into_iter().map(|name| format!("{folder}/{name}")));
    }
    let there = names.into_iter().filter_map(|name| {
        let path = place(paths, &name);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|data| data.is_file());
        is_file.then(|| Carried::named(&name, path)).flatten()
    });
    Ok(there.collect())
}

/// Copies them below `into`, each by its name, mode 0600.
///
/// # Errors
/// One cannot be read or written, or is longer than any secret.
pub fn copy_carried(carried: &[Carried], into: &Path) -> Result<(), SnapshotError> {
    carried.iter().try_for_each(|one| copy(&one.path, &into.join(&one.name)))
}

/// Reads a small file.
pub(super) fn read(from: &Path) -> Result<Zeroizing<Vec<u8>>, SnapshotError> {
    let file = fs::File::open(from).map_err(io_error("read", from))?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(LIMIT + 1).read_to_end(&mut content).map_err(io_error("read", from))?;
    if content.len() as u64 > LIMIT {
        let long = io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB");
        return Err(io_error("read", from)(long));
    }
    Ok(content)
}

/// Copies a small secret file.
pub(in super::super) fn copy(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let content = read(from)?;
    files::make_parent(to)?;
    holdfast_durable::write(to, &content, 0o600).map_err(SnapshotError::Write)
}

/// Names of all plain files below a folder, and of what is neither that nor a folder, links not
/// followed; none when it is not there.
///
/// # Errors
/// A folder cannot be read.
pub(super) fn files_and_others(
    dir: &Path,
) -> Result<(BTreeSet<String>, BTreeSet<String>), SnapshotError> {
    type Found = (BTreeSet<String>, BTreeSet<String>);
    fn walk(dir: &Path, prefix: &str, found: &mut Found) -> Result<(), SnapshotError> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io_error("read", dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error("read", dir))?;
            let kind = entry.file_type().map_err(io_error("read", &entry.path()))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if kind.is_dir() {
                walk(&entry.path(), &format!("{name}/"), found)?;
            } else if kind.is_file() {
                found.0.insert(name);
            } else {
                found.1.insert(name);
            }
        }
        Ok(())
    }
    let mut found = Found::default();
    walk(dir, "", &mut found)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    #[test]
    fn what_can_be_made_anew_stays_and_names_cannot_leave_the_folder() {
        for name in [
            "server/token",
            "server/agent-token",
            "server/tls/server-ca.crt",
            "server/tls/server-ca.nochain.crt",
            "server/tls/etcd/peer-ca.key",
            "server/tls/service.key",
            "server/cred/passwd",
            "server/cred/encryption-config.json",
            "node/password",
        ] {
            assert!(belongs(name), "{name}");
        }
        for name in [
            "server/tls/client-admin.key",
            "server/cred/admin.kubeconfig",
            "server/db/etcd/name",
            "server/tls/../../x-ca.key",
            "/server/token",
            "server//token",
            "token",
            "node/password/x",
        ] {
            assert!(!belongs(name), "{name}");
        }
    }

    #[test]
    fn a_server_is_read_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(dir.path()));
        assert_eq!(carried(&paths).unwrap(), []);
        let data = paths.data_dir();
        for name in ["server/token", "server/tls/etcd/server-ca.key", "server/tls/client-admin.key"]
        {
            holdfast_durable::write(&data.join(name), b"secret", 0o600).unwrap();
        }
        std::os::unix::fs::symlink(data.join("server/token"), data.join("server/agent-token"))
            .unwrap();
        let found = carried(&paths).unwrap();
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["server/tls/etcd/server-ca.key", "server/token"]);
        assert_eq!(found[0].top(&paths).place, data.join("server/tls"));
        let into = dir.path().join("copy");
        copy_carried(&found, &into).unwrap();
        assert_eq!(fs::read(into.join("server/token")).unwrap(), b"secret");
    }
}
