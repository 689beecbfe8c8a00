//! Images that must stay: one containerd lease per release.
//!
//! The lease holds each image's manifest; containerd's garbage collection follows the manifest's
//! labels to configuration, layers and snapshots (docs/garbage-collection.md). So the content
//! stays whatever happens to the image's name. The name itself can still be removed, by the
//! kubelet's image garbage collection or by hand, and a pod needs it: [`Runtime::ensure`] makes it
//! anew from what the lease holds, without a registry. Where the runtime knows it (containerd
//! 1.7.3 and newer), the name is also marked as pinned, which the kubelet's collection respects.
//!
//! All that is known about a pin is in the lease's labels, so nothing can be out of step with it.
//! Left out: other runtimes, and images under names that are not the release's.

use super::containerd::{self, Image, Resource};
use super::cri;
use super::error::ImageError;
use super::model::{Descriptor, Pinned};
use super::reference::Reference;
use super::runtime::Runtime;
use holdfast_api::hex;
use holdfast_api::marks::{IMAGE_LEASE_PREFIX, MANAGED_BY_LABEL};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Label of every lease of ours, and of every image that we marked as pinned.
pub(super) const MANAGED_BY: &str = MANAGED_BY_LABEL;
/// Its value.
pub(super) const OURS: &str = "holdfast";
/// Label of a pull's lease: the image's whole name.
pub(super) const PULLS: &str = "holdfast.dev/pulls";
/// Label of a release's lease: its digest.
const RELEASE: &str = "holdfast.dev/release";
/// Labels of a release's lease, followed by a number: an image and what it stands for.
const IMAGE: &str = "holdfast.dev/image.";
/// What CRI tells the kubelet as pinned (containerd internal/cri/labels).
const CRI_PINNED: &str = "io.cri-containerd.pinned";
const CRI_PINNED_VALUE: &str = "pinned";

/// How long CRI may take to see a name that was made; it learns of it by an event.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(15);

/// How much of a digest tells leases apart; their ids are read by people.
const SHORT: usize = 16;

/// An image in a lease's label.
#[derive(Serialize, Deserialize)]
struct ImageLabel {
    name: String,
    #[serde(flatten)]
    target: Descriptor,
}

/// The lease that holds what a pull fetches, also between its attempts. Hexadecimal digits alone
/// follow the prefix in a release's lease, so the two never meet.
pub(super) fn pull_lease(name: &str) -> String {
    let hash = hex(digest(&SHA256, name.as_bytes()).as_ref());
    format!("{IMAGE_LEASE_PREFIX}pull-{}", &hash[..SHORT])
}

/// The lease that holds a release's images.
fn release_lease(release: &str) -> String {
    format!("{IMAGE_LEASE_PREFIX}{}", release.chars().take(SHORT).collect::<String>())
}

/// Labels of a release's lease.
fn labels(release: &str, images: &BTreeMap<String, Descriptor>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), OURS.to_owned()),
        (RELEASE.to_owned(), release.to_owned()),
    ]);
    for (number, (name, target)) in images.iter().enumerate() {
        let label = ImageLabel { name: name.clone(), target: target.clone() };
        let label = serde_json::to_string(&label).expect("texts and a number are always JSON");
        labels.insert(format!("{IMAGE}{number}"), label);
    }
    labels
}

/// The images in a lease's labels; those of a newer version that we cannot read are left out.
fn images_of(labels: &BTreeMap<String, String>) -> BTreeMap<String, Descriptor> {
    labels
        .iter()
        .filter(|(key, _)| key.starts_with(IMAGE))
        .filter_map(|(_, value)| serde_json::from_str::<ImageLabel>(value).ok())
        .map(|label| (label.name, label.target))
        .collect()
}

