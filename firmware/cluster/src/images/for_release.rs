//! Images as the release engine asks for them ([`crate::release::target::Target`]): here, on the
//! whole site, let go of, and the data-plane rule.
//!
//! It waits for what passes within the pull itself; what keeps a pull from going on is handed back,
//! so that the engine shows it, and the pull goes on meanwhile.

use super::data_plane::may_replace;
use super::prepull::Problem;
use super::service::{PrePuller, Want};
use super::site::site_pull;
use super::store::{ImageStore, NodeNotes};
use crate::kubernetes::{Api, ApiError};
use crate::release::model::{Item, Release};
use crate::release::target::{Failure, Progress, Retry};
use holdfast_api::{Reason, chain};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often other nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The images of this node and what the site knows of those of others.
#[derive(Debug)]
pub struct ReleaseImages<S> {
    store: S,
    puller: PrePuller,
}

impl<S: ImageStore> ReleaseImages<S> {
    /// On this node's store, telling on its Node object. To be called inside of a tokio runtime.
    pub fn new(store: S, notes: impl NodeNotes) -> Self {
        Self { puller: PrePuller::start(store.clone(), notes), store }
    }

    /// Pulls and pins a release's images on this node; done when the Node object says so. Nothing
    /// is let go of.
    ///
    /// # Errors
    /// An image is not there ([`Retry::Never`]), or cannot be had now ([`Retry::Always`]); the node
    /// goes on trying for as long as nothing else is asked.
    pub async fn pull_here(
        &self,
        release: &Release,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        self.puller.want(want(release, None));
        let digest = release.reference.digest.as_str();
        let held = self.puller.held(digest, |state| {
            progress(format!("this node: {}", state.totals));
        });
        held.await.map_err(|problem| failure(&problem))
    }

    /// Waits until every node of the site that can be waited for says that it has the images.
    ///
    /// # Errors
    /// The API server is away, or a node says that it cannot have an image.
    pub async fn pulled_everywhere(
        &self,
        api: &Api,
        release: &Release,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        loop {
            let site = site_pull(&nodes(api).await?, &release.reference.digest);
            if let Some((behind, reason)) = site.refused() {
                return Err(Failure::never(
                    reason,
                    format!("{}: {}", behind.node, behind.progress),
                ));
            }
            if site.is_ready() {
                if !site.absent.is_empty() {
                    let absent = site.absent.join(", ");
                    tracing::warn!(absent, "nodes are not Ready and do not hold the images");
                }
                return Ok(());
            }
            let behind = site.behind.iter().map(|one| format!("{}: {}", one.node, one.progress));
            progress(behind.collect::<Vec<_>>().join(", "));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps this release's images and lets go of all others, once everything of it is here.
    ///
    /// # Errors
    /// The container runtime is away, when nothing is to be kept.
    pub async fn keep_only(&self, release: Option<&Release>) -> Result<(), Failure> {
        match release {
            Some(release) => {
                self.puller.want(want(release, Some(BTreeSet::new())));
                Ok(())
            }
            None => {
                self.puller.rest();
                let nothing = BTreeSet::new();
                let gone = self.store.retain(&nothing, &nothing).await;
                gone.map(|_| ()).map_err(|error| Failure::always(error.reason(), chain(&error)))
            }
        }
    }

    /// Whether this object of the release may be applied now. Everything may but what carries the
    /// site's traffic: that needs its images on every node, on this one looked at just now.
    ///
    /// # Errors
    /// Why not, or the API server or the container runtime is away.
    pub async fn may_apply(
        &self,
        api: &Api,
        release: &Release,
        item: &Item,
    ) -> Result<(), Failure> {
        if !item.data_plane {
            return Ok(());
        }
        let digest = &release.reference.digest;
        may_replace(&item.object, &nodes(api).await?, digest).map_err(|blocked| Failure {
            reason: blocked.reason(),
            message: blocked.to_string(),
            retry: if blocked.retryable() { Retry::Always } else { Retry::Never },
        })?;
        for image in crate::release::images::images([&item.object]) {
            let present = self.store.present(&image).await;
            match present.map_err(|error| Failure::always(error.reason(), chain(&error)))? {
                Some(_) => {}
                None => {
                    let message = format!("{}: {image} is not on this node", item.object.id);
                    return Err(Failure::always(Reason::ReleasePrePull, message));
                }
            }
        }
        Ok(())
    }
}

fn want(release: &Release, keep: Option<BTreeSet<String>>) -> Want {
    Want {
        release: release.reference.digest.clone(),
        images: release.images.iter().cloned().collect(),
        keep,
    }
}

async fn nodes(api: &Api) -> Result<Vec<Value>, Failure> {
    api.list("v1", "Node", None, "", "").await.map_err(|error: ApiError| Failure {
        reason: error.reason(),
        message: chain(&error),
        retry: if error.retryable() { Retry::Always } else { Retry::Never },
    })
}

fn failure(problem: &Problem) -> Failure {
    let retry = if problem.retryable { Retry::Always } else { Retry::Never };
    Failure { reason: problem.reason, message: problem.message.clone(), retry }
}
