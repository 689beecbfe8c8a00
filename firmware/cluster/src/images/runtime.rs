//! The container runtime of this node: is an image there, fetch it, keep it ([`super::pin`]).
//!
//! A pull goes through CRI, so that mirrors and credentials of the distribution's
//! `registries.yaml` count, and an image is unpacked as the kubelet would have it. It runs under a
//! lease of ours: CRI passes the caller's `containerd-lease` on to containerd's `client.Pull`,
//! which makes a lease of its own only when there is none (client/pull.go, lease.go), and deletes
//! that one when the pull ends. Begun layers belong to the lease (metadata/content.go, Writer), so
//! only under one that outlives a failed pull does the next attempt carry on in the middle.
//!
//! It fails by [`ImageError`]. A pull that stands still is ended: a registry that was cut off says
//! nothing, and containerd before 1.7 waits for it for as long as the kernel does. A layer that is
//! being unpacked stands still as well, and begins anew when the pull is ended: patience grows (`stall`).

use super::channel::Connection;
use super::containerd::{self, Resource, bytes};
use super::cri::{self, Credentials};
use super::error::{self, ImageError};
use super::manifest::{MANIFEST_MAX_BYTES, Parts, digest_of_ingest};
use super::model::{Descriptor, Progress};
use super::pin;
use super::reference::Reference;
use super::stall::Stalls;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tonic::Status;
use tonic::metadata::MetadataValue;

/// How often a pull tells how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a pull may stand still while bytes are missing.
const STALL_AFTER: Duration = Duration::from_secs(300);

/// How long one look may take. Meanwhile nobody hears that the pull has ended.
const LOOK_WITHIN: Duration = Duration::from_secs(20);

/// A node's container runtime; clones share the connection.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(super) connection: Connection,
    stalls: Stalls,
}

impl Runtime {
    /// The runtime that listens at `socket`. Whether it does shows with the first question.
    /// To be called inside of a tokio runtime.
    pub fn connect(socket: &Path) -> Self {
        Self { connection: Connection::lazy(socket), stalls: Stalls::new(STALL_AFTER) }
    }

    /// With another patience for pulls that stand still.
    #[must_use]
    pub fn stall_after(mut self, patience: Duration) -> Self {
        self.stalls = Stalls::new(patience);
        self
    }