impl Runtime {
    /// Keeps images for a release until [`Runtime::retain`] is called without it. `images` are names
    /// with what [`Runtime::pull`] or [`Runtime::present`] said of them. Doing it twice is ordinary.
    ///
    /// # Errors
    /// A name is none, an image is gone meanwhile ([`ImageError::Lost`]), or the runtime does not answer.
    pub async fn pin(
        &self,
        release: &str,
        images: &BTreeMap<String, Descriptor>,
    ) -> Result<(), ImageError> {
        let images = images
            .iter()
            .map(|(image, target)| Ok((Reference::parse(image)?.to_string(), target.clone())))
            .collect::<Result<BTreeMap<_, _>, ImageError>>()?;
        let lease = release_lease(release);
        let failed = || self.failed(&format!("pin images by the lease {lease}"));
        let labels = labels(release, &images);
        let old = self.leases(&format!("id=={lease}")).await?.pop();
        if old.is_some_and(|old| old.labels != labels) {
            // Leases cannot be changed. The images' own names hold the content meanwhile.
            containerd::delete_lease(&self.connection, &lease, false).await.map_err(failed())?;
        }
        let is_new =
            containerd::create_lease(&self.connection, &lease, labels).await.map_err(failed())?;
        for target in images.values() {
            let resource = Resource::content(&target.digest);
            containerd::add_resource(&self.connection, &lease, resource).await.map_err(failed())?;
        }
        for (name, target) in &images {
            // After it was added: from here on nothing can take it away.
            let size = containerd::content_size(&self.connection, &target.digest).await;
            if size.map_err(failed())?.is_none() {
                return Err(lost(name, target));
            }
            self.mark(name).await?;
        }
        for name in images.keys() {
            self.end_pull(name).await?;
        }
        if is_new {
            tracing::info!(release, images = images.len(), lease, "images are pinned");
        }
        Ok(())
    }

