//! S3-compatible storage for portable snapshots.
//!
//! Objects are `<folder>/<site>/<node>/<snapshot>.tar.gz.age`. They are written once and never
//! changed: a small one only if it is not there yet (`If-None-Match: *`), a large one in parts, so
//! that no snapshot is ever held in memory whole. Requests are repeated a bounded number of times;
//! after that the caller waits and tries again. Requests go to `<endpoint>/<bucket>/<key>`, which
//! every storage of this kind understands. Left out: temporary credentials, proxies.

mod http;

use self::http::Connector;
use super::bundle::ENDING;
use super::error::{SnapshotError, io_error};
use super::files;
use super::model::{Remote, Stamp};
use crate::https;
use futures_util::{StreamExt, TryStreamExt};
use holdfast_api::kubernetes::S3Target;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, Error, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig,
};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Up to here an object is written in one request; S3 wants parts of 5 MiB at least.
const PART: usize = 8 << 20;
/// One request, from its connection to the end of its answer: a part over a slow uplink.
const REQUEST: Duration = Duration::from_secs(300);
/// A connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Whoever asks for a snapshot waits for a storage that does not answer; so not for long.
const RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(10),
        base: 2.0,
    },
    max_retries: 4,
    retry_timeout: Duration::from_secs(30),
};

/// How a storage is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manners {
    /// Authorities that are believed: a file of certificates in PEM.
    pub authorities: PathBuf,
    /// Answers that stand still for so long are broken off.
    pub stands_still: Duration,
}

impl Default for Manners {
    /// The machine's authorities.
    fn default() -> Self {
        let authorities = https::AUTHORITIES.into();
        Manners { authorities, stands_still: https::STANDS_STILL }
    }
}

/// The storage of a site, as one node sees it.
#[derive(Debug)]
pub struct Store {
    s3: AmazonS3,
    site: Key,
    node: Key,
}

impl Store {
    /// At this target. No request is made.
    ///
    /// # Errors
    /// [`SnapshotError::StorageSettings`]: address, bucket or keys cannot be used.
    pub fn new(target: &S3Target, site: &str, node: &str) -> Result<Self, SnapshotError> {
        Self::with(&Manners::default(), target, site, node)
    }