    /// containerd's version, such as `1.6.20~ds1`.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn version(&self) -> Result<String, ImageError> {
        containerd::version(&self.connection).await.map_err(self.failed("ask for the version"))
    }

    /// What the image's name stands for, when the kubelet could start it without a registry.
    ///
    /// # Errors
    /// It is not the name of an image, or the runtime does not answer.
    pub async fn present(&self, image: &str) -> Result<Option<Descriptor>, ImageError> {
        let name = Reference::parse(image)?.to_string();
        let failed = || self.failed(&format!("look for {image}"));
        // The record alone may be of a pull that was interrupted; CRI tells of whole images only.
        if cri::status(&self.connection, &name).await.map_err(failed())?.is_none() {
            return Ok(None);
        }
        let record = containerd::get_image(&self.connection, &name).await.map_err(failed())?;
        Ok(record.and_then(|record| record.target).map(Descriptor::from))
    }

    /// Fetches an image, telling how far it is, and answers what its name stands for. The image
    /// stays until it is pinned or [`Runtime::retain`] lets go of it. An attempt that failed, or was
    /// dropped, is carried on by the next one.
    ///
    /// # Errors
    /// [`ImageError`] tells whether the registry, the disk or the runtime was the cause.
    pub async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        mut tell: impl FnMut(Progress) + Send,
    ) -> Result<Descriptor, ImageError> {
        let name = Reference::parse(image)?.to_string();
        let lease = pin::pull_lease(&name);
        let header = MetadataValue::try_from(&lease).map_err(|_| ImageError::Name {
            image: image.into(),
            why: "it cannot be written in a header",
        })?;
        let labels = BTreeMap::from([
            (pin::MANAGED_BY.to_owned(), pin::OURS.to_owned()),
            (pin::PULLS.to_owned(), name.clone()),
        ]);
        containerd::create_lease(&self.connection, &lease, labels)
            .await
            .map_err(self.failed(&format!("make the lease {lease}")))?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        let mut moved = Instant::now();
        let pull = cri::pull(&self.connection, &name, credentials, header);
        tokio::pin!(pull);
        let outcome = loop {
            tokio::select! {
                outcome = &mut pull => break outcome,
                // Cancelled between two looks only; a look that is cut off changes nothing.
                _ = looks.tick() => {
                    // What cannot be seen does not stop the pull.
                    let look = watch.look(&self.connection, &lease);
                    if let Ok(Ok(true)) = timeout(LOOK_WITHIN, look).await {
                        moved = Instant::now();
                        let (done_bytes, total_bytes) = watch.bytes();
                        tell(Progress { image: image.into(), done_bytes, total_bytes });
                    }
                    let patience = self.stalls.patience(&name, watch.bytes());
                    if moved.elapsed() >= patience {
                        self.stalls.note(&name, watch.bytes());
                        return Err(ImageError::Stalled { image: image.into(), patience });
                    }
                }
            }
        };
        if let Err(status) = outcome {
            let error = error::of_pull(image, self.connection.socket().to_path_buf(), status);
            if !error.retryable() {
                // Nobody will carry it on.
                self.end_pull(&name).await?;
            }
            return Err(error);
        }
        let _last = timeout(LOOK_WITHIN, watch.look(&self.connection, &lease)).await;
        let (_, total_bytes) = watch.bytes();
        tell(Progress { image: image.into(), done_bytes: total_bytes, total_bytes });
        self.present(image).await?.ok_or_else(|| ImageError::Registry {
            image: image.into(),
            said: "it was pulled and removed again at once".into(),
        })
    }

    /// Ends the lease of a pull, and with it what was fetched and nothing else refers to.
    pub(super) async fn end_pull(&self, name: &str) -> Result<(), ImageError> {
        let lease = pin::pull_lease(name);
        self.stalls.forget(name);
        containerd::delete_lease(&self.connection, &lease, false)
            .await
            .map_err(self.failed(&format!("end the lease {lease}")))
    }

    /// The error of a question to the runtime.
    pub(super) fn failed(&self, attempt: &str) -> impl FnOnce(Status) -> ImageError + use<> {
        let (attempt, socket) = (attempt.to_owned(), self.connection.socket().to_path_buf());
        move |source| ImageError::Runtime { attempt, socket, source: Box::new(source) }
    }
}

/// What has been seen of a pull.
#[derive(Debug, Default)]
struct Watch {
    parts: Parts,
    examined: BTreeSet<String>,
    held: Vec<Resource>,
    /// Content that is here whole.
    whole: BTreeSet<String>,
    begun: BTreeMap<String, u64>,
}

impl Watch {
    /// Looks once more; whether anything moved. Other pulls' layers are told apart by the lease.
    async fn look(&mut self, connection: &Connection, lease: &str) -> Result<bool, Status> {
        let held = containerd::list_resources(connection, lease).await?;
        for content in held.iter().filter(|resource| resource.kind == "content") {
            if !self.examined.contains(&content.id) {
                match containerd::content_size(connection, &content.id).await? {
                    Some(size) if size <= MANIFEST_MAX_BYTES => {
                        self.parts.add(&containerd::read_content(connection, &content.id).await?);
                    }
                    _ => {}
                }
                self.examined.insert(content.id.clone());
            }
        }
        let begun = containerd::ingests(connection)
            .await?
            .into_iter()
            .filter_map(|ingest| {
                let digest = digest_of_ingest(&ingest.reference)?.to_owned();
                Some((digest, bytes(ingest.offset)))
            })
            .collect();
        let moved = (&held, &begun) != (&self.held, &self.begun);
        let content = held.iter().filter(|resource| resource.kind == "content");
        self.whole = content.map(|resource| resource.id.clone()).collect();
        (self.held, self.begun) = (held, begun);
        Ok(moved)
    }

    fn bytes(&self) -> (u64, u64) {
        self.parts.bytes(|digest| self.whole.contains(digest), &self.begun)
    }
}

impl From<containerd::Descriptor> for Descriptor {
    fn from(wire: containerd::Descriptor) -> Self {
        Descriptor { media_type: wire.media_type, digest: wire.digest, size: bytes(wire.size) }
    }
}

impl From<&Descriptor> for containerd::Descriptor {
    fn from(model: &Descriptor) -> Self {
        containerd::Descriptor {
            media_type: model.media_type.clone(),
            digest: model.digest.clone(),
            size: i64::try_from(model.size).unwrap_or(i64::MAX),
        }
    }
}
