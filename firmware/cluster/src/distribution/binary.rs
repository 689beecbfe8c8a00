//! The distribution's program, by versions: fetched, verified, put in place.
//!
//! `STATE/distribution/VERSION-DIGITS/k3s` is a program whose SHA-256 was right when it was put
//! there; what is being fetched has another name and is carried on with after a break. The link
//! `current` leads to the folder of the version in force and is replaced in one go.
//!
//! The datastore is mostly on the same disk, and etcd ends when it is full: nothing is fetched for
//! which there is no room with a [reserve](RESERVE), and what came does not stay when room runs out.

use super::observe;
use super::upgrade::Version;
use crate::paths::ClusterPaths;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use holdfast_api::Reason;
use holdfast_api::kubernetes::DistributionArtifact;
use ring::digest::{Context, SHA256};
use std::fs::{File, Permissions};
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio::io::AsyncWriteExt;

/// k3s is about 75 MB; whatever is longer than this is something else.
const LONGEST: u64 = 1 << 30;

/// What stays free for others: etcd's next log files of 64 MB, a snapshot, the log of k3s.
pub const RESERVE: u64 = 512 << 20;

/// So much may come between two looks at what is free, for others write as well.
const LOOK_EVERY: u64 = 16 << 20;

/// What arrives from an address.
pub struct Download {
    /// The first byte that comes: what was asked for, or 0 from a server that knows no ranges
    /// (RFC 9110 §14).
    pub start: u64,
    /// How many bytes come, where that is known.
    pub length: Option<u64>,
    /// The bytes.
    pub content: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Fetches `https://`. The manager implements it with its own client.
pub trait Fetch: Send + Sync + 'static {
    /// The content behind `url`, from byte `start` on where that can be had, else all of it.
    fn fetch<'a>(
        &'a self,
        url: &'a str,
        start: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Download, String>> + Send + 'a>>;
}

/// Why a program is not had.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It cannot be fetched now.
    #[error("cannot fetch {url}: {problem}")]
    Fetch {
        /// From where.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// It is not what was promised.
    #[error("what is at {url} has SHA-256 {got}, and {want} was promised")]
    Other {
        /// From where.
        url: String,
        /// Promised.
        want: String,
        /// Found.
        got: String,
    },
    /// It is longer than any program of ours.
    #[error("what is at {0} is longer than 1 GiB")]
    Long(String),
    /// The disk has no room for it.
    #[error(
        "{} MiB are free at {}; a new Kubernetes needs {} MiB, of which {} MiB stay free",
        free >> 20, path.display(), need.div_ceil(1 << 20), reserve >> 20
    )]
    Room {
        /// Where.
        path: PathBuf,
        /// Bytes.
        free: u64,
        /// Bytes, with the reserve.
        need: u64,
        /// Bytes.
        reserve: u64,
    },
    /// A file cannot be handled.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BinaryError {
    let path = path.to_path_buf();
    move |source| BinaryError::Io { attempt, path, source }
}

impl BinaryError {
    /// The code for it.
    pub fn reason(&self) -> Reason {
        match self {
            full if full.is_full() => Reason::StateDiskFull,
            _ => Reason::KubernetesArtifactRejected,
        }
    }

    fn is_long(&self) -> bool {
        matches!(self, BinaryError::Long(_))
    }

    fn is_full(&self) -> bool {
        match self {
            BinaryError::Room { .. } => true,
            BinaryError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            BinaryError::Fetch { .. } | BinaryError::Other { .. } | BinaryError::Long(_) => false,
        }
    }
}

/// The programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
    reserve: u64,
}

impl Store {
    /// Below the root of `paths`.
    pub fn new(paths: &ClusterPaths) -> Self {
        Store { folder: paths.state_dir().join("distribution"), reserve: RESERVE }
    }

    /// Where the program of a version is, or would be.
    pub fn program(&self, version: &Version) -> PathBuf {
        self.folder.join(version.folder()).join("k3s")
    }

    /// Whether it is there, and so verified.
    pub fn has(&self, version: &Version) -> bool {
        self.program(version).is_file()
    }

    /// Fetches and verifies a program. Carries on where an earlier attempt broke off.
    ///
    /// # Errors
    /// [`BinaryError`]; nothing that could be run is left then.
    pub async fn fetch(
        &self,
        artifact: &DistributionArtifact,
        client: &dyn Fetch,
    ) -> Result<(), BinaryError> {
        let version = Version::of(artifact);
        let program = self.program(&version);
        let partial = program.with_extension("part");
        let folder = program.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        let failed = |problem: String| BinaryError::Fetch { url: artifact.url.clone(), problem };
        let have = partial.metadata().map_or(0, |metadata| metadata.len());
        // The power may have gone before a whole one was put in place. Nothing comes behind its
        // end (RFC 9110 §15.5.17), so it must not be asked for.
        if have > 0 && digest(&partial).await? == version.sha256 {
            return place(&partial, &program, folder);
        }
        let download = match artifact.url.strip_prefix("file://") {
            Some(path) => {
                // As of any address (RFC 3986 §3.5), what stands behind `#` is not asked for.
                let path = path.split('#').next().unwrap_or_default();
                local(Path::new(path), have).map_err(|error| failed(error.to_string()))?
            }
            None => client.fetch(&artifact.url, have).await.map_err(failed)?,
        };
        let received = self.receive(download, &partial, &artifact.url).await;
        if received.as_ref().is_err_and(|error| error.is_full() || error.is_long()) {
            let _gone = std::fs::remove_file(&partial);
        }
        received?;
        let got = digest(&partial).await?;
        if got != version.sha256 {
            // Nothing of it is worth carrying on with.
            let _gone = std::fs::remove_file(&partial);
            return Err(BinaryError::Other {
                url: artifact.url.clone(),
                want: version.sha256,
                got,
            });
        }
        place(&partial, &program, folder)
    }

