//! The distribution's program, by versions: fetched, verified, put in place.
//!
//! `STATE/distribution/VERSION-DIGITS/k3s` is a program whose SHA-256 was right when it was put
//! there; what is being fetched has another name and is carried on with after a break. The link
//! `current` leads to the folder of the version in force and is replaced in one go.

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

/// What arrives from an address.
pub struct Download {
    /// The first byte that comes: what was asked for, or 0 from a server that knows no ranges
    /// (RFC 9110 §14).
    pub start: u64,
    /// The bytes.
    pub content: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Fetches `https://`. The manager implements it with its own client.
pub trait Fetch: Send + Sync + 'static {
    /// The content behind `url`, from byte `start` on where that can be had.
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
            BinaryError::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Reason::StateDiskFull
            }
            _ => Reason::KubernetesArtifactRejected,
        }
    }
}

/// The programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Below the root of `paths`.
    pub fn new(paths: &ClusterPaths) -> Self {
        Store { folder: paths.state_dir().join("distribution") }
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
        let download = match artifact.url.strip_prefix("file://") {
            Some(path) => {
                local(Path::new(path), have).map_err(|error| failed(error.to_string()))?
            }
            None => client.fetch(&artifact.url, have).await.map_err(failed)?,
        };
        receive(download, &partial, &artifact.url).await?;
        let (at, want, url) = (partial.clone(), version.sha256.clone(), artifact.url.clone());
        let verified = tokio::task::spawn_blocking(move || verify(&at, &want, url)).await;
        verified.map_err(|error| failed(error.to_string()))??;
        let executable = Permissions::from_mode(0o755);
        std::fs::set_permissions(&partial, executable).map_err(io_error("unlock", &partial))?;
        std::fs::rename(&partial, &program).map_err(io_error("place", &program))?;
        sync(folder)
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
    let start = if file.metadata()?.len() < start { 0 } else { start };
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
    Ok(Download { start, content: Box::pin(content) })
}

/// Appends what arrives to what is there, or begins anew.
async fn receive(download: Download, partial: &Path, url: &str) -> Result<(), BinaryError> {
    let mut options = tokio::fs::OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let mut file = options.open(partial).await.map_err(io_error("open", partial))?;
    let mut length = download.start;
    file.set_len(length).await.map_err(io_error("cut", partial))?;
    let end = tokio::io::AsyncSeekExt::seek(&mut file, SeekFrom::Start(length)).await;
    end.map_err(io_error("open", partial))?;
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
            let _gone = std::fs::remove_file(partial);
            return Err(BinaryError::Long(url.into()));
        }
        file.write_all(&piece).await.map_err(io_error("write", partial))?;
    }
    file.sync_all().await.map_err(io_error("sync", partial))
}

