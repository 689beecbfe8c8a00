//! What [`super::service`] needs from outside: a store of images, and a place to say how far it is.

use super::cri::Credentials;
use super::error::ImageError;
use super::model::{Descriptor, Progress};
use super::runtime::Runtime;
use crate::kubernetes::{Api, ApiError};
use crate::object::ObjectId;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// A node's images. [`Runtime`] is the real one; what its methods promise counts here.
pub trait ImageStore: Clone + Send + Sync + 'static {
    /// What the image's name stands for, if it is there.
    ///
    /// # Errors
    /// The store does not answer.
    fn present(
        &self,
        image: &str,
    ) -> impl Future<Output = Result<Option<Descriptor>, ImageError>> + Send;

    /// Fetches an image, with `credentials` where the release has some for it; a full channel loses
    /// progress and nothing else.
    ///
    /// # Errors
    /// Why it could not be had.
    fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        tell: mpsc::Sender<Progress>,
    ) -> impl Future<Output = Result<Descriptor, ImageError>> + Send;

    /// Keeps images for a release.
    ///
    /// # Errors
    /// The store does not answer, or an image is gone.
    fn pin(
        &self,
        release: &str,
        images: &BTreeMap<String, Descriptor>,
    ) -> impl Future<Output = Result<(), ImageError>> + Send;

    /// Sees to it that a pinned image can be started.
    ///
    /// # Errors
    /// The store does not answer, or the image is gone for good.
    fn ensure(
        &self,
        image: &str,
        target: &Descriptor,
    ) -> impl Future<Output = Result<bool, ImageError>> + Send;

    /// Lets go of other releases, and of other images that were begun.
    ///
    /// # Errors
    /// The store does not answer.
    fn retain(
        &self,
        keep: &BTreeSet<String>,
        pulling: &BTreeSet<String>,
    ) -> impl Future<Output = Result<Vec<String>, ImageError>> + Send;
}

impl ImageStore for Runtime {
    async fn present(&self, image: &str) -> Result<Option<Descriptor>, ImageError> {
        Runtime::present(self, image).await
    }

    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        tell: mpsc::Sender<Progress>,
    ) -> Result<Descriptor, ImageError> {
        // Without credentials those of the distribution's registries.yaml count.
        Runtime::pull(self, image, credentials, |progress| {
            let _full_or_nobody_listens = tell.try_send(progress);
        })
        .await
    }

    async fn pin(
        &self,
        release: &str,
        images: &BTreeMap<String, Descriptor>,
    ) -> Result<(), ImageError> {
        Runtime::pin(self, release, images).await
    }

    async fn ensure(&self, image: &str, target: &Descriptor) -> Result<bool, ImageError> {
        Runtime::ensure(self, image, target).await
    }

    async fn retain(
        &self,
        keep: &BTreeSet<String>,
        pulling: &BTreeSet<String>,
    ) -> Result<Vec<String>, ImageError> {
        Runtime::retain(self, keep, pulling).await
    }
}

/// Where a node says how far it is.
pub trait NodeNotes: Clone + Send + Sync + 'static {
    /// Sets annotations of the own Node; none removes one.
    ///
    /// # Errors
    /// Who refuses, or is away; it is tried again.
    fn annotate(
        &self,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// The own Node, by the kubelet's rights: it may change itself and no other
/// (the NodeRestriction admission plugin).
#[derive(Debug, Clone)]
pub struct OwnNode {
    kubeconfig: PathBuf,
    id: ObjectId,
    connected: Arc<Mutex<Option<Api>>>,
}

impl OwnNode {
    /// The node `name` with the kubelet's kubeconfig, which need not be there yet.
    pub fn new(kubeconfig: PathBuf, name: &str) -> Self {
        let id = ObjectId {
            api_version: "v1".into(),
            kind: "Node".into(),
            namespace: None,
            name: name.into(),
        };
        Self { kubeconfig, id, connected: Arc::default() }
    }

    async fn api(&self) -> Result<Api, ApiError> {
        let mut connected = self.connected.lock().await;
        match &*connected {
            Some(api) => Ok(api.clone()),
            None => {
                let api = Api::connect(&self.kubeconfig)?;
                *connected = Some(api.clone());
                Ok(api)
            }
        }
    }
}

impl NodeNotes for OwnNode {
    async fn annotate(
        &self,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), ApiError> {
        let outcome = self.api().await?.annotate(&self.id, annotations).await;
        if outcome.is_err() {
            // The distribution may have written other certificates.
            *self.connected.lock().await = None;
        }
        outcome
    }
}