    /// Appends what arrives to what is there, or begins anew.
    async fn receive(
        &self,
        download: Download,
        partial: &Path,
        url: &str,
    ) -> Result<(), BinaryError> {
        let mut options = tokio::fs::OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let mut file = options.open(partial).await.map_err(io_error("open", partial))?;
        let mut length = download.start;
        file.set_len(length).await.map_err(io_error("cut", partial))?;
        let end = tokio::io::AsyncSeekExt::seek(&mut file, SeekFrom::Start(length)).await;
        end.map_err(io_error("open", partial))?;
        self.room(partial, download.length.unwrap_or(0))?;
        let mut looked_at = length;
        let mut content = download.content;
        while let Some(piece) = content.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // What came so far is where the next attempt carries on.
                    let _best_effort = file.flush().await;
                    return Err(BinaryError::Fetch { url: url.into(), problem: error.to_string() });
                }
            };
            length = length.saturating_add(piece.len() as u64);
            if length > LONGEST {
                return Err(BinaryError::Long(url.into()));
            }
            file.write_all(&piece).await.map_err(io_error("write", partial))?;
            if length - looked_at >= LOOK_EVERY {
                looked_at = length;
                self.room(partial, 0)?;
            }
        }
        file.sync_all().await.map_err(io_error("sync", partial))
    }

    /// Whether so many bytes more leave the reserve; also where that cannot be found out.
    fn room(&self, path: &Path, more: u64) -> Result<(), BinaryError> {
        let need = more.saturating_add(self.reserve);
        match observe::free_bytes(path) {
            Some(free) if free < need => {
                let (path, reserve) = (path.to_path_buf(), self.reserve);
                Err(BinaryError::Room { path, free, need, reserve })
            }
            _ => Ok(()),
        }
    }

    /// Lets `current` lead to a version; to none, and the machine's own program counts.
    ///
    /// # Errors
    /// The link cannot be replaced; the old one stands then.
    pub fn point_at(&self, version: Option<&Version>) -> Result<(), BinaryError> {
        let link = self.folder.join("current");
        let target = version.map(|version| PathBuf::from(version.folder()));
        if std::fs::read_link(&link).ok() == target {
            return Ok(());
        }
        match target {
            None => std::fs::remove_file(&link).map_err(io_error("remove", &link))?,
            Some(target) => {
                let next = self.folder.join("current.next");
                let _of_an_earlier_attempt = std::fs::remove_file(&next);
                symlink(target, &next).map_err(io_error("make", &next))?;
                std::fs::rename(&next, &link).map_err(io_error("replace", &link))?;
            }
        }
        sync(&self.folder)
    }

    /// Removes every version but these.
    pub fn prune<'a>(&self, keep: impl Iterator<Item = &'a Version>) {
        let keep: Vec<String> = keep.map(Version::folder).collect();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !keep.contains(&name) {
                // What stays takes room until the next time.
                let _busy = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn local(path: &Path, start: u64) -> io::Result<Download> {
    let mut file = File::open(path)?;
    // A partial copy longer than the file is of another one.
    let whole = file.metadata()?.len();
    let start = if whole < start { 0 } else { start };
    file.seek(SeekFrom::Start(start))?;
    let content = futures_util::stream::unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; 1 << 20];
            let length = file.read(&mut piece);
            (file, length, piece)
        });
        let (file, length, mut piece) = read.await.ok()?;
        match length {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some((Ok(Bytes::from(piece)), file))
            }
            Err(error) => Some((Err(error), file)),
        }
    });
    Ok(Download { start, length: Some(whole - start), content: Box::pin(content) })
}

/// SHA-256 of a file, hex in lower case.
async fn digest(path: &Path) -> Result<String, BinaryError> {
    let at = path.to_path_buf();
    let read = tokio::task::spawn_blocking(move || {
        let mut file = File::open(&at)?;
        let (mut hash, mut piece) = (Context::new(&SHA256), vec![0; 1 << 20]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(holdfast_api::hex(hash.finish().as_ref())),
                length => hash.update(&piece[..length]),
            }
        }
    });
    let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(io_error("read", path))
}

/// What was verified becomes the program.
fn place(partial: &Path, program: &Path, folder: &Path) -> Result<(), BinaryError> {
    let executable = Permissions::from_mode(0o755);
    std::fs::set_permissions(partial, executable).map_err(io_error("unlock", partial))?;
    std::fs::rename(partial, program).map_err(io_error("place", program))?;
    sync(folder)
}

fn sync(folder: &Path) -> Result<(), BinaryError> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(io_error("sync", folder))
}

#[cfg(test)]
mod tests;