fn verify(partial: &Path, want: &str, url: String) -> Result<(), BinaryError> {
    let mut file = File::open(partial).map_err(io_error("open", partial))?;
    let (mut hash, mut piece) = (Context::new(&SHA256), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(io_error("read", partial))? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    let got = holdfast_api::hex(hash.finish().as_ref());
    if got != want {
        // Nothing of it is worth carrying on with.
        let _gone = std::fs::remove_file(partial);
        return Err(BinaryError::Other { url, want: want.into(), got });
    }
    Ok(())
}

fn sync(folder: &Path) -> Result<(), BinaryError> {
    File::open(folder).and_then(|it| it.sync_all()).map_err(io_error("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;
    use std::sync::Mutex;

    /// A server that breaks off after so many bytes.
    struct Server {
        content: Vec<u8>,
        pieces: Mutex<Vec<usize>>,
        has_ranges: bool,
        asked: Mutex<Vec<u64>>,
    }

    impl Server {
        fn new(pieces: &[usize], has_ranges: bool) -> Self {
            let content = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
            Server { content, pieces: pieces.to_vec().into(), has_ranges, asked: Vec::new().into() }
        }

        fn artifact(&self) -> DistributionArtifact {
            let digest = ring::digest::digest(&SHA256, &self.content);
            DistributionArtifact {
                version: "v1.33.1+k3s1".into(),
                url: "https://artifacts.example/k3s".into(),
                sha256: digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect(),
            }
        }
    }

    impl Fetch for Server {
        fn fetch<'a>(
            &'a self,
            _url: &'a str,
            start: u64,
        ) -> Pin<Box<dyn Future<Output = Result<Download, String>> + Send + 'a>> {
            self.asked.lock().unwrap().push(start);
            let start = if self.has_ranges { start } else { 0 };
            let from = usize::try_from(start).unwrap();
            let length = self.pieces.lock().unwrap().pop();
            let end = length.map_or(self.content.len(), |length| from + length);
            let mut pieces: Vec<io::Result<Bytes>> = self.content[from..end]
                .chunks(7777)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            if length.is_some() {
                pieces.push(Err(io::Error::other("connection reset")));
            }
            let content = Box::pin(futures_util::stream::iter(pieces));
            Box::pin(std::future::ready(Ok(Download { start, content })))
        }
    }

    fn store(folder: &Path) -> Store {
        Store::new(&ClusterPaths::new(&Root::new(folder)))
    }

    #[tokio::test]
    async fn a_broken_download_is_carried_on_with() {
        for has_ranges in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (store, server) =
                (store(folder.path()), Server::new(&[50_000, 90_000], has_ranges));
            let (artifact, version) = (server.artifact(), Version::of(&server.artifact()));
            for _ in 0..2 {
                let error = store.fetch(&artifact, &server).await.unwrap_err();
                assert!(matches!(error, BinaryError::Fetch { .. }), "{error}");
                assert!(!store.has(&version));
            }
            store.fetch(&artifact, &server).await.unwrap();
            assert_eq!(std::fs::read(store.program(&version)).unwrap(), server.content);
            let mode = store.program(&version).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            let asked = server.asked.lock().unwrap().clone();
            let second = if has_ranges { 140_000 } else { 50_000 };
            assert_eq!(asked, [0, 90_000, second]);
        }
    }

    #[tokio::test]
    async fn another_content_is_refused_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (store, server) = (store(folder.path()), Server::new(&[], true));
        let mut artifact = server.artifact();
        artifact.sha256 = "0".repeat(64);
        for _ in 0..2 {
            let error = store.fetch(&artifact, &server).await.unwrap_err();
            assert!(matches!(error, BinaryError::Other { .. }), "{error}");
            assert_eq!(error.reason(), Reason::KubernetesArtifactRejected);
        }
        assert_eq!(*server.asked.lock().unwrap(), [0, 0]);
    }

    #[tokio::test]
    async fn a_file_does_as_well_and_versions_are_switched_and_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let (store, server) = (store(folder.path()), Server::new(&[], true));
        let source = folder.path().join("source");
        holdfast_durable::write(&source, &server.content, 0o644).unwrap();
        let url = format!("file://{}", source.display());
        let mut versions = Vec::new();
        for name in ["v1", "v2", "v3"] {
            let artifact = DistributionArtifact {
                version: name.into(),
                url: url.clone(),
                ..server.artifact()
            };
            store.fetch(&artifact, &server).await.unwrap();
            versions.push(Version::of(&artifact));
        }
        let current = folder.path().join("var/lib/holdfast/cluster/distribution/current/k3s");
        for version in [Some(&versions[0]), Some(&versions[2]), Some(&versions[2]), None, None] {
            store.point_at(version).unwrap();
            assert_eq!(current.exists(), version.is_some());
        }
        store.point_at(Some(&versions[1])).unwrap();
        assert_eq!(
            current.canonicalize().unwrap(),
            store.program(&versions[1]).canonicalize().unwrap()
        );
        store.prune(versions[1..].iter());
        let there: Vec<bool> = versions.iter().map(|version| store.has(version)).collect();
        assert_eq!(there, [false, true, true]);
        assert!(current.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(&[], true);
        let artifact =
            DistributionArtifact { url: "file:///nowhere/k3s".into(), ..server.artifact() };
        let error = store(folder.path()).fetch(&artifact, &server).await.unwrap_err();
        assert!(error.to_string().contains("file:///nowhere/k3s"), "{error}");
    }
}