    /// The same, spoken to in another way.
    ///
    /// # Errors
    /// As [`Store::new`].
    pub fn with(
        manners: &Manners,
        target: &S3Target,
        site: &str,
        node: &str,
    ) -> Result<Self, SnapshotError> {
        let wrong = |why: String| SnapshotError::StorageSettings { why };
        for (what, value) in [
            ("an address", &target.endpoint),
            ("a bucket", &target.bucket),
            ("a key id", &target.access_key_id),
            ("a secret key", &target.secret_access_key.0),
        ] {
            if value.is_empty() {
                return Err(wrong(format!("it has not {what}")));
            }
        }
        let region = if target.region.is_empty() { "us-east-1" } else { &target.region };
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(REQUEST)
            .with_connect_timeout(CONNECT);
        let Manners { authorities, stands_still } = manners;
        let connector = Connector::new(&target.endpoint, authorities, *stands_still);
        let connector = connector.map_err(wrong)?;
        let s3 = AmazonS3Builder::new()
            .with_endpoint(target.endpoint.trim_end_matches('/'))
            .with_virtual_hosted_style_request(false)
            .with_bucket_name(&target.bucket)
            .with_region(region)
            .with_access_key_id(&target.access_key_id)
            .with_secret_access_key(&target.secret_access_key.0)
            // One request per object: not every storage knows the other way.
            .with_disable_bulk_delete(true)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RETRIES)
            .with_client_options(options)
            .with_http_connector(connector)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let site =
            Key::from_iter(target.folder.split('/').filter(|part| !part.is_empty()).chain([site]));
        Ok(Store { s3, node: site.clone().join(node), site })
    }

    /// This node's snapshots, in any order.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub async fn list(&self) -> Result<Vec<Remote>, SnapshotError> {
        let objects = self.objects(&self.node).await?;
        let ours = objects.iter().filter_map(|object| remote(&self.node, 1, object));
        Ok(ours.map(|(_, one)| one).collect())
    }

    /// The site's snapshots of all nodes, as `<node>/<name>` with what is known of each, newest
    /// first: what a new machine can be restored from.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub async fn list_site(&self) -> Result<Vec<(String, Remote)>, SnapshotError> {
        let objects = self.objects(&self.site).await?;
        let mut found: Vec<_> =
            objects.iter().filter_map(|object| remote(&self.site, 2, object)).collect();
        found.sort_by_key(|(_, one)| std::cmp::Reverse((one.stored, one.stamp)));
        Ok(found)
    }

    async fn objects(&self, below: &Key) -> Result<Vec<ObjectMeta>, SnapshotError> {
        self.s3
            .list(Some(below))
            .try_collect()
            .await
            .map_err(|source| refused("list", below, source))
    }

    /// Stores a portable snapshot of this node. One that is there already is left as it is.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`], or the file cannot be read.
    pub async fn put(&self, name: &str, file: &Path) -> Result<(), SnapshotError> {
        let key = self.node.clone().join(format!("{name}{ENDING}"));
        let mut reader = File::open(file).await.map_err(io_error("read", file))?;
        let length = reader.metadata().await.map_err(io_error("read", file))?.len();
        let result = if length <= PART as u64 {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).await.map_err(io_error("read", file))?;
            let options = PutOptions::from(PutMode::Create);
            self.s3.put_opts(&key, PutPayload::from(content), options).await.map(drop)
        } else {
            match self.s3.head(&key).await {
                Ok(_) => Ok(()),
                Err(Error::NotFound { .. }) => return self.put_parts(&key, reader, file).await,
                Err(error) => Err(error),
            }
        };
        match result {
            Ok(()) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(source) => Err(refused("store", &key, source)),
        }
    }

    /// One part after the other, so that one is in memory at a time.
    async fn put_parts(
        &self,
        key: &Key,
        mut reader: File,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        let failed = |source| refused("store", key, source);
        let mut parts = Parts(Some(self.s3.put_multipart(key).await.map_err(failed)?));
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = (&mut reader).take(PART as u64).read_to_end(&mut part).await;
            let is_end = read.map_err(io_error("read", file))? == 0;
            let Some(upload) = &mut parts.0 else { return Ok(()) };
            if is_end {
                upload.complete().await.map_err(failed)?;
                parts.0 = None;
            } else {
                upload.put_part(PutPayload::from(part)).await.map_err(failed)?;
            }
        }
    }

    /// Fetches a snapshot of the site, `<node>/<name>` with its ending, into a file that is not
    /// there yet, mode 0600.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`], no room, or the file cannot be written.
    pub async fn get(&self, object: &str, file: &Path) -> Result<(), SnapshotError> {
        let key = object.split('/').fold(self.site.clone(), |key, part| key.join(part));
        let failed = |source| refused("fetch", &key, source);
        let found = self.s3.get(&key).await.map_err(failed)?;
        files::make_parent(file)?;
        files::room(file, found.meta.size)?;
        files::remove(file)?;
        let mut writer = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .await
            .map_err(io_error("make", file))?;
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(failed)?;
            writer.write_all(&chunk).await.map_err(io_error("write", file))?;
        }
        writer.flush().await.map_err(io_error("write", file))
    }

    /// Removes a snapshot of this node, by its object's name; one that is gone is fine.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub async fn delete(&self, name: &str) -> Result<(), SnapshotError> {
        let key = self.node.clone().join(name);
        match self.s3.delete(&key).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(refused("delete", &key, source)),
        }
    }
}

/// An upload that is not whole. Parts that stay cost money, so they are removed wherever it ends,
/// also when whoever waits for it goes; storages clear them away by rule, too.
struct Parts(Option<Box<dyn MultipartUpload>>);

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::debug!(%error, "parts of an upload stay in the storage");
            }
        });
    }
}

fn refused(attempt: &'static str, key: &Key, source: Error) -> SnapshotError {
    SnapshotError::Storage { attempt, object: key.to_string(), source: Box::new(source) }
}

/// One of ours, and its name below `folder`, so many folders deep; none for anything else that lies
/// there.
fn remote(folder: &Key, depth: usize, object: &ObjectMeta) -> Option<(String, Remote)> {
    let below: Vec<_> = object.location.prefix_match(folder)?.collect();
    let name = below.last()?.as_ref().to_owned();
    let is_ours = below.len() == depth && name.ends_with(ENDING);
    let stamp = Stamp::of_name(&name).filter(|_| is_ours)?;
    let path: Vec<&str> = below.iter().map(AsRef::as_ref).collect();
    let stored = Timestamp::from_second(object.last_modified.timestamp()).unwrap_or_default();
    Some((path.join("/"), Remote { stamp, stored, bytes: object.size, name }))
}
