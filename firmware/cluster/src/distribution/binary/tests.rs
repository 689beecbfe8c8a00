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
        if from > 0 && from >= self.content.len() {
            let refusal = Err("it answers 416 Range Not Satisfiable".into());
            return Box::pin(std::future::ready(refusal));
        }
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
        let length = Some((self.content.len() - from) as u64);
        Box::pin(std::future::ready(Ok(Download { start, length, content })))
    }
}

fn store(folder: &Path) -> Store {
    Store::new(&ClusterPaths::new(&Root::new(folder)))
}

#[tokio::test]
async fn a_broken_download_is_carried_on_with() {
    for has_ranges in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (store, server) = (store(folder.path()), Server::new(&[50_000, 90_000], has_ranges));
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

/// The power went between the last byte and the rename.
#[tokio::test]
async fn a_whole_download_that_was_not_put_in_place_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, server) = (store(folder.path()), Server::new(&[], true));
    let (artifact, version) = (server.artifact(), Version::of(&server.artifact()));
    let partial = store.program(&version).with_extension("part");
    holdfast_durable::write(&partial, &server.content, 0o600).unwrap();
    store.fetch(&artifact, &server).await.unwrap();
    assert_eq!(std::fs::read(store.program(&version)).unwrap(), server.content);
    assert_eq!(*server.asked.lock().unwrap(), [] as [u64; 0], "it was had already");
}

/// etcd is on the same disk.
#[tokio::test]
async fn nothing_is_fetched_without_room_and_nothing_stays_when_room_runs_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, server) = (store(folder.path()), Server::new(&[50_000], true));
    let (artifact, version) = (server.artifact(), Version::of(&server.artifact()));
    let partial = store.program(&version).with_extension("part");
    store.fetch(&artifact, &server).await.unwrap_err();
    assert!(partial.exists(), "there is room: it is carried on with");
    store.reserve = u64::MAX;
    let error = store.fetch(&artifact, &server).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StateDiskFull, "{error}");
    assert!(!partial.exists() && !store.has(&version));
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
    let url = format!("file://{}#again", source.display());
    let mut versions = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let artifact =
            DistributionArtifact { version: name.into(), url: url.clone(), ..server.artifact() };
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
    let artifact = DistributionArtifact { url: "file:///nowhere/k3s".into(), ..server.artifact() };
    let error = store(folder.path()).fetch(&artifact, &server).await.unwrap_err();
    assert!(error.to_string().contains("file:///nowhere/k3s"), "{error}");
}
