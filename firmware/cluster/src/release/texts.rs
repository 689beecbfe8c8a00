//! The text of the release in force, kept on the site itself: a node that joined later may have to
//! put it back, while the controller is away. It lies in Secrets, since manifests may hold some;
//! a Secret takes 1 MiB (kubernetes.io, "Secrets", "Restriction on Secret data size"), so a text is
//! cut into parts. They are written before those of other releases are removed, and what was read
//! is whole when it has its digest; so nothing is lost by a death in between.

use super::journal::Kept;
use crate::kubernetes::{Api, ApiError, Mode, Propagation};
use crate::object::{Object, ObjectId, Origin};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::marks::{RELEASE_TEXT_LABEL, SYSTEM_NAMESPACE};
use serde_json::{Value, json};

/// Bytes in one Secret.
const PART: usize = 768 << 10;
/// Digits of a digest in a name and a label.
const DIGITS: usize = 32;
const KEY: &str = "text";

fn short(digest: &str) -> &str {
    digest.get(..DIGITS).unwrap_or(digest)
}

fn id(name: String) -> ObjectId {
    ObjectId {
        api_version: "v1".into(),
        kind: "Secret".into(),
        namespace: Some(SYSTEM_NAMESPACE.into()),
        name,
    }
}

/// The Secrets that hold `text`, in order.
fn parts(text: &Kept) -> Vec<Object> {
    let digest = short(&text.release.digest);
    let bytes = serde_json::to_vec(text).expect("texts and numbers have a JSON form");
    let part = |(n, bytes): (usize, &[u8])| {
        let id = id(format!("holdfast-release-{digest}-{n:02}"));
        let value = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": id.name,
                "namespace": SYSTEM_NAMESPACE,
                "labels": {RELEASE_TEXT_LABEL: digest},
            },
            "data": {KEY: STANDARD.encode(bytes)},
        });
        Object { id, origin: Origin::default(), value }
    };
    bytes.chunks(PART).enumerate().map(part).collect()
}

/// What the Secrets say together; none when they are not all there.
fn join(mut secrets: Vec<Value>) -> Option<Kept> {
    let name = |secret: &Value| secret["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    secrets.sort_by_key(name);
    let mut bytes = Vec::new();
    for secret in &secrets {
        bytes.extend(STANDARD.decode(secret["data"][KEY].as_str()?).ok()?);
    }
    serde_json::from_slice(&bytes).ok()
}

/// Has the site keep this text, and no other.
///
/// # Errors
/// The API server refuses, or is away.
pub(super) async fn keep(api: &Api, text: &Kept) -> Result<(), ApiError> {
    if find(api, &text.release.digest).await?.as_ref() != Some(text) {
        for part in parts(text) {
            api.put(&part, Mode { force: true, ..Mode::default() }).await?;
        }
    }
    let digest = short(&text.release.digest);
    let others = format!("{RELEASE_TEXT_LABEL},{RELEASE_TEXT_LABEL}!={digest}");
    for secret in api.list("v1", "Secret", Some(SYSTEM_NAMESPACE), &others, "").await? {
        let Some(name) = secret["metadata"]["name"].as_str() else { continue };
        api.delete(&id(name.to_owned()), None, Propagation::Background).await?;
    }
    Ok(())
}

/// The text that is kept under this digest.
///
/// # Errors
/// The API server is away.
pub(super) async fn find(api: &Api, digest: &str) -> Result<Option<Kept>, ApiError> {
    let ours = format!("{RELEASE_TEXT_LABEL}={}", short(digest));
    Ok(join(api.list("v1", "Secret", Some(SYSTEM_NAMESPACE), &ours, "").await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::ReleaseRef;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn kept(text: String) -> Kept {
        let release = ReleaseRef { digest: "0123456789abcdef".repeat(4), ..ReleaseRef::default() };
        let manifests = BTreeMap::from([("a.yaml".to_owned(), text)]);
        Kept { release, manifests, timeout_secs: 7 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// In whatever order they are listed.
        #[test]
        fn what_is_cut_is_joined(size in 0..3 * PART, seed in any::<prop::sample::Index>()) {
            let text = kept("é".repeat(size / 2));
            let parts = parts(&text);
            let mut secrets: Vec<Value> = parts.into_iter().map(|part| part.value).collect();
            let middle = seed.index(secrets.len());
            secrets.rotate_left(middle);
            prop_assert_eq!(join(secrets.clone()), Some(text.clone()));
            secrets.pop();
            // Or something that has another digest.
            prop_assert_ne!(join(secrets), Some(text));
        }
    }

    #[test]
    fn every_part_fits_into_a_secret_and_has_a_valid_name_and_label() {
        let parts = parts(&kept("x".repeat(5 << 20)));
        assert_eq!(parts.len(), 7);
        for part in parts {
            assert!(part.id.name.len() <= 253);
            let data = part.value["data"][KEY].as_str().unwrap();
            assert!(STANDARD.decode(data).unwrap().len() <= 1 << 20);
            let label = part.value["metadata"]["labels"][RELEASE_TEXT_LABEL].as_str().unwrap();
            assert!(label.len() <= 63, "kubernetes.io, Labels and Selectors");
        }
    }
}