    /// What is pinned, by us.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn pinned(&self) -> Result<Vec<Pinned>, ImageError> {
        let mut pinned = Vec::new();
        for lease in self.leases(&ours()).await? {
            let Some(release) = lease.labels.get(RELEASE) else { continue };
            let held = containerd::list_resources(&self.connection, &lease.id)
                .await
                .map_err(self.failed("list what a lease holds"))?;
            let images = images_of(&lease.labels);
            let complete =
                images.values().all(|target| held.contains(&Resource::content(&target.digest)));
            pinned.push(Pinned { release: release.clone(), images, complete });
        }
        pinned.sort_by(|a, b| a.release.cmp(&b.release));
        Ok(pinned)
    }

    /// Lets go of every release but those in `keep`, and of what was begun of images other than
    /// `pulling`. Garbage collection has run when this returns, if anything was let go.
    /// Answers the releases that were let go.
    ///
    /// # Errors
    /// The runtime does not answer; what was not let go is by the next call.
    pub async fn retain(
        &self,
        keep: &BTreeSet<String>,
        pulling: &BTreeSet<String>,
    ) -> Result<Vec<String>, ImageError> {
        let pulling: BTreeSet<String> = pulling
            .iter()
            .filter_map(|image| Reference::parse(image).ok())
            .map(|reference| reference.to_string())
            .collect();
        let (mut gone, mut leases) = (Vec::new(), Vec::new());
        let (mut kept, mut unmarked) = (BTreeSet::new(), BTreeSet::new());
        for lease in self.leases(&ours()).await? {
            let images = images_of(&lease.labels).into_keys();
            match (lease.labels.get(RELEASE), lease.labels.get(PULLS)) {
                (Some(release), _) if keep.contains(release) => kept.extend(images),
                (Some(release), _) => {
                    unmarked.extend(images);
                    gone.push(release.clone());
                    leases.push(lease.id);
                }
                (None, Some(name)) if !pulling.contains(name) => leases.push(lease.id),
                (None, _) => {}
            }
        }
        for name in unmarked.difference(&kept) {
            self.unmark(name).await?;
        }
        for (number, lease) in leases.iter().enumerate() {
            let last = number + 1 == leases.len();
            containerd::delete_lease(&self.connection, lease, last)
                .await
                .map_err(self.failed(&format!("end the lease {lease}")))?;
            tracing::info!(lease, "a lease on images was ended");
        }
        Ok(gone)
    }

    /// Sees to it that a pinned image can be started: where its name is gone, it is made anew from
    /// what the lease holds. Whether it had to be made.
    ///
    /// # Errors
    /// [`ImageError::Lost`] when the content is gone too, [`ImageError::NotTakenUp`] when CRI does
    /// not see the name, or the runtime does not answer.
    pub async fn ensure(&self, image: &str, target: &Descriptor) -> Result<bool, ImageError> {
        if self.present(image).await?.is_some() {
            return Ok(false);
        }
        let name = Reference::parse(image)?.to_string();
        let failed = || self.failed(&format!("put {image} back"));
        let size = containerd::content_size(&self.connection, &target.digest).await;
        if size.map_err(failed())?.is_none() {
            return Err(lost(&name, target));
        }
        // Without CRI's own label: by its absence CRI sees that it has to take the image up.
        let image_record =
            Image { name: name.clone(), labels: BTreeMap::new(), target: Some(target.into()) };
        containerd::create_image(&self.connection, image_record).await.map_err(failed())?;
        let deadline = Instant::now() + TAKEN_UP_WITHIN;
        while cri::status(&self.connection, &name).await.map_err(failed())?.is_none() {
            if Instant::now() >= deadline {
                return Err(ImageError::NotTakenUp {
                    image: image.into(),
                    patience: TAKEN_UP_WITHIN,
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.mark(&name).await?;
        tracing::info!(image, digest = target.digest, "an image's name was put back");
        Ok(true)
    }

    /// Marks a name for the kubelet. Somebody else's mark stays theirs.
    async fn mark(&self, name: &str) -> Result<(), ImageError> {
        let failed = || self.failed(&format!("mark {name} as pinned"));
        let record = containerd::get_image(&self.connection, name).await.map_err(failed())?;
        if record.is_some_and(|record| !record.labels.contains_key(CRI_PINNED)) {
            let labels = [(CRI_PINNED, CRI_PINNED_VALUE), (MANAGED_BY, OURS)];
            containerd::label_image(&self.connection, name, &labels).await.map_err(failed())?;
        }
        Ok(())
    }

    async fn unmark(&self, name: &str) -> Result<(), ImageError> {
        let failed = || self.failed(&format!("take the mark from {name}"));
        let record = containerd::get_image(&self.connection, name).await.map_err(failed())?;
        if record.is_some_and(|record| record.labels.contains_key(MANAGED_BY)) {
            let labels = [(CRI_PINNED, ""), (MANAGED_BY, "")];
            containerd::label_image(&self.connection, name, &labels).await.map_err(failed())?;
        }
        Ok(())
    }

    async fn leases(&self, filter: &str) -> Result<Vec<containerd::Lease>, ImageError> {
        containerd::list_leases(&self.connection, filter.into())
            .await
            .map_err(self.failed("list leases"))
    }
}

fn ours() -> String {
    format!("labels.\"{MANAGED_BY}\"=={OURS}")
}

fn lost(image: &str, target: &Descriptor) -> ImageError {
    ImageError::Lost { image: image.into(), digest: target.digest.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What a lease says of itself is what was pinned.
        #[test]
        fn labels_are_read_back(images in proptest::collection::btree_map("[a-z]{1,5}", ("\\PC{0,9}", "[a-f0-9]{4}", 0u64..1 << 50), 0..5)) {
            let images: BTreeMap<String, Descriptor> = images
                .into_iter()
                .map(|(name, (media_type, digest, size))| (name, Descriptor { media_type, digest, size }))
                .collect();
            prop_assert_eq!(images_of(&labels("0f", &images)), images);
        }

        /// The lease of a pull is never taken for that of a release.
        #[test]
        fn leases_of_pulls_and_releases_never_meet(name in "\\PC{0,20}", release in "[0-9a-f]{0,64}") {
            prop_assert_ne!(pull_lease(&name), release_lease(&release));
        }
    }
}
